"""Building and tuning: what is promised is measured on rows the index did not have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from latentdb.ann import tuning
from latentdb.ann.exact import Block, fits_float32, rank
from latentdb.ann.index import VectorIndex
from latentdb.ann.plan import HNSW, IVF, IVF4, Plan, nlist_for
from latentdb.ann.tuning import QUERIES, TUNED_K, build, extend

DIM = 12
NONE = np.empty(0, np.int64)
Array = NDArray[Any]


def clustered(count: int, seed: int = 0, dim: int = DIM) -> Array:
    random = np.random.default_rng(seed)
    centres = 2 * np.random.default_rng(99).normal(size=(30, dim))
    noise = random.normal(size=(count, dim))
    return (centres[random.integers(30, size=count)] + noise).astype(np.float32)


class Rows:
    """Vectors with row numbers, as a store gives them."""

    def __init__(self, vectors: Array, keep: Array | None = None, first: int = 0) -> None:
        self.vectors, self.first = vectors, first
        self.keep = np.ones(len(vectors), bool) if keep is None else keep
        self.rows = np.arange(first, first + len(vectors))

    def blocks(self) -> Iterator[Block]:
        half = len(self.rows) // 2
        for part in (slice(0, half), slice(half, None)):
            yield Block(self.rows[part], self.vectors[part], self.keep[part])

    def fetch(self, rows: Array) -> Array:
        assert self.keep[rows - self.first].all(), "a row that is not there was asked for"
        return np.asarray(self.vectors[rows - self.first])

    def truth(self, queries: Array, k: int) -> Array:
        live = np.flatnonzero(self.keep)
        own = self.vectors[live].astype(np.float64)
        squares = (own**2).sum(axis=1) - 2 * queries.astype(np.float64) @ own.T
        return self.rows[live[np.argsort(squares, axis=1, kind="stable")[:, :k]]]

    def recall(self, index: VectorIndex, queries: Array, k: int, deleted: Array = NONE) -> float:
        candidates = index.search(queries, k, deleted).rows
        found = rank(queries, candidates, self.fetch, k)[1]
        pairs = zip(found, self.truth(queries, k), strict=True)
        return float(np.mean([np.isin(true, own).mean() for own, true in pairs]))


def planned(rows: Rows, *kinds: str) -> Plan:
    return Plan(kinds or (IVF,), nlist_for(int(rows.keep.sum())), 0, "")


def made(rows: Rows, *kinds: str, recall: float = 0.95) -> tuple[VectorIndex, tuning.Tuning]:
    found = build(
        rows.blocks, rows.vectors.shape[1], rows.fetch, planned(rows, *kinds), recall=recall
    )
    assert found is not None
    return found


# --- the promise ----------------------------------------------------------------


@pytest.fixture(scope="module", params=[IVF, IVF4, HNSW])
def built(request: pytest.FixtureRequest) -> tuple[Rows, VectorIndex, tuning.Tuning]:
    rows = Rows(clustered(6_000), np.random.default_rng(5).random(6_000) < 0.9, first=500)
    return (rows, *made(rows, request.param))


@pytest.mark.parametrize("k", [1, 10, 100])
def test_queries_nobody_tuned_on_reach_the_recall(
    built: tuple[Rows, VectorIndex, tuning.Tuning], k: int
) -> None:
    rows, index, _ = built
    assert rows.recall(index, clustered(600, seed=7), k) >= 0.95


def test_at_least_500_rows_were_asked_for(built: tuple[Rows, VectorIndex, tuning.Tuning]) -> None:
    _, _, told = built
    assert told.queries == 2 * QUERIES >= 500
    assert told.recall >= 0.95
    assert told.k == TUNED_K[0]
    assert told.milliseconds > 0
    assert told.seconds > 0


def test_rows_held_out_end_in_the_index(built: tuple[Rows, VectorIndex, tuning.Tuning]) -> None:
    rows, index, _ = built
    np.testing.assert_array_equal(index.row_numbers(), rows.rows[rows.keep])
    assert index.rows == rows.keep.sum()
    asked = rows.rows[rows.keep]
    found = rank(rows.fetch(asked), index.search(rows.fetch(asked), 1, NONE).rows, rows.fetch, 1)
    assert (found[1][:, 0] == asked).mean() >= 0.95


def test_more_neighbours_take_no_less_effort(
    built: tuple[Rows, VectorIndex, tuning.Tuning],
) -> None:
    nprobes = list(built[1].nprobes.values())
    assert list(built[1].nprobes) == [10, 100]  # 1,000 would be a sixth of all rows
    assert nprobes == sorted(nprobes)


def test_no_more_lists_are_probed_than_the_recall_needs() -> None:
    rows = Rows(clustered(6_000))
    index, told = made(rows)
    queries = clustered(600, seed=7)
    truth = rows.truth(queries, 10)
    fewer = 2 * told.parameters["effort_10"] // 3
    found = rank(queries, index.probe(queries, 10, fewer, NONE).rows, rows.fetch, 10)[1]
    assert fewer >= 2
    assert np.mean([np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)]) < 0.95


def test_held_out_rows_are_no_answer_while_they_are_asked_for(
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
def test_whatever_was_built_keeps_its_promise(seed: int, recall: float, dim: int) -> None:
    rows = Rows(clustered(2_000, seed, dim))
    found = build(rows.blocks, dim, rows.fetch, planned(rows), recall=recall)
    if found is not None:
        assert found[1].recall >= recall
        assert rows.recall(found[0], clustered(400, seed + 1, dim), 10) >= recall - 0.02


# --- no index -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "scale"), [(IVF, 1.0), (IVF, 1e-25), (IVF4, 1.0), (IVF4, 1e-25), (HNSW, 1e-25)]
)
def test_what_cannot_reach_the_recall_is_none(kind: str, scale: float) -> None:
    """All of one list is no gain, and squares that vanish tell nothing apart."""
    noise = np.random.default_rng(0).normal(size=(1_500, 64)) * scale
    rows = Rows(noise.astype(np.float32))
    assert build(rows.blocks, 64, rows.fetch, planned(rows, kind), recall=1.0) is None


def test_of_no_kinds_none_is_built() -> None:
    rows = Rows(clustered(100))
    assert build(rows.blocks, DIM, rows.fetch, Plan((), 1, 0, ""), recall=0.5) is None


@pytest.mark.parametrize("count", [1, 1_000])
@pytest.mark.parametrize("kind", [IVF, IVF4, HNSW])
def test_vectors_whose_squares_leave_float32_have_no_index(kind: str, count: int) -> None:
    """faiss ends the process in k-means, or leaves such rows out of the index."""
    vectors = clustered(3_000)
    vectors[:: 3_000 // count] *= np.float32(1e25)
    rows = Rows(vectors)
    assert build(rows.blocks, DIM, rows.fetch, planned(rows, kind), recall=0.5) is None


@given(st.integers(1, 300), st.floats(0, 3e38), st.integers(0, 2**31))
def test_what_fits_float32_has_finite_squares(dim: int, scale: float, seed: int) -> None:
    vectors = (np.random.default_rng(seed).uniform(-1, 1, size=(4, dim)) * scale).astype(np.float32)
    if fits_float32(vectors):
        with np.errstate(over="raise"):
            assert np.isfinite(((vectors[:1] - vectors) ** 2).sum(axis=1)).all()
            assert np.isfinite(((vectors[:1] + vectors) ** 2).sum(axis=1)).all()


# --- the fastest ----------------------------------------------------------------


@pytest.mark.parametrize(("kind", "ms"), [(IVF, (1.0, 2.0)), (HNSW, (2.0, 1.0))])
def test_the_fastest_is_kept(
    kind: str, ms: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = iter(ms)
    monkeypatch.setattr(tuning._Task, "milliseconds", lambda self, index: next(taken))
    rows = Rows(clustered(2_000))
    index, told = made(rows, IVF, HNSW, recall=0.8)
    assert (index.kind, told.kind, told.milliseconds) == (kind, kind, 1.0)


@pytest.mark.parametrize(
    ("ms", "tried"),
    [
        ((1.0, 9.0), 2),
        ((9.0, 5.0), 2),
        ((9.0, 3.0, 1.0), 3),
        ((9.0, 1.0, 0.9, 1.0), 4),
        ((9.0, 1.0, 0.9, 10.0), 4),
    ],
)
def test_a_graph_is_tried_on_some_rows_first(
    ms: tuple[float, ...], tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_TRIAL", 1_200)
    sizes: list[tuple[str, int]] = []
    taken = iter(ms)

    def milliseconds(self: tuning._Task, index: VectorIndex) -> float:
        sizes.append((index.kind, len(self.rows)))
        return next(taken)

    monkeypatch.setattr(tuning._Task, "milliseconds", milliseconds)
    index, _ = made(Rows(clustered(2_000)), IVF, HNSW, recall=0.8)
    every = [(IVF, 2_000), (HNSW, 1_200), (IVF, 1_200), (HNSW, 2_000)]
    assert sizes == every[:tried]
    assert index.kind == (HNSW if ms[3:] == (1.0,) else IVF)


# --- codes of 4 bits ------------------------------------------------------------


def islands(apart: int) -> Rows:
    """Clusters so many times farther from each other than they are wide."""
    random = np.random.default_rng(4)
    centres = apart * random.normal(size=(20, DIM))
    near = random.normal(size=(6_000, DIM))
    return Rows((centres[random.integers(20, size=6_000)] + near).astype(np.float32))


def test_codes_of_four_bits_are_taken_where_they_tell_neighbours_apart() -> None:
    index, told = made(Rows(clustered(6_000)), IVF4, IVF)
    assert (index.kind, told.kind) == (IVF4, IVF4)
    assert told.parameters["width_10"] >= 36
    assert index.rerank_depth(7) == told.parameters["width_10"]
    assert index.rerank_depth(11) == told.parameters["width_100"]


def test_codes_of_eight_bits_are_built_where_four_do_not_tell_neighbours_apart() -> None:
    rows = islands(1_000)
    index, told = made(rows, IVF4, IVF)
    assert (index.kind, told.kind) == (IVF, IVF)
    assert "width_10" not in told.parameters
    assert build(rows.blocks, DIM, rows.fetch, planned(rows, IVF4), recall=0.95) is None


@pytest.mark.parametrize(("apart", "rerank_depths"), [(2, (36,)), (6, (72, 144))])
def test_more_candidates_are_ranked_where_codes_tell_less(
    apart: int, rerank_depths: tuple[int, ...]
) -> None:
    rows = islands(apart)
    index, told = made(rows, IVF4)
    assert told.parameters["width_10"] in rerank_depths
    assert rows.recall(index, rows.vectors[::9] + np.float32(0.01), 10) >= 0.93


# --- axes -----------------------------------------------------------------------


def test_dead_dimensions_leave_the_codes() -> None:
    vectors = 1e-3 * np.random.default_rng(1).normal(size=(3_000, 64)).astype(np.float32)
    vectors[:, ::5] += clustered(3_000, dim=13)
    rows = Rows(vectors)
    index, told = made(rows)
    assert told.parameters["dims"] == 16
    assert index._inner.code_size == 16
    assert index._outer.d == 64
    assert rows.recall(index, rows.vectors[::9] + np.float32(0.01), 10) >= 0.93
    data = bytes(index.dump())
    loaded = VectorIndex.load(data, index.parameters, rows=3_000, dim=64)
    np.testing.assert_array_equal(
        loaded.search(vectors[:50], 10, NONE).rows, index.search(vectors[:50], 10, NONE).rows
    )


def test_dimensions_that_all_vary_stay() -> None:
    assert made(Rows(clustered(3_000, dim=48)), recall=0.8)[1].parameters["dims"] == 48
    assert made(Rows(clustered(3_000, dim=12)))[1].parameters["dims"] == 12


def test_neighbours_that_differ_along_quiet_dimensions_are_found() -> None:
    """One loud dimension has nearly all the variance, and tells no neighbours apart."""
    random = np.random.default_rng(2)
    centres = random.normal(size=(8, 47))
    vectors = np.empty((4_000, 48), np.float32)
    vectors[:, 0] = 1_000 * (np.arange(4_000) % 3)
    vectors[:, 1:] = centres[random.integers(8, size=4_000)] + 0.05 * random.normal(
        size=(4_000, 47)
    )
    rows = Rows(vectors)
    index, told = made(rows, recall=0.9)
    assert told.parameters["dims"] == 48
    assert rows.recall(index, vectors[::20], 10) >= 0.9


# --- rows that came later -------------------------------------------------------


@pytest.mark.parametrize("kind", [IVF, IVF4, HNSW])
def test_an_index_is_extended_by_the_rows_it_has_not(kind: str) -> None:
    vectors = clustered(4_000)
    before = Rows(vectors[:2_500])
    index, first = made(before, kind)
    loaded = VectorIndex.load(bytes(index.dump()), index.parameters, rows=2_500, dim=DIM)
    rows = Rows(vectors)
    found = extend(loaded.copy(), rows.blocks, DIM, rows.fetch, recall=0.95)
    assert found is not None
    more, told = found
    assert (loaded.rows, more.rows, more.kind) == (2_500, 4_000, kind)
    np.testing.assert_array_equal(more.row_numbers(), rows.rows)
    assert told.queries == 375  # a quarter of the new ones
    for k, effort in first.parameters.items():
        assert told.parameters[k] >= effort
    assert rows.recall(more, clustered(500, seed=8), 10) >= 0.94


@pytest.mark.parametrize("kind", [IVF, IVF4, HNSW])
def test_deleted_rows_of_an_index_that_is_extended_are_not_asked_for(kind: str) -> None:
    """They may have been compacted away: `Rows.fetch` refuses them."""
    vectors = clustered(3_500)
    index, _ = made(Rows(vectors[:2_000]), kind)
    keep = np.ones(3_500, bool)
    keep[np.random.default_rng(0).choice(2_000, 160, replace=False)] = False
    rows = Rows(vectors, keep)
    deleted = np.flatnonzero(~keep)
    found = extend(index, rows.blocks, DIM, rows.fetch, recall=0.95, deleted=deleted)
    assert found is not None
    assert found[0].rows == 3_500
    assert rows.recall(found[0], clustered(400, seed=8), 10, deleted) >= 0.93


def test_without_new_rows_or_with_immeasurable_ones_nothing_is_extended() -> None:
    vectors = clustered(3_000)
    rows = Rows(vectors[:2_000])
    index, _ = made(rows)
    assert extend(index, rows.blocks, DIM, rows.fetch, recall=0.9) is None
    vectors[2_500] = 1e30
    rows = Rows(vectors)
    assert extend(index, rows.blocks, DIM, rows.fetch, recall=0.9) is None


def test_what_was_done_is_reported() -> None:
    rows = Rows(clustered(2_000))
    told: list[tuple[str, int, int]] = []
    report: Callable[[str, int, int], None] = lambda *at: told.append(at)  # noqa: E731
    build(rows.blocks, DIM, rows.fetch, planned(rows), recall=0.8, report=report)
    assert [stage for stage, _, _ in told] == [
        "training the search index",
        "building the search index",
        "building the search index",
        "tuning the search index",
    ]
    assert all(0 <= done <= total == 2_000 for _, done, total in told)
