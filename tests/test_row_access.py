"""Rows are read back: by id, by expression, in order, as tables, in other processes."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import polars
import pyarrow
import pytest
from PIL import Image

from latentdb import LatentDB
from latentdb.base.errors import ClosedError, IdNotFoundError, InvalidInputError
from latentdb.reader import Reader


@pytest.fixture
def db(tmp_path: Path) -> Iterator[LatentDB]:
    """Ten rows in two segments, one deleted, one without a year."""
    with LatentDB.create(tmp_path / "a.ldb", dim=3) as store:
        vectors = np.arange(30, dtype=np.float32).reshape(10, 3)
        names = [f"p{number}" for number in range(10)]
        years = [2000 + number if number != 3 else None for number in range(10)]
        halves = ["low"] * 5 + ["high"] * 5
        store.add(names[:6], vectors[:6], metadata={"year": years[:6], "half": halves[:6]})
        store.add(names[6:], vectors[6:], metadata={"year": years[6:], "half": halves[6:]})
        store.delete(["p1"])
        yield store


def test_a_row_by_its_id(db: LatentDB) -> None:
    row = db["p2"]
    assert (row.id, row.path, row.metadata) == ("p2", None, {"year": 2002, "half": "low"})
    np.testing.assert_array_equal(row.z_mean, [6, 7, 8])
    assert row.z_log_var is None
    assert db["p3"].metadata == {"half": "low"}
    for missing in ("p1", "nobody"):
        with pytest.raises(KeyError, match=missing):
            db[missing]
    with pytest.raises(InvalidInputError, match="id 3 cannot be used"):
        db[3]  # type: ignore[index]


def test_rows_of_ids_keep_their_order(db: LatentDB) -> None:
    view = db.get(["p9", "p0", "p9"])
    assert view.ids == ["p9", "p0", "p9"]
    assert [row.id for row in view] == view.ids
    np.testing.assert_array_equal(view.z_mean[:, 0], [27, 0, 27])
    with pytest.raises(IdNotFoundError, match="nobody"):
        db.get(["p0", "nobody"])


def test_a_window_over_rows(db: LatentDB) -> None:
    assert db.count() == len(db) == 9
    assert db.count('half == "high"') == 5
    view = db.rows(where='half == "low"', order_by="-year", offset=1, limit=2)
    assert view.ids == ["p2", "p0"]
    assert view.column("year") == [2002, 2000]
    assert view[-1].id == "p0"
    assert view[::-1].ids == ["p0", "p2"]
    assert db.rows(offset=100).ids == []
    assert db.rows(limit=0).records() == []
    assert (
        db.rows(where='half == "high"', offset=1, limit=2).ids
        == db.ids(where='half == "high"')[1:3]
    )
    assert db.rows(where="year > 2007").records(["half", "id", "path"]) == [
        {"half": "high", "id": "p8", "path": None},
        {"half": "high", "id": "p9", "path": None},
    ]
    assert list(db) == db.ids()
    with pytest.raises(IndexError):
        view[2]


def test_a_sample_is_drawn_from_the_selected_rows(db: LatentDB) -> None:
    drawn = db.rows(where='half == "high"', sample=3, seed=5)
    assert len(set(drawn.ids)) == 3
    assert set(drawn.ids) <= {"p5", "p6", "p7", "p8", "p9"}
    assert drawn.ids == sorted(drawn.ids)
    assert db.rows(where='half == "high"', sample=3, seed=5).ids == drawn.ids
    assert len(db.rows(sample=100)) == 9


@pytest.mark.parametrize("name", ["offset", "limit", "sample"])
def test_negative_numbers_are_refused(db: LatentDB, name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{name} -1 cannot be used"):
        db.rows(**{name: -1})


def test_a_view_stays_at_its_version(db: LatentDB) -> None:
    view = db.rows()
    db.delete(["p0"])
    assert view[0].id == "p0"
    assert db.rows()[0].id == "p2"


def test_tables_of_other_libraries(db: LatentDB) -> None:
    view = db.rows(where="year > 2005")
    table = pyarrow.table(view)
    assert table.column_names == ["id", "path", "half", "year", "z_mean"]
    assert table["year"].to_pylist() == [2006, 2007, 2008, 2009]
    assert table["z_mean"][0].as_py() == [18, 19, 20]
    assert polars.DataFrame(db)["half"].to_list() == db.rows().column("half")
    frame = view.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["id"].tolist() == view.ids
    assert db.rows(limit=0).to_pandas().columns.tolist() == ["id", "path", "half", "year"]


def test_tables_of_matches(db: LatentDB) -> None:
    found = db.query("p6", k=3)
    assert len(found) == 3
    table = pyarrow.table(found)
    assert table.column_names[:4] == ["rank", "id", "distance", "path"]
    assert set(table.column_names[4:]) == {"half", "year"}
    assert table["id"].to_pylist() == [match.id for match in found]
    assert table["year"].to_pylist() == [match.metadata.get("year") for match in found]
    assert polars.DataFrame(found)["rank"].to_list() == [1, 2, 3]
    frame = found.to_pandas()
    assert frame["distance"].tolist() == [match.distance for match in found]
    none = db.query("p6", k=3, where="year == 1")
    assert pyarrow.table(none).schema.types == pyarrow.table(found).schema.types[:4]
    assert none.to_pandas().columns.tolist() == ["rank", "id", "distance", "path"]


def test_a_metadata_key_named_like_a_column_of_matches(tmp_path: Path) -> None:
    with LatentDB.create(tmp_path / "s.ldb", dim=1) as db:
        db.add(["a"], np.zeros((1, 1)), metadata={"rank": [7], "distance": ["far"]})
        assert pyarrow.table(db.query("a")).to_pylist() == [
            {"rank": 1, "id": "a", "distance": 0.0, "path": None, "metadata.rank": 7,
             "metadata.distance": "far"}
        ]  # fmt: skip


def test_where_is_taken_by_vectors_and_decode(db: LatentDB, store: Path) -> None:
    np.testing.assert_array_equal(db.vectors(where="year > 2008"), [[27, 28, 29]])
    assert db.vectors().shape == (9, 3)
    assert db.log_vars(where="year > 2008") is None
    with pytest.raises(InvalidInputError, match="ids or an expression, not both"):
        db.vectors(["p0"], where="year > 2008")
    with LatentDB(store) as images:
        assert len(images.decode(where='label == "disc"')) == 40
        with pytest.raises(InvalidInputError, match="one of them"):
            images.decode()


def test_matches_and_rows_are_targets(db: LatentDB) -> None:
    matches = db.query("p5", k=3)
    assert db.query(matches[0]).matches[0].id == "p5"
    assert db.query(db["p5"], exclude_self=True).matches[0].id != "p5"
    assert db.get(matches.matches).ids == [match.id for match in matches]
    np.testing.assert_allclose(db.blend(list(matches)), db.vectors(list(matches)).mean(axis=0))
    assert db.delete([matches[0]]) == 1
    assert "p5" not in db
    assert len(db.query("p0", k=np.int64(2))) == 2  # type: ignore[arg-type]


def test_opening_by_the_class_and_what_it_says(db: LatentDB, tmp_path: Path) -> None:
    with LatentDB(tmp_path / "a.ldb") as again, Reader(str(tmp_path / "a.ldb")) as reader:
        assert again.ids() == reader.ids() == db.ids()
        assert repr(again) == f"<LatentDB '{tmp_path / 'a.ldb'}': 9 rows, 3 dimensions>"
    assert repr(again) == "<LatentDB, closed>"
    with pytest.raises(ClosedError):
        pickle.dumps(again)


def _count(db: LatentDB) -> int:
    return len(db.query("p0", k=100))


def test_a_store_is_sent_to_processes_by_its_path(
    tmp_path: Path, db: LatentDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = LatentDB("a.ldb", lock_timeout=7, auto_index=False)
    data = pickle.dumps(relative)
    monkeypatch.chdir("/")
    copy = pickle.loads(data)
    assert copy.ids() == db.ids()
    assert copy._options() == relative._options()


def test_a_spawned_process_opens_the_store_again(db: LatentDB) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as pool:
        assert pool.submit(_count, db).result(timeout=120) == 9


def test_notebooks_show_rows_and_matches(store: Path, tmp_path: Path) -> None:
    with LatentDB(store) as db:
        text = db.rows(limit=2)._repr_html_()
        assert text.count("<tr>") == 3
        found = db.query("disc/000.png", k=3)._repr_html_()
        assert found.count("data:image/png;base64,") == 3
        assert f"{len(db)}</td>" in db._repr_html_()
    with LatentDB.create(tmp_path / "odd.ldb", dim=1) as db:
        db.add(["<b>&"], np.zeros((1, 1)), metadata={"note": ["<script>"], "<i>x": [1]})
        assert "<script>" not in db.rows()._repr_html_()
        found = db.query("<b>&")._repr_html_()
        assert "<b>" not in found
        assert "data:image" not in found
        assert "&lt;i&gt;x (int)" in db._repr_html_()


def test_matches_are_printed_as_lines(db: LatentDB) -> None:
    found = db.query("p2", k=2)
    head, first, second = repr(found).splitlines()
    assert head == "<Matches: 2 by l2, every row compared>"
    assert first.split() == ["1", "0.0000", "p2", "half=low", "year=2002"]
    assert second.split()[2] == found[1].id
    few = replace(found, exact=False, recall=0.99, matches=found.matches * 30)
    assert repr(few).startswith("<Matches: 60 by l2, recall 0.99>")
    assert repr(few).endswith("\nand 10 more")
    assert "by kl, no recall promised>" in repr(replace(few, metric="kl", recall=None))


def test_show_describes_a_row(store: Path, tmp_path: Path) -> None:
    with LatentDB(store) as db:
        details = db.show("disc/000.png", out=tmp_path / "row.png")
        row = db["disc/000.png"]
        assert details.norm == pytest.approx(float(np.linalg.norm(row.z_mean)), rel=1e-6)
        assert details.file_exists
        assert details.bytes == Path(str(row.path)).stat().st_size
        assert row.z_log_var is not None
        variance = np.exp(row.z_log_var.astype(float))
        kl = 0.5 * (row.z_mean.astype(float) ** 2 + variance - row.z_log_var - 1).sum()
        assert details.kl == pytest.approx(kl, rel=1e-5)
        every = [db.show(name).centre_distance for name in db.ids()]
        assert np.sqrt(np.mean(np.square(every))) == pytest.approx(1, rel=1e-5)
    with Image.open(tmp_path / "row.png") as picture:
        assert picture.width > 2 * 90


def test_show_of_a_row_without_an_image(db: LatentDB) -> None:
    details = db.show("p3")
    assert (details.file_exists, details.bytes, details.kl) == (None, None, None)
    assert details.metadata == {"half": "low"}
