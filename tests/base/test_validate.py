"""Checks of vectors and ids: what is accepted, what is refused, and the message."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from latentdb.base.errors import InvalidInputError
from latentdb.base.validate import as_latents, check_ids

ITSELF: list[Any] = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize("dtype", ["f2", ">f4", "<f4", "f8", "longdouble", "i1", "u2", "i8", "u8"])
def test_numbers_of_any_kind_become_float32(dtype: str) -> None:
    given_values = np.array([[1, 2], [3, 4]], dtype)
    latents = as_latents(given_values, 2, "queries")
    assert latents.dtype == np.dtype("float32")
    assert latents.dtype.isnative
    assert latents.flags.c_contiguous
    assert latents.tolist() == [[1, 2], [3, 4]]


def test_lists_and_transposed_arrays_are_taken() -> None:
    assert as_latents([[1, 2.5]], 2, "queries").tolist() == [[1, 2.5]]
    transposed = np.arange(6, dtype=np.float32).reshape(2, 3).T
    latents = as_latents(transposed, 2, "queries")
    assert latents.flags.c_contiguous
    assert latents.tolist() == transposed.tolist()


def test_no_rows_are_rows_too() -> None:
    assert as_latents(np.zeros((0, 3)), 3, "queries").shape == (0, 3)


@pytest.mark.parametrize(
    "values",
    [
        None,
        "text",
        [["a", "b"]],
        [[1j, 2]],
        [[True, False]],
        [[None, 1]],
        [[1, 2], [3]],
        [[10**400, 0]],
        {1: 2},
        np.zeros((1, 2), "M8[ns]"),
        np.zeros(2, [("x", "f4"), ("y", "f4")]),
        ITSELF,
        object(),
    ],
    ids=lambda value: repr(value)[:20],  # without an address, which differs from run to run
)
def test_what_is_no_number_is_refused(values: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"queries are not numbers .*expected \[n, 2\]"):
        as_latents(values, 2, "queries")


@pytest.mark.parametrize(
    "values", [5, [], [1, 2], [[]], np.zeros((2, 3)), np.zeros((1, 1, 2)), np.zeros((2, 1))]
)
def test_another_shape_is_refused(values: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"queries have shape \[.*\]: expected \[n, 2\]"):
        as_latents(values, 2, "queries")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39, -1e300])
def test_the_first_row_that_is_not_finite_as_float32_is_named(value: float) -> None:
    values = np.zeros((5, 2))
    values[3, 1] = values[4, 0] = value
    with pytest.raises(InvalidInputError, match="not finite in row 3"):
        as_latents(values, 2, "queries")


@given(hnp.arrays("f8", st.tuples(st.integers(0, 4), st.just(3))))
def test_what_is_taken_is_finite_and_the_nearest_float32(values: Any) -> None:
    with np.errstate(over="ignore"):
        expected = values.astype(np.float32)
    try:
        latents = as_latents(values, 3, "queries")
    except InvalidInputError:
        assert not np.isfinite(expected).all()
    else:
        assert np.array_equal(latents, expected)
        assert np.isfinite(latents).all()


def test_a_masked_value_is_not_taken_for_a_number() -> None:
    masked = np.ma.MaskedArray([[1.0, 2.0]], [[False, True]])
    with pytest.raises(InvalidInputError, match="some values are masked"):
        as_latents(masked, 2, "queries")


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1)))
def test_ids_of_any_text_are_taken_in_order(ids: list[str]) -> None:
    assert check_ids(ids, unique=False) == ids
    distinct = list(dict.fromkeys(ids))
    assert check_ids(distinct) == distinct


@pytest.mark.parametrize(
    "ids", [("a", "b"), np.array(["a", "b"]), {"a": 1, "b": 2}, iter(["a", "b"])]
)
def test_ids_of_any_iterable_become_a_list(ids: Any) -> None:
    assert check_ids(ids) == ["a", "b"]


@pytest.mark.parametrize("bad", ["", None, 7, b"a", ["a"], "a\0b", np.int64(3)])
def test_an_id_that_is_no_text_is_named(bad: Any) -> None:
    with pytest.raises(InvalidInputError, match="cannot be used") as caught:
        check_ids(["fine", bad])
    assert repr(bad) in str(caught.value)


def test_an_id_that_is_not_valid_unicode_is_named() -> None:
    with pytest.raises(InvalidInputError, match=r"'\\udcff.jpg' is not valid Unicode"):
        check_ids(["a", "\udcff.jpg"])


def test_an_id_given_twice_is_refused_only_where_that_matters() -> None:
    with pytest.raises(InvalidInputError, match="id 'b' is given twice"):
        check_ids(["a", "b", "c", "b"])
    assert check_ids(["a", "b", "b"], unique=False) == ["a", "b", "b"]


def test_a_single_text_is_not_taken_for_a_list_of_letters() -> None:
    with pytest.raises(InvalidInputError, match="single text 'abc': give a list"):
        check_ids("abc")


@pytest.mark.parametrize("ids", [None, 5, np.array("a")])
def test_ids_that_are_no_list_are_refused(ids: Any) -> None:
    with pytest.raises(InvalidInputError, match="is not a list: give a list of ids"):
        check_ids(ids)
