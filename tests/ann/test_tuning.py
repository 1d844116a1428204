"""The recall that is promised: measured on rows that the index did not have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentdb.ann.builder import build
from latentdb.ann.index import VectorIndex
from latentdb.ann.plan import HNSW, IVF, IVF4
from latentdb.ann.ranking import rank
from latentdb.ann.tuning import QUERIES, TUNED_K, Tuning
from tests.ann.vectors import NONE, Array, Rows, clustered, made, planned


@pytest.fixture(scope="module", params=[IVF, IVF4, HNSW])
def built(request: pytest.FixtureRequest) -> tuple[Rows, VectorIndex, Tuning]:
    rows = Rows(clustered(6_000), np.random.default_rng(5).random(6_000) < 0.9, first=500)
    return (rows, *made(rows, request.param))


@pytest.mark.parametrize("k", [1, 10, 100])
def test_queries_nobody_tuned_on_reach_the_recall(
    built: tuple[Rows, VectorIndex, Tuning], k: int
) -> None:
    rows, index, _ = built
    assert rows.recall(index, clustered(600, seed=7), k) >= 0.95


def test_at_least_500_rows_are_queries(built: tuple[Rows, VectorIndex, Tuning]) -> None:
    _, _, tuning = built
    assert tuning.queries == 2 * QUERIES >= 500
    assert tuning.recall >= 0.95
    assert tuning.k == TUNED_K[0]
    assert tuning.milliseconds > 0
    assert tuning.seconds > 0


def test_held_out_rows_are_in_the_index_at_the_end(built: tuple[Rows, VectorIndex, Tuning]) -> None:
    rows, index, _ = built
    np.testing.assert_array_equal(index.row_numbers(), rows.rows[rows.keep])
    assert index.rows == rows.keep.sum()
    asked = rows.rows[rows.keep]
    found = rank(rows.fetch(asked), index.search(rows.fetch(asked), 1, NONE).rows, rows.fetch, 1)
    assert (found[1][:, 0] == asked).mean() >= 0.95


def test_more_neighbours_take_no_smaller_nprobe(
    built: tuple[Rows, VectorIndex, Tuning],
) -> None:
    nprobes = list(built[1].nprobes.values())
    assert list(built[1].nprobes) == [10, 100]  # 1,000 would be a sixth of all rows
    assert nprobes == sorted(nprobes)


def test_no_more_lists_are_probed_than_the_recall_needs() -> None:
    rows = Rows(clustered(6_000))
    index, tuning = made(rows)
    queries = clustered(600, seed=7)
    truth = rows.truth(queries, 10)
    fewer = 2 * tuning.parameters["effort_10"] // 3
    found = rank(queries, index.probe(queries, 10, fewer, NONE).rows, rows.fetch, 10)[1]
    assert fewer >= 2
    assert np.mean([np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)]) < 0.95


def test_held_out_rows_are_not_in_the_index_while_they_are_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise each would find itself, and the recall would look better than it is."""
    rows = Rows(clustered(3_000))
    seen: list[tuple[int, int]] = []
    probe = VectorIndex.probe

    def watched(self: VectorIndex, queries: Array, *how: Any) -> Any:
        found = probe(self, queries, *how)
        itself = (rows.vectors[np.maximum(found.rows[:, :1], 0)] == queries[:, None]).all(axis=2)
        seen.append((int(itself.sum()), len(queries)))
        return found

    monkeypatch.setattr(VectorIndex, "probe", watched)
    made(rows)
    assert sum(count for _, count in seen) > QUERIES
    assert sum(own for own, _ in seen) == 0


@settings(deadline=None, max_examples=3, derandomize=True)
@given(st.integers(0, 1000), st.sampled_from([0.5, 0.8, 0.9]), st.sampled_from([2, 5, 20]))
def test_every_index_built_reaches_its_recall(seed: int, recall: float, dim: int) -> None:
    rows = Rows(clustered(2_000, seed, dim))
    found = build(rows.blocks, dim, rows.fetch, planned(rows), recall=recall)
    if found is not None:
        assert found[1].recall >= recall
        assert rows.recall(found[0], clustered(400, seed + 1, dim), 10) >= recall - 0.02
