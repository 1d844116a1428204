"""Typed metadata: how columns get their types, and what metadata files give."""

from __future__ import annotations

import math
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentdb.base.errors import InvalidInputError
from latentdb.search.filters import Filter
from latentdb.store.columns import (
    COLUMN_TYPES,
    DTYPES,
    RESERVED,
    Column,
    absent,
    check_key,
    escape_key,
    join,
    make_column,
    make_columns,
    quoted,
    unescape_key,
)

UTC_2 = timezone(timedelta(hours=2))
TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "str": TEXT,
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "date": st.dates(),
    "datetime": st.datetimes(),
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


# --- keys ----------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["label", "Year", "_x", "größe", "年", "a1", "type", "match"])
def test_a_key_that_is_taken_can_be_named_in_an_expression(key: str) -> None:
    check_key(key)
    column = make_column(key, [1, 2])
    assert column is not None
    assert Filter(f"{key} == 2", {key: "int"}).mask(lambda _: column).tolist() == [False, True]


ANY_KEYS = (
    "a b", "1a", "a-b", "exif.iso", "a/b", "..", "class", "None", "and", "\ufb01le", " a", "%2F",
    "`", "a``b", '"', "\\", "\u4e00_", "a'b`c\"d", "missing", "x.missing", "100 %", "\u3000",
)  # fmt: skip


@pytest.mark.parametrize("key", ANY_KEYS)
def test_any_other_key_can_be_named_between_backticks(key: str) -> None:
    check_key(key)
    column = make_column(key, [1, 2])
    assert column is not None
    where = Filter(f"{quoted(key)} == 2 and not `\u4e00` > 1", {key: "int", "\u4e00": "int"})
    other = make_column("other", [0, 0])
    assert other is not None
    columns = {key: column, "\u4e00": other}
    assert where.mask(columns.__getitem__).tolist() == [False, True]


@given(st.text(min_size=1))
def test_a_key_comes_back_from_its_name_in_hdf5(key: str) -> None:
    name = escape_key(key)
    assert unescape_key(name) == key
    assert not set("/.") & set(name)


@pytest.mark.parametrize("key", ["", "a\n", "\ud800", "\0", "a\tb", "\u202e", 5, None])
def test_a_key_that_cannot_be_shown_is_refused(key: Any) -> None:
    with pytest.raises(InvalidInputError, match="give a text of printable characters"):
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
        ([date(2020, 1, 31), None], "date", [date(2020, 1, 31), None]),
        ([datetime(2020, 1, 31, 5, tzinfo=UTC_2)], "datetime", [datetime(2020, 1, 31, 3)]),
        (np.array(["2020-01", "NaT"], "M8[M]"), "date", [date(2020, 1, 1), None]),
        (np.array(["2020-01-31", "NaT"], "M8[D]"), "date", [date(2020, 1, 31), None]),
        (np.array(["2020-01-31", "NaT"], "M8[ns]"), "datetime", [datetime(2020, 1, 31), None]),
        ([np.datetime64("2020-01-31T05:00", "s")], "datetime", [datetime(2020, 1, 31, 5)]),
        ([np.datetime64("2020-01-31", "D")], "date", [date(2020, 1, 31)]),
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
        (np.zeros(1, "m8[s]"), "value of type timedelta"),
        ([date(2020, 1, 1), datetime(2020, 1, 1)], "mixes date and datetime"),
        ([date(2020, 1, 1), "2020-01-01"], "mixes date and str"),
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
        ({"a\n": [1, 2]}, r"'a\\n' cannot be used"),
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
