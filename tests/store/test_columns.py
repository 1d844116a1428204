"""Typed metadata: how columns get their types, and what metadata files give."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.search.filters import Filter
from latentdb.store.columns import (
    COLUMN_TYPES,
    DTYPES,
    RESERVED,
    Column,
    Table,
    absent,
    check_key,
    join,
    make_column,
    make_columns,
    read_table,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "str": TEXT,
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False),
    "bool": st.booleans(),
}


def items(column: Column) -> list[Any]:
    return [column.item(row) for row in range(len(column))]


def column_of(kind: str, values: list[Any]) -> Column:
    """A column of that kind, also where all values are missing."""
    return make_column("key", values) or absent(kind, len(values))


@st.composite
def columns(draw: st.DrawFn, kind: str) -> tuple[Column, list[Any]]:
    values = draw(st.lists(st.none() | VALUES[kind], max_size=8))
    return column_of(kind, values), values


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(folder: Path, name: str, text: str | bytes) -> Table:
    return read_table(written(folder / name, text))


def read_items(folder: Path, name: str, text: str | bytes) -> dict[str, list[Any]]:
    return {key: items(column) for key, column in read(folder, name, text).columns.items()}


# --- keys ----------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["label", "Year", "_x", "größe", "年", "a1", "type", "match"])
def test_a_key_that_is_taken_can_be_named_in_an_expression(key: str) -> None:
    check_key(key)
    column = make_column(key, [1, 2])
    assert column is not None
    assert Filter(f"{key} == 2", {key: "int"}).mask(lambda _: column).tolist() == [False, True]


@pytest.mark.parametrize(
    "key", ["", "a b", "1a", "a-b", "a.b", "class", "None", "True", "and", "a\n", "\ud800", 5, None]
)
def test_a_key_no_expression_could_name_is_refused(key: Any) -> None:
    with pytest.raises(InvalidInputError, match="cannot be used in an expression: rename it"):
        check_key(key)


@pytest.mark.parametrize("key", ["\ufb01le", "\uff59ear", "x\u00aa"])
def test_a_key_that_python_would_read_as_another_is_refused(key: str) -> None:
    # Python normalises names (NFKC): "\ufb01le" in an expression names the column "file".
    with pytest.raises(InvalidInputError, match=r"would be read as '(file|year|xa)'"):
        check_key(key)


@pytest.mark.parametrize("key", sorted(RESERVED))
def test_reserved_keys_are_refused(key: str) -> None:
    with pytest.raises(InvalidInputError, match=f"'{key}' is reserved"):
        check_key(key)


# --- columns -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", COLUMN_TYPES)
@given(data=st.data())
def test_a_column_gives_back_the_values_it_was_made_of(kind: str, data: st.DataObject) -> None:
    column, values = data.draw(columns(kind))
    assert column.type == kind
    assert column.values.dtype == DTYPES[kind]
    assert items(column) == values
    assert [type(item) for item in items(column)] == [type(value) for value in values]
    assert (column.missing is not None and column.missing.any()) == (None in values)
    assert len(set(column.categories)) == len(column.categories)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None, 3], "int", [1, None, 3]),
        ([1, math.nan, 3], "int", [1, None, 3]),  # as pandas gives whole numbers with gaps
        ([1, 0.5], "float", [1.0, 0.5]),
        ([math.inf, -math.inf, math.nan], "float", [math.inf, -math.inf, None]),
        (["a", math.nan, ""], "str", ["a", None, ""]),
        ([True, None], "bool", [True, None]),
        (np.array([1, 2], "i1"), "int", [1, 2]),
        (np.array([1, 2**63 - 1], "u8"), "int", [1, 2**63 - 1]),
        (np.array([0.5, np.nan], "f4"), "float", [0.5, None]),
        (np.array([True, False]), "bool", [True, False]),
        (np.array(["a", "b"]), "str", ["a", "b"]),
        (np.array(["a", None], object), "str", ["a", None]),
        ([np.int32(1), np.int64(2)], "int", [1, 2]),
        ([np.str_("a"), "b"], "str", ["a", "b"]),
        ([np.bool_(True)], "bool", [True]),
        (np.ma.MaskedArray([1, 2], [False, True]), "int", [1, None]),
    ],
)
def test_a_column_is_typed_by_its_values(values: Any, kind: str, expected: list[Any]) -> None:
    column = make_column("key", values)
    assert column is not None
    assert column.type == kind
    assert items(column) == expected


@pytest.mark.parametrize("values", [[], [None], [math.nan, None], np.full(3, np.nan)])
def test_a_column_without_a_value_is_none(values: Any) -> None:
    assert make_column("key", values) is None


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([1, "a"], "mixes int and str"),
        ([True, 1], "mixes bool and int"),
        ([0.5, False], "mixes bool and float"),
        (["a", 0.5, None], "mixes float and str"),
        ([[1]], "value of type list"),
        ([b"a"], "value of type bytes"),
        ([1j], "value of type complex"),
        ([{}], "value of type dict"),
        (np.zeros((2, 2)), "value of type list"),
        (np.zeros(1, "M8[s]"), "value of type datetime"),
        ([2**63], "beyond 64 bits"),
        ([-(2**63) - 1, None], "beyond 64 bits"),
        ([10**400, 0.5], "beyond 64 bits"),
        (np.array([2**64 - 1], "u8"), "beyond 64 bits"),
        (["a", "\ud800"], "not valid Unicode"),
    ],
)
def test_values_that_cannot_be_kept_are_told(values: Any, told: str) -> None:
    with pytest.raises(InvalidInputError, match=f"metadata 'key' .*{told}"):
        make_column("key", values)


@pytest.mark.parametrize(
    "values",
    [
        np.array(["2020-01-01", "NaT"], "M8[ns]"),
        np.array([5], "m8[ns]"),
        [np.datetime64("2020-01-01", "ns")],
    ],
)
def test_times_are_refused_in_every_unit(values: Any) -> None:
    # numpy gives nanoseconds as bare whole numbers, and "not a time" as one of them.
    with pytest.raises(InvalidInputError, match="of type"):
        make_column("key", values)


@pytest.mark.parametrize("kind", COLUMN_TYPES)
def test_an_absent_column_is_all_missing(kind: str) -> None:
    column = absent(kind, 3)
    assert (column.type, column.values.dtype) == (kind, DTYPES[kind])
    assert items(column) == [None, None, None]
    assert len(absent(kind, 0)) == 0


@pytest.mark.parametrize("kind", COLUMN_TYPES)
@given(data=st.data())
def test_taking_rows_is_taking_their_values(kind: str, data: st.DataObject) -> None:
    column, values = data.draw(columns(kind))
    rows = data.draw(st.lists(st.integers(0, max(0, len(values) - 1)), max_size=8))
    rows = rows if values else []
    taken = column.take(np.array(rows, np.int64))
    assert items(taken) == [values[row] for row in rows]
    assert (taken.missing is None) == (None not in items(taken))
    assert items(column.take(slice(1, 5))) == values[1:5]


@pytest.mark.parametrize("kind", COLUMN_TYPES)
@given(data=st.data())
def test_joining_columns_is_joining_their_values(kind: str, data: st.DataObject) -> None:
    pairs = data.draw(st.lists(columns(kind), min_size=1, max_size=4))
    joined = join(kind, [column for column, _ in pairs])
    assert (joined.type, joined.values.dtype) == (kind, DTYPES[kind])
    assert items(joined) == [value for _, values in pairs for value in values]
    assert len(set(joined.categories)) == len(joined.categories)


def test_what_stands_where_a_text_is_missing_means_nothing() -> None:
    missing = np.array([True, False])
    odd = Column("str", np.array([-7, 1], "<i4"), missing, ("a", "b"))
    other = Column("str", np.array([0], "<i4"), None, ("b",))
    assert items(odd) == [None, "b"]
    assert items(join("str", [other, odd])) == ["b", None, "b"]


def test_whole_numbers_become_numbers_and_nothing_else_changes() -> None:
    column = column_of("int", [1, None])
    assert column.cast("int", "key") is column
    wide = column.cast("float", "key")
    assert (wide.type, wide.values.dtype, items(wide)) == ("float", DTYPES["float"], [1.0, None])
    for before in COLUMN_TYPES:
        for after in set(COLUMN_TYPES) - {before}:
            if (before, after) != ("int", "float"):
                with pytest.raises(
                    InvalidInputError, match=f"'key' holds {after} .* received {before}"
                ):
                    absent(before, 1).cast(after, "key")


def test_columns_are_made_for_all_keys_with_a_value() -> None:
    made = make_columns({"a": [1, 2], "b": [None, None], "c": ("x", "y")}, 2)
    assert {key: items(column) for key, column in made.items()} == {"a": [1, 2], "c": ["x", "y"]}
    assert make_columns(None, 2) == {}
    assert make_columns({}, 2) == {}
    column = column_of("int", [1, 2])
    assert make_columns({"a": column}, 2)["a"] is column


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"a": [1, 2, 3]}, "'a' has 3 values: expected 2"),
        ({"a": []}, "'a' has 0 values: expected 2"),
        ({"a": "xy"}, "'a' is a single str: expected 2 values"),
        ({"a": 5}, "'a' is a single int"),
        ({"a": None}, "'a' is a single NoneType"),
        ({"a b": [1, 2]}, "'a b' cannot be used"),
        ({"id": [1, 2]}, "'id' is reserved"),
        ({3: [1, 2]}, "3 cannot be used"),
    ],
)
def test_columns_that_do_not_fit_are_told(metadata: Any, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        make_columns(metadata, 2)


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"a": np.array(5)}, id="0-d array"),
        pytest.param([[1], [2]], id="no mapping"),
        pytest.param({"a": b"xy"}, id="bytes would become numbers"),
        pytest.param({"a": {"x", "y"}}, id="a set has no order"),
        pytest.param({"a": {"x": 1, "y": 2}}, id="a dict has no values of rows"),
    ],
)
def test_what_is_no_sequence_of_values_is_refused(metadata: Any) -> None:
    with pytest.raises(
        InvalidInputError, match=r"'a' is a single .*: expected 2|metadata is a list"
    ):
        make_columns(metadata, 2)


# --- files ---------------------------------------------------------------------------


def test_a_csv_file_is_read_by_its_header(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        "m.csv",
        "id,label,year,score,good\nx/a.png,cat,1999,0.5,true\nb,,-3,,FALSE\nc,'q',,2,\n",
    )
    assert table.types == {"label": "str", "year": "int", "score": "float", "good": "bool"}
    assert table.rows == {"x/a.png": 0, "b": 1, "c": 2}
    assert table.row("b", "/no/where") == {"label": None, "year": -3, "score": None, "good": False}
    assert table.row("c", "") == {"label": "'q'", "year": None, "score": 2.0, "good": None}
    assert table.row("unknown", "/no/where") is None


def test_a_row_is_found_by_id_before_path(tmp_path: Path) -> None:
    table = read(tmp_path, "m.csv", "image,v\n/data/a.png,1\na.png,2\n")
    assert table.row("b.png", "/data/a.png") == {"v": 1}
    assert table.row("a.png", "/data/a.png") == {"v": 2}


@pytest.mark.parametrize("name", ["id", "path", "file", "filename", "file_name", "image"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".ndjson", ".CSV"])
def test_any_of_these_columns_names_the_image(tmp_path: Path, name: str, suffix: str) -> None:
    text = f"v,{name}\n1,007\n" if suffix.lower() == ".csv" else json.dumps({"v": 1, name: "007"})
    table = read(tmp_path, f"m{suffix}", text)
    assert table.row("007", "") == {"v": 1}


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
    assert table.rows == {key: number for number, (key, _) in enumerate(rows)}
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
    assert read(tmp_path, "m.csv", text).row("a", "") == {"v": 1}


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
    assert table.rows == {"a": 0, "b": 1, "7": 2}
    assert table.row("a", "") == {"label": "cat", "year": 1999, "score": None, "good": None}
    assert table.row("b", "") == {"label": None, "year": None, "score": 1.0, "good": True}
    assert table.row("7", "") == {"label": None, "year": None, "score": 0.5, "good": None}


@pytest.mark.parametrize("kind", COLUMN_TYPES)
@given(data=st.data())
def test_json_values_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    values = data.draw(st.lists(st.none() | VALUES[kind], max_size=6))
    text = "".join(json.dumps({"id": f"{n}", "v": value}) + "\n" for n, value in enumerate(values))
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
    assert table.row("b", "b") == {"f": None, "i": None, "b": None, "s": None}


def test_an_image_may_have_the_name_of_a_marker(tmp_path: Path) -> None:
    assert read(tmp_path, "m.csv", "id,v\nNA,1\n").row("NA", "NA") == {"v": 1}


@pytest.mark.parametrize("column", ["FileName", "PATH", "filepath", "Image_Path", "img", "key"])
def test_the_image_column_is_found_by_its_usual_names_in_any_case(
    tmp_path: Path, column: str
) -> None:
    for name, text in (
        ("m.csv", f"{column},v\na,1\n"),
        ("m.jsonl", f'{{"{column}": "a", "v": 1}}\n'),
    ):
        assert read(tmp_path, name, text).row("a", "a") == {"v": 1}


def test_an_image_column_as_written_goes_before_one_in_another_case(tmp_path: Path) -> None:
    table = read(tmp_path, "m.csv", "ID,filename\n7,a\n")
    assert table.row("a", "a") == {"ID": 7}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("m.csv", "", r"columns \(none\): one must name the image"),
        ("m.csv", "label,v\na,1\n", "columns label, v: one must name the image"),
        ("m.csv", "id,v\na\n", "line 2, has 1 cells: its header has 2"),
        ("m.csv", "id,v\na,1\nb,2,3\n", "line 3, has 3 cells"),
        ("m.csv", "id,v,v\na,1,2\n", "column name twice: id, v, v"),
        ("m.csv", "id,v\na,1\na,2\n", "names 'a' twice"),
        ("m.csv", "id,a b\nx,1\n", "'a b' cannot be used"),
        ("m.csv", ",id,v\n0,a,1\n", "metadata key '' cannot be used"),
        ("m.csv", "id,z_mean\nx,1\n", "'z_mean' is reserved"),
        ("m.csv", "id,v\na," + "x" * 200_000 + "\n", "line 2: field larger than"),
        ("m.csv", b"id,v\na,\xff\n", "not UTF-8 text"),
        ("m.csv", "id,v\na,1\n".encode("utf-16"), "not UTF-8 text"),
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
        ("m.txt", "id,v\na,1\n", r"cannot read '\.txt', expected \.csv or \.jsonl"),
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
