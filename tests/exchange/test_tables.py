"""Metadata tables: what files and tables in memory give."""

from __future__ import annotations

import csv
import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.exchange.tables import read_table
from latentdb.ingest.table import Table
from latentdb.store.columns import COLUMN_TYPES
from tests.store.test_columns import VALUES, items


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(folder: Path, name: str, text: str | bytes) -> Table:
    return read_table(written(folder / name, text))


def read_items(folder: Path, name: str, text: str | bytes) -> dict[str, list[Any]]:
    return {key: items(column) for key, column in read(folder, name, text).columns.items()}


def row(table: Table, name: str) -> dict[str, Any]:
    return table.row(list(table.names).index(name))


def test_a_csv_file_is_read_by_its_header(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        "m.csv",
        "id,label,year,score,good\nx/a.png,cat,1999,0.5,true\nb,,-3,,FALSE\nc,'q',,2,\n",
    )
    assert table.types == {"label": "str", "year": "int", "score": "float", "good": "bool"}
    assert table.names == ["x/a.png", "b", "c"]
    assert row(table, "b") == {"label": None, "year": -3, "score": None, "good": False}
    assert row(table, "c") == {"label": "'q'", "year": None, "score": 2.0, "good": None}


@pytest.mark.parametrize("name", ["id", "path", "file", "filename", "file_name", "image"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".ndjson", ".CSV"])
def test_any_of_these_columns_names_the_image(tmp_path: Path, name: str, suffix: str) -> None:
    text = f"v,{name}\n1,007\n" if suffix.lower() == ".csv" else json.dumps({"v": 1, name: "007"})
    table = read(tmp_path, f"m{suffix}", text)
    assert row(table, "007") == {"v": 1}


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        (["1", "-2", "+3", "0"], "int", [1, -2, 3, 0]),
        (["1", ""], "int", [1, None]),
        (["007", "1"], "str", ["007", "1"]),
        (["1", "2.5", ".5", "3.", "1e3", "-1E-2"], "float", [1, 2.5, 0.5, 3, 1000, -0.01]),
        (["1", "x"], "str", ["1", "x"]),
        (["true", "False", "TRUE", ""], "bool", [True, False, True, None]),
        (["true", "1"], "str", ["true", "1"]),
        (["nan", "1"], "int", [None, 1]),
        (["1_000"], "str", ["1_000"]),
        ([" 1"], "str", [" 1"]),
        (["٣"], "str", ["٣"]),
        ([".", "-", "+."], "str", [".", "-", "+."]),
        (["0x10"], "str", ["0x10"]),
        (["2020-01-31", "", "0001-01-01"], "date", [date(2020, 1, 31), None, date(1, 1, 1)]),
        (["2020-02-30"], "str", ["2020-02-30"]),
        (["2020-01", "2020-02"], "str", ["2020-01", "2020-02"]),
        (["2020", "2021"], "int", [2020, 2021]),
        (["2020-01-31T05:06"], "datetime", [datetime(2020, 1, 31, 5, 6)]),
        (["2020-01-31 05:06:07.5Z"], "datetime", [datetime(2020, 1, 31, 5, 6, 7, 500_000)]),
        (["2020-01-31T05:06:07+02:00"], "datetime", [datetime(2020, 1, 31, 3, 6, 7)]),
        (["2020:01:31 05:06:07"], "datetime", [datetime(2020, 1, 31, 5, 6, 7)]),
        (["2020:01:31", "12:30"], "str", ["2020:01:31", "12:30"]),
        (["1,5"], "str", ["1,5"]),
        (["a\nb", 'say "x"'], "str", ["a\nb", 'say "x"']),
        (["999999999999999999"], "int", [999999999999999999]),
        pytest.param(
            ["9223372036854775807", "1234567890123456789"],
            "int",
            [2**63 - 1, 1234567890123456789],
            id="19 digits",
        ),
        pytest.param(
            ["12345678901234567890"],
            "str",
            ["12345678901234567890"],
            id="20 digits",
        ),
        pytest.param(
            ["e4", "e5"],
            "str",
            ["e4", "e5"],
            id="squares of a chess board",
        ),
    ],
)
def test_a_csv_column_is_of_the_narrowest_type_its_cells_fit(
    tmp_path: Path, cells: list[str], kind: str, values: list[Any]
) -> None:
    file = tmp_path / "m.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([["id", "v"], *([n, cell] for n, cell in enumerate(cells))])
    column = read_table(file).columns["v"]
    assert (column.type, items(column)) == (kind, values)


