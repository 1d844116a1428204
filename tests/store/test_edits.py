"""Changes of metadata columns: values, types and names, in one commit each."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentdb.base.errors import FilterError, IdNotFoundError, InvalidInputError
from latentdb.database import LatentDB

IDS = [f"r{number}" for number in range(9)]


@pytest.fixture
def db(tmp_path: Path) -> LatentDB:
    """Three segments, with a deleted row in the first; the last has no `label`."""
    made = LatentDB.create(tmp_path / "s.ldb", dim=2)
    line = np.stack([np.arange(9), np.zeros(9)], axis=1)
    for start in (0, 3, 6):
        names = IDS[start : start + 3]
        metadata: dict[str, Any] = {"n": [start, None, start + 2]}
        if start < 6:
            metadata["label"] = ["a", "b", None]
        part = line[start : start + 3]
        made.add(names, part, z_log_var=-part, metadata=metadata)
    made.delete(["r1"])
    return made


def values(db: LatentDB, key: str) -> list[Any]:
    return db.rows().column(key)


def same_otherwise(db: LatentDB, change: Any) -> None:
    """Make a change; ids, row numbers and latents stay, and every file is whole."""
    before = (db.ids(), db._snapshot().live_rows(), db.vectors(db.ids()))
    version = db._snapshot().manifest.version
    change()
    after = (db.ids(), db._snapshot().live_rows(), db.vectors(db.ids()))
    for old, new in zip(before, after, strict=True):
        assert np.array_equal(old, new)
    assert db._snapshot().manifest.version == version + 1
    assert LatentDB.verify(db._snapshot().folder).problems == ()
    again = LatentDB.open(db._snapshot().folder)
    assert again.rows().records() == db.rows().records()


def test_values_of_ids_and_of_an_expression_are_set(db: LatentDB) -> None:
    same_otherwise(db, lambda: db.update(["r8", "r0"], {"label": ["x", "y"], "n": [80, None]}))
    assert values(db, "label") == ["y", None, "a", "b", None, None, None, "x"]
    assert values(db, "n") == [None, 2, 3, None, 5, 6, None, 80]
    same_otherwise(db, lambda: db.update("n > 4", {"seen": True, "label": None}))
    assert values(db, "seen") == [None, None, None, None, True, True, None, True]
    assert values(db, "label") == ["y", None, "a", "b", None, None, None, None]
    assert db.update("n > 1000", {"n": 1}) == 0
    assert db.ids(where='label == "y" or seen') == ["r0", "r5", "r6", "r8"]


def test_whole_numbers_become_fractions_in_an_update(db: LatentDB) -> None:
    same_otherwise(db, lambda: db.update(["r3"], {"n": 3.5}))
    assert db.info().columns["n"] == "float"
    assert values(db, "n") == [0.0, 2.0, 3.5, None, 5.0, 6.0, None, 8.0]


@pytest.mark.parametrize(
    ("rows", "update", "error"),
    [
        (["r0"], {"n": "x"}, InvalidInputError),
        (["r0"], {"none such": None}, InvalidInputError),
        (["r0"], {"id": "x"}, InvalidInputError),
        (["r0", "r2"], {"n": [1]}, InvalidInputError),
        (["r0", "r0"], {"n": 1}, InvalidInputError),
        ("n > 1", {"n": [1]}, InvalidInputError),
        (["r1"], {"n": 1}, IdNotFoundError),
        ("none > 1", {"n": 1}, FilterError),
        ("r0", {"n": 1}, FilterError),
    ],
)
def test_an_update_that_cannot_be_changes_nothing(
    db: LatentDB, rows: Any, update: Any, error: type[Exception]
) -> None:
    before = (db.rows().records(), db.info().columns)
    with pytest.raises(error):
        db.update(rows, update)
    assert (db.rows().records(), db.info().columns) == before


TEXTS = ["1", "2.5", "true", "2020-01-31", "2020-01-31 05:00", "NA", "x", " 7 ", "1_0"]


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("int", [1, None, None, None, None, None, None, 7, None]),
        ("float", [1.0, 2.5, None, None, None, None, None, 7.0, None]),
        ("bool", [True, None, True, None, None, None, None, None, None]),
        ("date", [None, None, None, date(2020, 1, 31), None, None, None, None, None]),
        (
            "datetime",
            [None] * 3 + [datetime(2020, 1, 31), datetime(2020, 1, 31, 5)] + [None] * 4,
        ),
    ],
)
def test_text_is_converted_or_lost_on_demand(
    tmp_path: Path, type_: str, expected: list[Any]
) -> None:
    db = LatentDB.create(tmp_path / "s.ldb", dim=1)
    for start in (0, 4):
        part = slice(start, 9 if start else 4)
        db.add(IDS[part], np.zeros((9, 1))[part], metadata={"v": TEXTS[part]})
    before = values(db, "v")
    with pytest.raises(InvalidInputError, match=rf"of 8 values of 'v' are no {type_} \('"):
        db.retype_column("v", type_)
    assert values(db, "v") == before
    same_otherwise(db, lambda: db.retype_column("v", type_, lossy=True))
    assert db.info().columns == {"v": type_}
    assert values(db, "v") == expected


@pytest.mark.parametrize(
    ("old", "type_", "new"),
    [
        ([1, 0, None], "bool", [True, False, None]),
        ([True, False, None], "int", [1, 0, None]),
        ([1.0, 2.0**53, None], "int", [1, 2**53, None]),
        ([2**62 + 1, None, 1], "str", [str(2**62 + 1), None, "1"]),
        ([0.5, None, 1.0], "str", ["0.5", None, "1.0"]),
        ([True, None, False], "str", ["true", None, "false"]),
        ([date(2020, 1, 31), None, date(1, 1, 1)], "str", ["2020-01-31", None, "0001-01-01"]),
        ([date(2020, 1, 31)] * 3, "datetime", [datetime(2020, 1, 31)] * 3),
        ([datetime(2020, 1, 31)] * 3, "date", [date(2020, 1, 31)] * 3),
        ([datetime(2020, 1, 31, 5)] * 3, "str", ["2020-01-31T05:00:00"] * 3),
    ],
)
def test_values_are_converted_there_and_back(
    tmp_path: Path, old: list[Any], type_: str, new: list[Any]
) -> None:
    db = LatentDB.create(tmp_path / "s.ldb", dim=1)
    db.add(IDS[:3], np.zeros((3, 1)), metadata={"v": old})
    before = db.info().columns["v"]
    report = db.retype_column("v", type_)
    assert (report.rows, report.lost) == (sum(value is not None for value in old), 0)
    assert values(db, "v") == new
    db.retype_column("v", before)
    assert values(db, "v") == old


@pytest.mark.parametrize(
    ("old", "type_"),
    [([0.5], "int"), ([2], "bool"), ([5], "date"), ([2.0**70], "int"), (["9" * 30], "int"),
     ([datetime(2020, 1, 31, 5)], "date"), ([date(2020, 1, 31)], "int"), ([0.0], "bool")],
)  # fmt: skip
def test_a_value_that_would_change_is_refused(tmp_path: Path, old: list[Any], type_: str) -> None:
    db = LatentDB.create(tmp_path / "s.ldb", dim=1)
    db.add(["a"], np.zeros((1, 1)), metadata={"v": old})
    with pytest.raises(InvalidInputError, match=f"1 of 1 values of 'v' are no {type_}"):
        db.retype_column("v", type_)
    assert values(db, "v") == old


def test_columns_are_renamed_and_dropped(db: LatentDB) -> None:
    same_otherwise(db, lambda: db.rename_column("n", "Year / taken"))
    assert list(db.info().columns) == ["Year / taken", "label"]
    assert db.ids(where="`Year / taken` > 5") == ["r6", "r8"]
    same_otherwise(db, lambda: db.drop_column("label"))
    assert list(db.info().columns) == ["Year / taken"]
    db.add(["new"], np.zeros((1, 2)), z_log_var=np.zeros((1, 2)), metadata={"label": [5]})
    assert values(db, "label") == [None] * 8 + [5]
    for call in (
        lambda: db.rename_column("label", "Year / taken"),
        lambda: db.rename_column("none", "m"),
        lambda: db.rename_column("label", "row"),
        lambda: db.drop_column("none"),
        lambda: db.retype_column("none", "int"),
        lambda: db.retype_column("label", "text"),
    ):
        with pytest.raises(InvalidInputError):
            call()


@pytest.mark.parametrize("how", ["delete", "compact", "erase"])
def test_a_type_goes_with_its_last_value(db: LatentDB, how: str) -> None:
    log_vars = np.zeros((1, 2))
    with pytest.raises(InvalidInputError, match="'label' holds str"):
        db.add(["x"], log_vars, z_log_var=log_vars, metadata={"label": [1]})
    if how == "erase":
        db.update("label is not None", {"label": None})
    else:
        db.delete(where="label is not None")
    if how == "compact":
        db.compact()
    db.add(["x"], log_vars, z_log_var=log_vars, metadata={"label": [1]})
    assert db.info().columns["label"] == "int"
    assert db.ids(where="label == 1") == ["x"]
    assert LatentDB.verify(db._snapshot().folder).problems == ()


def test_a_type_goes_with_the_last_row(db: LatentDB, tmp_path: Path) -> None:
    db.delete(where='id != ""')
    other = LatentDB.create(tmp_path / "other.ldb", dim=2)
    zeros = np.zeros((1, 2))
    other.add(["a"], zeros, z_log_var=zeros, metadata={"label": [date(2020, 1, 1)], "n": ["x"]})
    for suffix in (".csv", ".h5"):
        other.export(tmp_path / f"o{suffix}")
        db.import_file(tmp_path / f"o{suffix}", on_conflict="replace")
        assert db.info().columns == {"n": "str", "label": "date"}
        db.update(["a"], {"label": None, "n": None})
        db.add(["b"], zeros, z_log_var=zeros, metadata={"label": [1.5], "n": [1]})
        db.delete(["b"])


def test_an_edit_keeps_the_search_index(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    db = LatentDB.create(tmp_path / "s.ldb", dim=8)
    db.add([str(n) for n in range(3000)], random.normal(size=(3000, 8)))
    db.optimize()
    index = db._snapshot().manifest.index
    db.update("id in ('5', '7')", {"mark": "here"})
    assert db._snapshot().manifest.index == index
    assert [match.id for match in db.query("5", k=2, where='mark == "here"')] == ["5", "7"]
