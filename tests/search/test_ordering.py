"""Rows by a column: every type, both ways, over segments, missing values last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentdb import LatentDB
from latentdb.base.errors import InvalidInputError


def names_by(db: LatentDB, order_by: str) -> list[str]:
    return db.rows(order_by=order_by).ids


@pytest.fixture
def db(tmp_path: Path) -> LatentDB:
    """Two segments, whose text columns have other categories."""
    store = LatentDB.create(tmp_path / "a.ldb", dim=2)
    first: dict[str, Any] = {"year": [2001, None, 1999], "kind": ["b", "a", None]}
    store.add(["x", "y", "z"], np.zeros((3, 2)), metadata=first)
    second: dict[str, Any] = {"year": [2**53 + 1, 2**53], "kind": ["ä", "b"], "ok": [True, False]}
    store.add(["w", "v"], np.zeros((2, 2)), metadata=second)
    return store


@pytest.mark.parametrize(
    ("order_by", "names"),
    [
        ("year", "zxvwy"),  # as float64, 2**53 + 1 would equal 2**53
        ("-year", "wvxzy"),
        ("kind", "yxvwz"),
        ("-kind", "wxvyz"),
        ("ok", "vwxyz"),
        ("-ok", "wvxyz"),
        ("id", "vwxyz"),
        ("-id", "zyxwv"),
        ("path", "xyzwv"),
    ],
)
def test_the_order_of_rows(db: LatentDB, order_by: str, names: str) -> None:
    assert "".join(names_by(db, order_by)) == names


def test_an_unknown_column_is_named(db: LatentDB) -> None:
    with pytest.raises(InvalidInputError, match=r"no column 'size' .* id, path, kind, ok, year"):
        db.rows(order_by="size")


values = st.one_of(st.none(), st.integers(-3, 3))


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.lists(st.lists(values, min_size=1, max_size=6), min_size=1, max_size=3), st.booleans())
def test_it_is_that_of_python(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[int | None]], descending: bool
) -> None:
    folder = tmp_path_factory.mktemp("order")
    expected: list[tuple[str, int | None]] = []
    with LatentDB.create(folder / "a.ldb", dim=1) as store:
        store.add(["first"], np.zeros((1, 1)), metadata={"n": [0]})
        expected.append(("first", 0))
        for number, part in enumerate(parts):
            names = [f"{number}/{index}" for index in range(len(part))]
            store.add(names, np.zeros((len(part), 1)), metadata={"n": part})
            expected += zip(names, part, strict=True)
        known = [pair for pair in expected if pair[1] is not None]
        known.sort(key=lambda pair: (-1 if descending else 1) * (pair[1] or 0))
        missing = [pair for pair in expected if pair[1] is None]
        found = store.rows(order_by="-n" if descending else "n").ids
    assert found == [name for name, _ in known + missing]
