"""Which index suits a store: a pure function, checked over many sizes."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentdb.ann import plan as plans
from latentdb.ann.plan import (
    HNSW,
    IVF,
    IVF4,
    PREFERENCES,
    exact_rows,
    index_bytes,
    nlist_for,
    plan,
)

rows = st.integers(0, 10**9)
dims = st.integers(1, 4096)
prefers = st.sampled_from(PREFERENCES)


@pytest.mark.parametrize(("prefer", "most"), [(PREFERENCES[0], 50_000), (PREFERENCES[1], 20_000)])
def test_a_small_store_is_scanned(prefer: str, most: int) -> None:
    chosen = plan(most, 64, prefer=prefer)
    assert chosen.kinds == ()
    assert chosen.bytes == 0
    assert chosen.why == f"{most:,} rows of 64 dimensions are few: all are compared"
    assert plan(most + 1, 64, prefer=prefer).kinds != ()
    assert exact_rows(64, prefer=prefer) == most


@pytest.mark.parametrize(
    ("dim", "most"),
    [
        (1, 50_000),
        (64, 50_000),
        (65, 49_230),
        (100, 32_000),
        (128, 25_000),
        (160, 20_000),
        (512, 20_000),
    ],
)
def test_the_more_dimensions_the_fewer_rows_are_scanned(dim: int, most: int) -> None:
    assert exact_rows(dim) == most
    assert plan(most, dim).kinds == ()
    assert plan(most + 1, dim).kinds == (IVF4, IVF)


def test_the_limit_is_looked_up_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "EXACT_ROWS", 100)
    assert [exact_rows(dim) for dim in (8, 64, 128, 1000)] == [100, 100, 50, 40]
    assert plan(101, 64).kinds == (IVF4, IVF)


def test_a_graph_is_tried_only_where_short_queries_are_preferred() -> None:
    assert plan(10**6, 64).kinds == (IVF4, IVF)
    assert plan(10**6, 64, prefer="latency").kinds == (IVF4, IVF, HNSW)
    assert plan(10**6, 64, prefer="latency").why == ""


def test_an_index_that_does_not_fit_is_left_out_with_the_reason() -> None:
    between = (index_bytes(IVF, 10**6, 64) + index_bytes(HNSW, 10**6, 64)) // 2
    chosen = plan(10**6, 64, between, prefer="latency")
    assert chosen.kinds == (IVF4, IVF)
    assert chosen.why == (
        f"hnsw-sq8 would take {index_bytes(HNSW, 10**6, 64):,} bytes, "
        f"at most {between:,} are allowed"
    )
    small = plan(10**6, 64, index_bytes(IVF4, 10**6, 64))
    assert (small.kinds, small.why) == ((IVF4,), "")
    nothing = plan(10**6, 64, 1, prefer="latency")
    assert (nothing.kinds, nothing.bytes) == ((), 0)
    assert nothing.why.startswith("ivf-sq4 would take ")


@given(rows, dims, st.none() | st.integers(1, 10**13), prefers)
def test_a_plan_keeps_to_the_memory_allowed(
    count: int, dim: int, memory: int | None, prefer: str
) -> None:
    chosen = plan(count, dim, memory, prefer=prefer)
    assert memory is None or chosen.bytes <= memory
    assert chosen.bytes == max((index_bytes(kind, count, dim) for kind in chosen.kinds), default=0)
    assert chosen.kinds or chosen.why
    assert set(chosen.kinds) <= ({IVF4, IVF, HNSW} if prefer == "latency" else {IVF4, IVF})


@given(rows, dims, st.integers(1, 10**13), prefers)
def test_more_memory_never_gives_less(count: int, dim: int, memory: int, prefer: str) -> None:
    little = plan(count, dim, memory, prefer=prefer)
    more = plan(count, dim, 2 * memory, prefer=prefer)
    assert set(little.kinds) <= set(more.kinds) <= set(plan(count, dim, prefer=prefer).kinds)


@given(rows, st.integers(0, 10**6))
def test_more_rows_have_as_many_lists_or_more(count: int, more: int) -> None:
    assert 1 <= nlist_for(count) <= nlist_for(count + more)


def test_lists_past_ten_million_grow_with_the_fourth_root() -> None:
    assert nlist_for(10**6) == 750
    assert nlist_for(10**7) == 2372
    assert nlist_for(16 * 10**7) == 4743
    assert nlist_for(0) == 1


@pytest.mark.parametrize("dim", [16, 64])
def test_the_bytes_of_an_index_are_foreseen(dim: int) -> None:
    """Of a real one: not less than it takes, and not a quarter more."""
    count = 5_000
    vectors = np.random.default_rng(0).random((count, dim)).astype(np.float32)
    lists = nlist_for(count)
    inverted = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatL2(dim), dim, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2
    )
    inverted.cp.min_points_per_centroid = 1
    fast_scan = faiss.IndexIVFPQFastScan(faiss.IndexFlatL2(dim), dim, lists, dim, 4)
    fast_scan.cp.min_points_per_centroid = 1
    graph = faiss.IndexIDMap(faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, 32))
    for kind, index in ((IVF4, fast_scan), (IVF, inverted), (HNSW, graph)):
        index.train(vectors)
        index.add_with_ids(vectors, np.arange(count))
        real = faiss.serialize_index(index).nbytes
        assert real <= index_bytes(kind, count, dim) <= 1.25 * real


def test_an_inverted_file_keeps_to_its_codes_and_sixteen_bytes_a_row() -> None:
    for count in (10**5, 10**6, 10**7):
        assert index_bytes(IVF, count, 64) <= count * (64 + 16)
        assert index_bytes(IVF4, count, 64) <= count * (32 + 16)


def test_unindexed_rows_fall_with_the_dimensions_and_grow_with_the_index() -> None:
    assert [plans.unindexed_rows(100_000, dim) for dim in (2, 64, 128)] == [5_000, 5_000, 2_500]
    assert [plans.unindexed_rows(rows, 64) for rows in (600_000, 2_000_000)] == [6_000, 20_000]
