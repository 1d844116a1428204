"""VectorIndex: candidates with the recall that was measured, without deleted rows, from a file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import pytest

from latentdb.ann import builder
from latentdb.ann.exact import Block, scan
from latentdb.ann.index import VectorIndex
from latentdb.ann.plan import HNSW, IVF, IVF4, Plan, nlist_for
from latentdb.ann.ranking import rank
from latentdb.ann.tuning import TUNED_K, Tuning
from latentdb.base.errors import CorruptStoreError
from tests.ann.vectors import DIM, NONE, Array, brute, make


def build(
    blocks: list[Block], dim: int, fetch: Any, *, recall: float, kind: str = IVF
) -> tuple[VectorIndex, Tuning] | None:
    chosen = Plan((kind,), nlist_for(sum(len(block.rows) for block in blocks)), 0, "")
    return builder.build(lambda: iter(blocks), dim, fetch, chosen, recall=recall)


def recall(found: Array, truth: Array) -> float:
    hits = [len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), truth.tolist())]  # noqa: B905
    return float(np.mean(hits))


# --- the index ------------------------------------------------------------------


@dataclass(frozen=True)
class Built:
    vectors: Array
    rows: Array
    held_out: Array
    truth: Array  # the row numbers nearest to `held_out`
    index: VectorIndex
    tuning: Tuning
    target: float

    def fetch(self, rows: Array) -> Array:
        return np.asarray(self.vectors[rows - self.rows[0]])

    def search(self, queries: Array, k: int, deleted: Array = NONE) -> tuple[Array, Array]:
        found = self.index.search(queries, k, deleted)
        return rank(queries, found.rows, self.fetch, k)


SAMPLING = 0.01  # two standard errors of a recall measured on 500 queries
SETS = [
    ("clustered", 0.99, IVF),
    ("uniform", 0.99, IVF),
    ("uniform", 0.99, IVF4),
    ("uniform", 0.9, IVF),
    ("uniform", 0.9, IVF4),
    ("uniform", 0.99, HNSW),
]
MAX_K = 100  # of those tuned for, in a set so small


@pytest.fixture(scope="module", params=SETS, ids=lambda value: f"{value[0]}-{value[1]}-{value[2]}")
def built(request: pytest.FixtureRequest) -> Built:
    kind, target, index = request.param
    everything = make(kind, 6500)
    vectors, held_out = everything[:6000], everything[6000:]
    rows = np.arange(1000, 7000)  # row numbers need not begin at 0
    blocks = [Block(rows[:2500], vectors[:2500]), Block(rows[2500:], vectors[2500:])]
    made = build(blocks, DIM, lambda r: vectors[r - 1000], recall=target, kind=index)
    assert made is not None
    truth = rows[brute(vectors, held_out, MAX_K)[1]]
    return Built(vectors, rows, held_out, truth, made[0], made[1], target)


def test_what_was_measured_reaches_the_target(built: Built) -> None:
    assert built.target <= built.tuning.recall <= 1
    assert built.tuning.k == TUNED_K[0]
    assert built.tuning.queries > 0
    assert built.tuning.seconds > 0
    assert built.index.rows == 6000
    assert built.index.parameters == built.tuning.parameters
    assert built.index.kind == built.tuning.kind
    if built.tuning.kind != HNSW:
        assert 1 <= built.tuning.parameters["effort_10"] <= built.tuning.parameters["lists"] // 2


@pytest.mark.parametrize("k", [1, 5, 10, 11, 50, MAX_K])
def test_other_queries_reach_the_target_too(built: Built, k: int) -> None:
    _, found = built.search(built.held_out, k)
    assert recall(found, built.truth[:, :k]) >= built.target - SAMPLING


def test_an_index_looks_at_less_than_everything(built: Built) -> None:
    found = built.index.search(built.held_out, 10, NONE)
    assert 0 < found.scanned < 0.5 * len(built.held_out) * 6000


def test_a_row_is_its_own_nearest(built: Built) -> None:
    distances, rows = built.search(built.vectors[::20], 1)
    assert rows[:, 0].tolist() == built.rows[::20].tolist()
    assert (distances == 0).all()


def test_distances_are_true_and_in_order(built: Built) -> None:
    distances, rows = built.search(built.held_out, 20)
    assert (np.diff(distances, axis=1) >= 0).all()
    true = np.linalg.norm(
        built.vectors[rows - 1000].astype(np.float64) - built.held_out[:, None], axis=2
    )
    np.testing.assert_allclose(distances, true, rtol=1e-6)


def test_one_query_finds_what_many_find(built: Built) -> None:
    many = built.search(built.held_out[:30], 10)[1]
    for query, rows in zip(built.held_out[:30], many, strict=True):
        np.testing.assert_array_equal(built.search(query[None], 10)[1][0], rows)


def test_a_build_gives_the_same_index_again(built: Built) -> None:
    if built.index.kind == HNSW:
        pytest.skip("threads link rows in any order")
    blocks = [Block(built.rows, built.vectors)]
    made = build(blocks, DIM, built.fetch, recall=built.target, kind=built.index.kind)
    assert made is not None
    assert made[0].parameters == built.index.parameters
    np.testing.assert_array_equal(
        made[0].search(built.held_out, 10, NONE).rows,
        built.index.search(built.held_out, 10, NONE).rows,
    )


# --- deletions ------------------------------------------------------------------


def ones_all_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put every new array of bytes amid ones, so that a read past its end changes the result.

    IDSelectorBitmap was once given bits for bytes: FAISS read past the bitmap and dropped rows.
    """
    zeros = np.zeros

    def padded(shape: Any, dtype: Any = float, **options: Any) -> Array:
        if dtype is not np.uint8:
            return zeros(shape, dtype, **options)
        around = np.full(16 * shape + 64, 0xFF, np.uint8)
        around[:shape] = 0
        return around[:shape]

    monkeypatch.setattr(np, "zeros", padded)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_deleted_rows_never_come_back(built: Built, share: float) -> None:
    deleted = built.rows[np.random.default_rng(1).random(6000) < share]
    for k in (1, 10, MAX_K):
        found = built.index.search(built.vectors[::50], k, deleted).rows
        assert not np.isin(found, deleted).any()


