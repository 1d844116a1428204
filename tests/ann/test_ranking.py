"""Candidates are ranked by their true distance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentdb.ann.ranking import Matrix, rank
from latentdb.base.errors import CorruptStoreError


def test_rank_orders_by_true_distance_then_by_row() -> None:
    vectors = np.array([[3], [1], [-1], [0], [1]], np.float32)
    candidates = np.array([[4, 0, -1, 2, 1, 3]])
    distances, rows = rank(np.zeros((1, 1), np.float32), candidates, lambda r: vectors[r], 6)
    assert rows.tolist() == [[3, 1, 2, 4, 0, -1]]
    assert distances.tolist() == [[0, 1, 1, 1, 3, np.inf]]


def test_rank_computes_in_float64() -> None:
    """1 apart at 2**24: in float32 the squares of the coordinates would swallow it."""
    vectors = np.array([[2**24, 1], [2**24, 0]], np.float32)
    query = np.array([[2**24, 0]], np.float32)
    distances, rows = rank(query, np.array([[0, 1]]), lambda r: vectors[r], 2)
    assert rows.tolist() == [[1, 0]]
    assert distances.tolist() == [[0, 1]]


@pytest.mark.parametrize("k", [1, 10, 40])
@pytest.mark.parametrize(
    ("offset", "scale"), [(0, 1), (1000, 1), (1000, 1e-4), (0, 1e-17), (0, 1e18), (0, 1e20)]
)
def test_a_query_is_ranked_alone_as_among_others(offset: float, scale: float, k: int) -> None:
    """In float64, bit by bit; float32 only leaves out what is clearly farther."""
    random = np.random.default_rng(0)
    vectors = (offset + scale * random.normal(size=(300, 64))).astype(np.float32)
    vectors[100:120], vectors[200:] = vectors[100], vectors[:100]  # ties
    queries = np.concatenate([vectors[:12], vectors[:12] + np.float32(scale / 50)])
    candidates = np.array([random.permutation(300)[:250] for _ in queries])
    together = rank(queries, candidates, lambda rows: vectors[rows], k)
    for number in range(len(queries)):
        one = slice(number, number + 1)
        alone = rank(queries[one], candidates[one], lambda rows: vectors[rows], k)
        for mine, theirs in zip(alone, together, strict=True):
            np.testing.assert_array_equal(mine, theirs[one])


@pytest.mark.parametrize("count", [1, 8, 30])
def test_no_candidates_are_ranked_to_nothing(count: int) -> None:
    queries = np.zeros((count, 3), np.float32)
    none = np.empty((count, 0), np.int64)
    distances, rows = rank(queries, none, lambda r: queries[r], 4)
    assert rows.tolist() == [[-1] * 4] * count
    assert np.isinf(distances).all()


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.data())
def test_vectors_within_reach_are_ranked_as_if_they_were_fetched(data: st.DataObject) -> None:
    """With candidates that were deleted, wherever among the others, and ties."""
    random = np.random.default_rng(data.draw(st.integers(0, 999)))
    count, k = data.draw(st.sampled_from([1, 2, 9])), data.draw(st.integers(1, 30))
    first, width = data.draw(st.sampled_from([0, 70])), data.draw(st.integers(1, 60))
    vectors = random.integers(-3, 3, size=(60, 4)).astype(np.float32)
    queries = random.normal(size=(count, 4)).astype(np.float32)
    candidates = np.array([first + random.permutation(60)[:width] for _ in queries])
    share = data.draw(st.sampled_from([0, 0.2, 0.9, 1]))
    candidates[random.random(candidates.shape) < share] = random.choice([-1, -2])
    near = rank(queries, candidates, Matrix(first, vectors), k)
    far = rank(queries, candidates, lambda rows: vectors[rows - first], k)
    for mine, theirs in zip(near, far, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for number, query in enumerate(queries):
        rows = np.sort(candidates[number][candidates[number] >= 0])
        squares = ((vectors[rows - first].astype(np.float64) - query) ** 2).sum(axis=1)
        expected = rows[squares.argsort(kind="stable")][:k].tolist()
        assert near[1][number].tolist() == expected + [-1] * (k - len(expected))


@pytest.mark.parametrize("row", [69, 130, 2**62])
@pytest.mark.parametrize("others", [[70, 71], [70, -1]])
def test_a_candidate_that_is_no_row_is_told(row: int, others: list[int]) -> None:
    matrix = Matrix(70, np.zeros((60, 4), np.float32))
    with pytest.raises(CorruptStoreError, match=f"row {row} is a candidate and not in the store"):
        rank(np.zeros((1, 4), np.float32), np.array([[*others, row]]), matrix, 2)
