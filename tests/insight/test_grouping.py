"""Groups by complete linkage: everyone is near to everyone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform

from latentdb.insight.grouping import Pairs, complete_linkage


def pairs_below(points: np.ndarray, threshold: float) -> Pairs:
    square = squareform(pdist(points))
    first, second = np.nonzero(np.triu(square <= threshold, 1))
    return Pairs(first, second, square[first, second])


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.integers(2, 40), st.integers(0, 10_000), st.floats(0.05, 1.5))
def test_groups_are_those_of_scipy(count: int, seed: int, threshold: float) -> None:
    points = np.random.default_rng(seed).normal(size=(count, 2))
    flat = fcluster(linkage(points, "complete"), threshold, "distance")
    wanted = [np.flatnonzero(flat == name).tolist() for name in np.unique(flat)]
    found = [rows.tolist() for rows in complete_linkage(pairs_below(points, threshold))]
    assert found == sorted(rows for rows in wanted if len(rows) > 1)


def test_a_chain_is_not_one_group() -> None:
    chain = np.arange(6, dtype=float)[:, None] + np.array([0, 0.3, 0, 0.3, 0, 0.3])[:, None]
    groups = complete_linkage(pairs_below(chain, 1.5))
    assert all(np.ptp(chain[rows]) <= 1.5 for rows in groups)
    assert len(groups) > 1


def test_no_pairs() -> None:
    none = np.empty(0, np.int64)
    assert complete_linkage(Pairs(none, none, np.empty(0))) == []


def test_many_equal_rows_are_one_group() -> None:
    first, second = np.triu_indices(60, 1)
    (rows,) = complete_linkage(Pairs(first, second, np.zeros(len(first))))
    assert rows.tolist() == list(range(60))