@given(cells=st.lists(st.text("0123456789.eE+-x", min_size=1, max_size=4), min_size=1, max_size=3))
def test_no_cell_loses_what_it_says(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("cells")
    rows = "".join(f"{number},{cell}\n" for number, cell in enumerate(cells))
    column = read(folder, "m.csv", f"id,v\n{rows}").columns["v"]
    if column.type == "str":
        assert items(column) == cells
    else:
        assert items(column) == [float(cell) for cell in cells]
        assert column.type == "float" or all(float(cell).is_integer() for cell in cells)


@given(
    rows=st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=5),
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5),
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda row: row[0],
    )
)
def test_csv_text_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    file = tmp_path_factory.mktemp("text") / "m.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        # The mark keeps the column text, whatever the rest looks like.
        csv.writer(stream).writerows([("id", "v"), *((key, "§" + text) for key, text in rows)])
    table = read_table(file)
    assert table.names == [key for key, _ in rows]
    assert items(table.columns["v"]) == ["§" + text for _, text in rows]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ufeffid,v\na,1\n", id="byte order mark"),
        pytest.param("id,v\r\na,1\r\n", id="Windows"),
        pytest.param("id,v\ra,1\r", id="old Mac"),
        pytest.param("id,v\n\na,1\n\n", id="empty lines"),
        pytest.param("v,id\n1,a", id="no last newline"),
        pytest.param('"id","v"\n"a","1"\n', id="quoted"),
    ],
)
def test_csv_of_any_origin_is_read(tmp_path: Path, text: str) -> None:
    assert row(read(tmp_path, "m.csv", text), "a") == {"v": 1}


@pytest.mark.parametrize("text", ["id\na\n", "id,v\n"])
def test_a_csv_file_may_have_no_metadata_or_no_rows(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, "m.csv", text).columns == {}


def test_an_empty_csv_cell_is_missing_in_a_second_column_of_names(tmp_path: Path) -> None:
    found = read_items(tmp_path, "m.csv", "id,file\na,\nb,x.png\n")
    assert found == {"file": [None, "x.png"]}


def test_a_csv_file_cut_within_quotes_is_refused(tmp_path: Path) -> None:
    # Read on to the end of the file, the open quote swallows the rows after it.
    with pytest.raises(InvalidInputError, match=r"m\.csv"):
        read(tmp_path, "m.csv", 'id,label\na,"x\nb,y\nc,z\n')


def test_json_lines_are_read(tmp_path: Path) -> None:
    lines = [
        '{"id": "a", "label": "cat", "year": 1999}',
        "",
        '{"id": "b", "score": 1, "good": true, "label": null}',
        '{"score": 0.5, "id": 7, "year": NaN}',
    ]
    table = read(tmp_path, "m.jsonl", "\ufeff" + "\r\n".join(lines))
    assert table.types == {"label": "str", "year": "int", "score": "float", "good": "bool"}
    assert table.names == ["a", "b", "7"]
    assert row(table, "a") == {"label": "cat", "year": 1999, "score": None, "good": None}
    assert row(table, "b") == {"label": None, "year": None, "score": 1.0, "good": True}
    assert row(table, "7") == {"label": None, "year": None, "score": 0.5, "good": None}


@pytest.mark.parametrize("kind", COLUMN_TYPES)
@given(data=st.data())
def test_json_values_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    values = data.draw(st.lists(st.none() | VALUES[kind], max_size=6))
    text = "".join(
        json.dumps({"id": f"{n}", "v": value}, default=str) + "\n" for n, value in enumerate(values)
    )
    found = read_items(tmp_path_factory.mktemp("json"), "m.jsonl", text or '{"id": 1}')
    expected = {"v": values} if any(value is not None for value in values) else {}
    assert found == expected


