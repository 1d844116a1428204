"""Which index is built, how precise its codes are, and how rows are added to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from latentdb.ann import builder
from latentdb.ann.builder import build, extend
from latentdb.ann.index import VectorIndex
from latentdb.ann.plan import HNSW, IVF, IVF4, Plan
from latentdb.ann.ranking import rank
from latentdb.ann.tuning import Tuner
from latentdb.search.embedded_rows import uncertain_queries
from tests.ann.vectors import CLUSTERED_DIM as DIM
from tests.ann.vectors import NONE, Array, Rows, clustered, made, planned

# --- no index -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "scale"), [(IVF, 1.0), (IVF, 1e-25), (IVF4, 1e-25), (HNSW, 1e-25)]
)
def test_an_index_that_cannot_reach_the_recall_is_none(kind: str, scale: float) -> None:
    """Probing all 8-bit lists is no gain, and squares that underflow cannot be ranked."""
    noise = np.random.default_rng(0).normal(size=(1_500, 64)) * scale
    rows = Rows(noise.astype(np.float32))
    assert build(rows.blocks, 64, rows.fetch, planned(rows, kind), recall=1.0) is None


def test_of_four_bit_codes_every_list_is_worth_probing() -> None:
    """Latents near the prior have no clusters: neighbours are in lists everywhere."""
    random = np.random.default_rng(0)
    rows = Rows(random.normal(size=(3_000, 32)).astype(np.float32))
    index, _ = made(rows, IVF4, recall=0.99)
    assert index.nlist // 2 < index.nprobe(10) <= index.nlist
    assert index.composed_effort(10) is not None
    assert rows.recall(index, random.normal(size=(500, 32)).astype(np.float32), 10) >= 0.99


def test_an_empty_plan_builds_none() -> None:
    rows = Rows(clustered(100))
    assert build(rows.blocks, DIM, rows.fetch, Plan((), 1, 0, ""), recall=0.5) is None


@pytest.mark.parametrize("count", [1, 1_000])
@pytest.mark.parametrize("kind", [IVF, IVF4, HNSW])
def test_vectors_whose_squares_leave_float32_have_no_index(kind: str, count: int) -> None:
    """FAISS ends the process in k-means, or leaves such rows out of the index."""
    vectors = clustered(3_000)
    vectors[:: 3_000 // count] *= np.float32(1e25)
    rows = Rows(vectors)
    assert build(rows.blocks, DIM, rows.fetch, planned(rows, kind), recall=0.5) is None


# --- the fastest ----------------------------------------------------------------


@pytest.mark.parametrize(("kind", "ms"), [(IVF, (1.0, 2.0)), (HNSW, (2.0, 1.0))])
def test_the_fastest_index_is_used(
    kind: str, ms: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = iter(ms)
    monkeypatch.setattr(Tuner, "milliseconds", lambda self, index: next(taken))
    rows = Rows(clustered(2_000))
    index, tuning = made(rows, IVF, HNSW, recall=0.8)
    assert (index.kind, tuning.kind, tuning.milliseconds) == (kind, kind, 1.0)


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
def test_a_trial_graph_is_built_first(
    ms: tuple[float, ...], tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "_TRIAL_ROWS", 1_200)
    sizes: list[tuple[str, int]] = []
    taken = iter(ms)

    def milliseconds(self: Tuner, index: VectorIndex) -> float:
        sizes.append((index.kind, len(self.rows)))
        return next(taken)

    monkeypatch.setattr(Tuner, "milliseconds", milliseconds)
    index, _ = made(Rows(clustered(2_000)), IVF, HNSW, recall=0.8)
    every = [(IVF, 2_000), (HNSW, 1_200), (IVF, 1_200), (HNSW, 2_000)]
    assert sizes == every[:tried]
    assert index.kind == (HNSW if ms[3:] == (1.0,) else IVF)


# --- 4-bit codes ----------------------------------------------------------------


def islands(apart: int) -> Rows:
    """Clusters so many times farther from each other than they are wide."""
    random = np.random.default_rng(4)
    centres = apart * random.normal(size=(20, DIM))
    near = random.normal(size=(6_000, DIM))
    return Rows((centres[random.integers(20, size=6_000)] + near).astype(np.float32))


def test_4_bit_codes_are_used_where_they_are_precise() -> None:
    index, tuning = made(Rows(clustered(6_000)), IVF4, IVF)
    assert (index.kind, tuning.kind) == (IVF4, IVF4)
    assert tuning.parameters["width_10"] >= 36
    assert index.rerank_depth(7) == tuning.parameters["width_10"]
    assert index.rerank_depth(11) == tuning.parameters["width_100"]


def test_8_bit_codes_are_used_where_4_bits_are_too_coarse() -> None:
    rows = islands(1_000)
    index, tuning = made(rows, IVF4, IVF)
    assert (index.kind, tuning.kind) == (IVF, IVF)
    assert "width_10" not in tuning.parameters
    assert build(rows.blocks, DIM, rows.fetch, planned(rows, IVF4), recall=0.95) is None


@pytest.mark.parametrize(("apart", "rerank_depths"), [(2, range(36, 100)), (6, range(100, 145))])
def test_more_candidates_are_ranked_where_codes_are_coarser(
    apart: int, rerank_depths: range
) -> None:
    rows = islands(apart)
    index, tuning = made(rows, IVF4)
    assert tuning.parameters["width_10"] in rerank_depths
    queries = rows.vectors[::9] + np.float32(0.01)
    assert rows.recall(index, queries, 10) >= 0.93
    # Those with a neighbour in the second half of their candidates are searched again.
    candidates = index.search(queries, 10, NONE).rows
    found = rank(queries, candidates, rows.fetch, 10)[1]
    again = len(uncertain_queries(candidates, found)) / len(queries)
    assert again <= 0.03 or tuning.parameters["width_10"] == 144


# --- rotation -------------------------------------------------------------------


def test_dead_dimensions_have_no_codes() -> None:
    vectors = 1e-3 * np.random.default_rng(1).normal(size=(3_000, 64)).astype(np.float32)
    vectors[:, ::5] += clustered(3_000, dim=13)
    rows = Rows(vectors)
    index, tuning = made(rows)
    assert tuning.parameters["dims"] == 16
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
    index, tuning = made(rows, recall=0.9)
    assert tuning.parameters["dims"] == 48
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
    more, tuning = found
    assert (loaded.rows, more.rows, more.kind) == (2_500, 4_000, kind)
    np.testing.assert_array_equal(more.row_numbers(), rows.rows)
    assert tuning.queries == 375  # a quarter of the new ones
    for name, effort in first.parameters.items():
        if name.startswith("effort"):  # how composed queries are answered is measured anew
            assert tuning.parameters[name] >= effort
    assert rows.recall(more, clustered(500, seed=8), 10) >= 0.94


@pytest.mark.parametrize("kind", [IVF, IVF4, HNSW])
def test_deleted_rows_of_an_extended_index_are_not_fetched(kind: str) -> None:
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


def test_without_new_rows_or_with_overflowing_ones_nothing_is_extended() -> None:
    vectors = clustered(3_000)
    rows = Rows(vectors[:2_000])
    index, _ = made(rows)
    assert extend(index, rows.blocks, DIM, rows.fetch, recall=0.9) is None
    vectors[2_500] = 1e30
    rows = Rows(vectors)
    assert extend(index, rows.blocks, DIM, rows.fetch, recall=0.9) is None


def test_every_stage_is_reported() -> None:
    rows = Rows(clustered(2_000))
    reports: list[tuple[str, int, int]] = []
    report: Callable[[str, int, int], None] = lambda *at: reports.append(at)  # noqa: E731
    build(rows.blocks, DIM, rows.fetch, planned(rows), recall=0.8, report=report)
    assert [stage for stage, _, _ in reports] == [
        "training the search index",
        "building the search index",
        "building the search index",
        "tuning the search index",
    ]
    assert all(0 <= done <= total == 2_000 for _, done, total in reports)


def test_4_bit_quantizers_are_trained_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    threads = []
    train = faiss.IndexIVFPQFastScan.train

    def watched(self: Any, vectors: Array) -> None:
        threads.append((faiss.omp_get_max_threads(), self.quantizer.ntotal == self.nlist))
        train(self, vectors)

    monkeypatch.setattr(faiss.IndexIVFPQFastScan, "train", watched)
    before = faiss.omp_get_max_threads()
    made(Rows(clustered(3_000)), IVF4)
    assert threads == [(1, True)]  # k-means, which more threads make faster, is done
    assert faiss.omp_get_max_threads() == before