def test_deleting_the_first_or_the_last_row(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    ones_all_around(monkeypatch)
    ends = built.rows[[0, -1]]
    for deleted in (ends, ends[:1], ends[1:]):
        _, rows = built.search(built.vectors[[0, -1]], 5, deleted)
        assert not np.isin(rows, deleted).any()
        kept = np.setdiff1d(ends, deleted)
        assert np.isin(kept, rows).all()


def test_rows_after_the_last_deleted_one_stay(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    ones_all_around(monkeypatch)
    _, rows = built.search(built.vectors, 1, built.rows[:500])
    assert rows[500:, 0].tolist() == built.rows[500:].tolist()


def test_recall_holds_where_rows_were_deleted_at_random(built: Built) -> None:
    alive = np.random.default_rng(2).random(6000) < 0.9
    alive[-1] = False  # so that the bitmap spans every row
    _, rows = built.search(built.held_out, 10, built.rows[~alive])
    kept = np.flatnonzero(alive)
    _, truth = brute(built.vectors[kept], built.held_out, 10)
    assert recall(rows, kept[truth] + 1000) >= built.target - SAMPLING


def test_rows_left_out_of_a_block_are_not_in_the_index() -> None:
    vectors = make("uniform", 4000)
    keep = np.random.default_rng(0).random(4000) < 0.7
    block = Block(np.arange(4000), vectors, keep)
    made = build([block], DIM, lambda rows: vectors[rows], recall=0.9)
    assert made is not None
    assert made[0].rows == keep.sum()
    assert keep[made[0].search(vectors[:200], 10, NONE).rows].all()


# --- no gain --------------------------------------------------------------------


def test_no_index_where_it_would_have_to_look_everywhere() -> None:
    vectors = np.random.default_rng(0).normal(size=(1500, 48)).astype(np.float32)
    assert build([Block(np.arange(1500), vectors)], 48, lambda r: vectors[r], recall=1.0) is None


@pytest.mark.parametrize("copies", [5, 100, 1500])
def test_many_equal_vectors_are_answered(copies: int) -> None:
    """Equal rows are equally near: any of them will do, at the right distance."""
    few = make("uniform", 1500 // copies)
    vectors = np.repeat(few, copies, axis=0)
    blocks = [Block(np.arange(len(vectors)), vectors)]
    made = build(blocks, DIM, lambda rows: vectors[rows], recall=0.95)
    if made is None:
        return
    queries = few[:500]
    found = made[0].search(queries, 10, NONE)
    distances, _ = rank(queries, found.rows, lambda rows: vectors[rows], 10)
    expected, _ = brute(vectors, queries, 10)
    assert (distances <= expected[:, -1:] + 1e-6).mean() >= 0.95 - SAMPLING


# --- save and load --------------------------------------------------------------


def test_a_loaded_index_answers_as_the_one_that_was_dumped(built: Built) -> None:
    data = bytes(built.index.dump())
    loaded = VectorIndex.load(data, built.index.parameters, rows=6000, dim=DIM)
    assert loaded.rows == 6000
    np.testing.assert_array_equal(
        loaded.search(built.held_out, 10, NONE).rows,
        built.index.search(built.held_out, 10, NONE).rows,
    )


def test_an_index_is_copied_after_a_smaller_one_was_loaded(built: Built) -> None:
    """The largest vector that FAISS may read is set for the whole process."""
    with pytest.raises(CorruptStoreError, match="the search index cannot be read"):
        VectorIndex.load(b"IxF2", {"effort_10": 1}, rows=1, dim=DIM)
    assert built.index.copy().rows == 6000


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\0" * 1000, b"IwSq" + b"\xff" * 100], ids=["none", "x", "zeros", "head"]
)
def test_bytes_that_are_no_index_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptStoreError, match="search index cannot be read"):
        VectorIndex.load(data, {"probes_10": 1, "probes_100": 1}, rows=1, dim=DIM)


def test_a_truncated_index_is_refused(built: Built) -> None:
    data = bytes(built.index.dump())
    for length in range(0, len(data), len(data) // 20):
        with pytest.raises(CorruptStoreError, match="search index cannot be read"):
            VectorIndex.load(data[:length], built.index.parameters, rows=6000, dim=DIM)


@pytest.mark.parametrize(("rows", "dim"), [(5999, DIM), (6000, DIM + 1)])
def test_an_index_of_another_store_is_refused(built: Built, rows: int, dim: int) -> None:
    data = bytes(built.index.dump())
    with pytest.raises(CorruptStoreError, match=rf"manifest says {rows} of {dim}"):
        VectorIndex.load(data, built.index.parameters, rows=rows, dim=dim)


@pytest.mark.parametrize("parameters", [{}, {"probes_10": 0}, {"lists": 5}])
def test_an_index_without_its_parameters_is_refused(
    built: Built, parameters: dict[str, int]
) -> None:
    with pytest.raises(CorruptStoreError, match="no parameters in the manifest"):
        VectorIndex.load(bytes(built.index.dump()), parameters, rows=6000, dim=DIM)


def test_an_index_of_no_probes_is_refused(built: Built) -> None:
    with pytest.raises(CorruptStoreError, match="search index"):
        VectorIndex.load(
            bytes(built.index.dump()), {"probes_10": 0, "probes_100": 0}, rows=6000, dim=DIM
        ).search(built.held_out, 1, NONE)


@pytest.mark.parametrize(
    ("spec", "metric"),
    [
        ("Flat", faiss.METRIC_L2),
        ("PQ4x4np", faiss.METRIC_L2),
        ("LSH", faiss.METRIC_L2),
        ("PCA4,Flat", faiss.METRIC_L2),
        ("IVF4,SQ8", faiss.METRIC_INNER_PRODUCT),
    ],
)
def test_an_index_of_another_type_is_refused(spec: str, metric: int) -> None:
    vectors = make("uniform", 300)
    other: Any = faiss.index_factory(DIM, spec, metric)
    other.train(vectors)
    other.add(vectors)
    data = faiss.serialize_index(other).tobytes()
    with pytest.raises(CorruptStoreError, match="search index"):
        VectorIndex.load(data, {"probes_10": 1, "probes_100": 1}, rows=300, dim=DIM).search(
            vectors[:1], 1, NONE
        )


@pytest.mark.parametrize(
    "rows",
    [[*range(7000)], [*range(1500, 6000)], [5, 999, 1000, 6999, 7000, 2**61], [2**61], [-1], []],
    ids=["all", "part", "gaps", "far", "none", "empty"],
)
def test_lists_are_looked_up_by_row_number_whatever_its_size(built: Built, rows: list[int]) -> None:
    if built.index.kind != IVF:
        pytest.skip("no lists")
    list_of = built.index.list_of(np.array(rows, np.int64))
    sizes = built.index.list_sizes()
    assert sizes.sum() == 6000
    assert [bool(number) for number in list_of] == [1000 <= row < 7000 for row in rows]
    members = [set(built.index._rows_in(number).tolist()) for number in range(built.index.nlist)]
    for row, number in zip(rows, list_of.tolist(), strict=True):
        assert not number or row in members[number - 1]
    if len(rows) == 7000:
        assert np.array_equal(np.bincount(list_of)[1:], sizes)


# --- the process that searches --------------------------------------------------


def test_a_query_gives_the_same_candidates_alone_as_among_others(built: Built) -> None:
    """FAISS has several implementations, which differ in ties at the last candidate."""
    for k in (1, 10, MAX_K):
        many = built.index.search(built.held_out[:50], k, NONE)
        alone = [built.index.search(query[None], k, NONE) for query in built.held_out[:50]]
        assert [one.rows.tolist() for one in alone] == many.rows[:, None].tolist()
        assert sum(one.scanned for one in alone) == many.scanned


def test_threads_that_share_an_index_get_the_answers_of_one(built: Built) -> None:
    def answers(number: int) -> list[Any]:
        found = []
        for start in range(0, 100, 20):
            size = (1, 20)[(number + start // 20) % 2]  # alone, or many at once
            queries = built.held_out[start : start + size]
            result = built.index.search(queries, (1, 10, MAX_K)[number % 3], NONE)
            found.append((result.rows.tolist(), result.scanned))
        return found

    expected = [answers(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(answers, range(8))) == expected


def test_the_settings_of_faiss_that_the_host_made_stay(built: Built) -> None:
    limit = faiss.get_deserialization_vector_byte_limit()
    before = faiss.omp_get_max_threads()
    counters: Any = faiss.cvar
    try:
        faiss.omp_set_num_threads(3)
        faiss.set_deserialization_vector_byte_limit(10**9)
        counters.hnsw_stats.reset()
        counters.indexIVF_stats.reset()
        for count in (1, 50):
            built.index.search(built.held_out[:count], 10, NONE)
            scan([Block(built.rows, built.vectors)], built.held_out[:count], 10)
        copied = built.index.copy()
        copied.add(built.held_out, np.arange(7000, 7500))
        VectorIndex.load(bytes(copied.dump()), built.index.parameters, rows=6500, dim=DIM)
        with pytest.raises(CorruptStoreError):
            VectorIndex.load(b"IxF2", {"effort_10": 1}, rows=1, dim=DIM)
        assert build([Block(built.rows, built.vectors)], DIM, built.fetch, recall=0.5)
        assert faiss.omp_get_max_threads() == 3
        assert faiss.get_deserialization_vector_byte_limit() == 10**9
        counter = counters.hnsw_stats if built.index.kind == HNSW else counters.indexIVF_stats
        assert counter.ndis > 0, "it is the host's, who may be reading it"
    finally:
        faiss.omp_set_num_threads(before)
        faiss.set_deserialization_vector_byte_limit(limit)