@pytest.mark.parametrize("marker", ["", "NA", "NaN", "nan", "null", "None"])
def test_a_marker_of_a_missing_value_leaves_the_type_of_a_csv_column(
    tmp_path: Path, marker: str
) -> None:
    text = f"id,f,i,b,s\na,1.5,1,true,x\nb,{marker},{marker},{marker},{marker}\n"
    table = read(tmp_path, "m.csv", text)
    assert table.types == {"f": "float", "i": "int", "b": "bool", "s": "str"}
    assert row(table, "b") == {"f": None, "i": None, "b": None, "s": None}


def test_an_image_may_have_the_name_of_a_marker(tmp_path: Path) -> None:
    assert row(read(tmp_path, "m.csv", "id,v\nNA,1\n"), "NA") == {"v": 1}


@pytest.mark.parametrize("column", ["FileName", "PATH", "filepath", "Image_Path", "img", "key"])
def test_the_image_column_is_found_by_its_usual_names_in_any_case(
    tmp_path: Path, column: str
) -> None:
    for name, text in (
        ("m.csv", f"{column},v\na,1\n"),
        ("m.jsonl", f'{{"{column}": "a", "v": 1}}\n'),
    ):
        assert row(read(tmp_path, name, text), "a") == {"v": 1}


def test_an_image_column_as_written_goes_before_one_in_another_case(tmp_path: Path) -> None:
    table = read(tmp_path, "m.csv", "ID,filename\n7,a\n")
    assert row(table, "a") == {"ID": 7}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("m.csv", "", r"columns \(none\): one must name the image"),
        ("m.csv", "label,v\na,1\n", "columns label, v: one must name the image"),
        ("m.csv", "id,v\na\n", "line 2, has 1 cells: its header has 2"),
        ("m.csv", "id,v\na,1\nb,2,3\n", "line 3, has 3 cells"),
        ("m.csv", "id,v,v\na,1,2\n", "column name twice: id, v, v"),
        ("m.csv", "id,v\na,1\na,2\n", "names 'a' twice"),
        ("m.csv", "id,v\na," + "x" * 200_000 + "\n", "line 2: field larger than"),
        ("m.jsonl", b'{"id": "\xff"}', "not UTF-8 text"),
        ("m.jsonl", '{"id": "a"}\n{"id": \n', "line 2, is not JSON"),
        ("m.jsonl", '{"id": "a"}\n[1]\n', "line 2, is not a JSON object"),
        ("m.jsonl", '[{"id": "a"}]', "line 1, is not a JSON object"),
        ("m.jsonl", '{"id": "a", "v": ' + "1" * 5000 + "}", "line 1, is not JSON"),
        ("m.jsonl", '{"id": "a", "v": [1]}', "'v' has a value of type list"),
        ("m.jsonl", '{"id": "a", "v": 1}\n{"id": "b", "v": "x"}', "'v' mixes int and str"),
        ("m.jsonl", '{"id": "a", "v": ' + "1" * 50 + "}", "beyond 64 bits"),
        ("m.jsonl", '{"id": "a", "v": "\\ud800"}', "not valid Unicode"),
        ("m.jsonl", '{"id": 1}\n{"id": "1"}', "names '1' twice"),
        ("m.jsonl", "", r"columns \(none\)"),
        ("m.txt", "id,v\na,1\n", r"cannot read '\.txt', expected one of \.csv, \.tsv"),
        ("m", "id,v\na,1\n", "cannot read ''"),
    ],
)
def test_a_file_that_is_no_such_table_is_told(
    tmp_path: Path, name: str, text: str | bytes, told: str
) -> None:
    with pytest.raises(InvalidInputError, match=told):
        read(tmp_path, name, text)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"id": "a", "v": ' + "[" * 100_000])
def test_json_nested_without_end_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInputError, match="line 1, is not JSON"):
        read(tmp_path, "m.jsonl", text)


@pytest.mark.parametrize("name", ["null", '""', "[1]", "{}", "true"])
def test_a_record_whose_name_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"(line|record|row) 2"):
        read(tmp_path, "m.jsonl", f'{{"id": "a", "v": 1}}\n{{"id": {name}, "v": 2}}\n')


@pytest.mark.parametrize(
    ("file", "text"),
    [("m.jsonl", '{"id": "a", "v": 1}\n{"v": 2}\n'), ("m.csv", "id,v\na,1\n,2\n")],
)
def test_a_record_without_a_name_is_refused(tmp_path: Path, file: str, text: str) -> None:
    # Not taken for an image that is called "None" or "".
    with pytest.raises(InvalidInputError, match=r"(line|record|row) [23]"):
        read(tmp_path, file, text)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "m.csv", tmp_path, tmp_path / "a\0.csv", tmp_path / "m.csv" / "x.csv"):
        with pytest.raises(NotFoundError, match="does not exist: expected a metadata file"):
            read_table(path)


def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist: expected a metadata file"):
        read_table(tmp_path / ("a" * 300 + ".csv"))


# --- dialects ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("m.csv", "filename;year;v\na;1990;1,5\n", id="semicolon"),
        pytest.param("m.csv", "filename\tyear\tv\na\t1990\t1,5\n", id="tab"),
        pytest.param("m.tsv", "filename\tyear\tv\na\t1990\t1,5\n", id="tsv"),
        pytest.param("m.tsv", 'filename,year,v\na,1990,"1,5"\n', id="tsv with commas"),
        pytest.param("m.csv", "filename|year|v\na|1990|1,5\n", id="bar"),
        pytest.param("m.csv", 'filename, year, v\na, 1990, "1,5"\n', id="blanks after commas"),
        pytest.param("m.csv", 'filename,year,v\na,1990,"1,5"\n'.encode("utf-16"), id="UTF-16"),
        pytest.param("m.csv", 'filename,year,v\na,1990,"1,5"\n'.encode("utf-16-le"), id="no mark"),
        pytest.param("m.csv", 'filename,year,v\na,1990,"1,5"\n'.encode("utf-16-be"), id="big"),
        pytest.param("m.csv", 'filename,year,v,\na,1990,"1,5",\n', id="a comma at the end"),
        pytest.param("m.json", '[{"filename": "a", "year": 1990, "v": "1,5"}]', id="a JSON list"),
        pytest.param("m.json", '{"a": {"year": 1990, "v": "1,5"}}', id="JSON by image"),
    ],
)
def test_a_table_of_any_dialect_is_read(tmp_path: Path, name: str, text: str | bytes) -> None:
    table = read(tmp_path, name, text)
    assert (row(table, "a"), table.notes) == ({"year": 1990, "v": "1,5"}, ())


def test_text_that_is_not_utf8_is_read_as_latin_1_with_a_note(tmp_path: Path) -> None:
    table = read(tmp_path, "m.csv", "id,who\nb,x\na,caf\xe9 \x80\n".encode("latin-1"))
    assert row(table, "a") == {"who": "caf\xe9 \u20ac"}
    assert len(table.notes) == 1
    assert "m.csv is not UTF-8 (byte 0xe9): it was read as Latin-1" in table.notes[0]


def test_blanks_stay_where_the_header_has_none(tmp_path: Path) -> None:
    assert row(read(tmp_path, "m.csv", "id,v\na, 1\n"), "a") == {"v": " 1"}


def test_columns_that_cannot_be_metadata_are_left_out_with_a_note(tmp_path: Path) -> None:
    table = read(tmp_path, "m.csv", ",id,Unnamed: 0,row,v\n0,a,0,7,1\n")
    assert row(table, "a") == {"v": 1}
    assert [note.split(":")[0] for note in table.notes] == [
        "a column without a name (the index of a table?) was left out",
        "a column without a name (the index of a table?) was left out",
        "column 'row' was left out",
    ]


def test_the_column_of_file_names_names_the_image_and_not_a_number(tmp_path: Path) -> None:
    table = read(tmp_path, "m.csv", "id,path,v\n1,a.JPG,5\n2,b.png,6\n")
    assert (row(table, "a.JPG"), table.notes) == (
        {"v": 5},
        ("column 'id' was left out: the name is reserved, rename it to keep it",),
    )
    assert read(tmp_path, "n.csv", "id,v\n1,5\n").names == ["1"]


def test_the_column_of_the_image_can_be_given(tmp_path: Path) -> None:
    file = written(tmp_path / "m.csv", "Nummer;file;v\n7;x;1\n")
    table = read_table(file, "nummer")
    assert (table.names, row(table, "7")) == (["7"], {"file": "x", "v": 1})
    with pytest.raises(InvalidInputError, match=r"columns Nummer, file, v: .*\('name'\)"):
        read_table(file, "name")


def test_a_parquet_file_is_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"image": ["a", "b"], "v": [1, None]}), tmp_path / "m.parquet")
    table = read_table(tmp_path / "m.parquet")
    assert [row(table, name) for name in "ab"] == [{"v": 1}, {"v": None}]
    with pytest.raises(InvalidInputError, match=r"m\.parquet is not a Parquet file"):
        read(tmp_path, "m.parquet", "id,v\n")


# --- tables in memory ----------------------------------------------------------------


def _tables() -> dict[str, Any]:
    columns = {"file": ["a.png", "b.png"], "v": [1, None], "s": ["x", None]}
    records = [{"file": "a.png", "v": 1, "s": "x"}, {"file": "b.png"}]
    by_image = {"a.png": {"v": 1, "s": "x"}, "b.png": {"v": None}}
    return {"columns": columns, "records": records, "by image": by_image}


@pytest.mark.parametrize(
    "kind", ["columns", "records", "by image", "pandas", "pandas index", "polars", "pyarrow"]
)
def test_a_table_in_memory_is_read(kind: str) -> None:
    made = _tables()
    if kind.startswith("pandas"):
        frame = pytest.importorskip("pandas").DataFrame(made["columns"])
        made = {"pandas": frame, "pandas index": frame.set_index("file")}
    elif kind == "polars":
        made = {kind: pytest.importorskip("polars").DataFrame(made["columns"])}
    elif kind == "pyarrow":
        made = {kind: pytest.importorskip("pyarrow").table(made["columns"])}
    table = read_table(made[kind])
    assert table.types == {"v": table.types["v"], "s": "str"}
    assert row(table, "a.png") == {"v": 1, "s": "x"}
    assert row(table, "b.png") == {"v": None, "s": None}


def test_any_arrow_stream_is_read() -> None:
    pa = pytest.importorskip("pyarrow")

    class Stream:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            stream: object = pa.table({"id": ["a"], "v": [1]}).__arrow_c_stream__()
            return stream

    assert row(read_table(Stream()), "a") == {"v": 1}


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (5, "the metadata \\(int\\) cannot be read: expected a file"),
        ([1, 2], "cannot be read"),
        ({"id": "a", "v": 1}, "'id' is a single str"),
        ({"v": [1]}, "has columns v: one must name the image"),
        ([], "has columns \\(none\\)"),
        ({"id": ["a", "b"], "v": [1]}, "'v' has 1 values: expected 2"),
        ([{"id": None}], "record 1, has no id"),
    ],
)
def test_what_is_no_table_is_told(source: Any, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        read_table(source)


@pytest.mark.parametrize("other", ["03/04/2021", "2021-01-01 10:00"])
def test_a_column_of_some_dates_is_text_with_a_note(tmp_path: Path, other: str) -> None:
    table = read(tmp_path, "m.csv", f"id,d\na,2020-01-02\nb,{other}\n")
    assert table.types == {"d": "str"}
    assert len(table.notes) == 1
    assert f"is text, not dates, as of {other!r}: write" in table.notes[0]


def test_cells_stay_text_for_a_column_of_text(tmp_path: Path) -> None:
    file = written(tmp_path / "m.csv", "id,a,b\nx,2020-01-02,12\ny,NA,13\n")
    table = read_table(file, stored={"a": "str", "b": "str"})
    assert (row(table, "x"), row(table, "y")) == (
        {"a": "2020-01-02", "b": "12"},
        {"a": None, "b": "13"},
    )


def test_the_dates_of_a_data_frame_are_dates() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"id": ["a", "b"], "t": pandas.to_datetime(["2020-01-31 05:00", None])}
    )
    table = read_table(frame)
    assert (row(table, "a"), row(table, "b")) == ({"t": datetime(2020, 1, 31, 5)}, {"t": None})
    text = pandas.DataFrame({"id": ["a"], "t": pandas.array([pandas.NA], "Int64")})
    assert read_table(text).columns == {}
