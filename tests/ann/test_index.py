"""Nearest neighbours: the scan is exact, and the index keeps the recall it promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from latentdb.ann import tuning
from latentdb.ann.exact import Block, rank, scan
from latentdb.ann.index import VectorIndex
from latentdb.ann.plan import HNSW, IVF, IVF4, Plan, nlist_for
from latentdb.ann.tuning import TUNED_K, Tuning
from latentdb.base.errors import CorruptStoreError

DIM = 8
NONE = np.empty(0, np.int64)
Array = NDArray[Any]


def brute(vectors: Array, queries: Array, k: int) -> tuple[Array, Array]:
    """The k nearest by float64, ties by position."""
    distances = np.stack(
        [np.linalg.norm(vectors.astype(np.float64) - query, axis=1) for query in queries]
    )
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


def build(
    blocks: list[Block], dim: int, fetch: Any, *, recall: float, kind: str = IVF
) -> tuple[VectorIndex, Tuning] | None:
    chosen = Plan((kind,), nlist_for(sum(len(block.rows) for block in blocks)), 0, "")
    return tuning.build(lambda: iter(blocks), dim, fetch, chosen, recall=recall)


def recall(found: Array, truth: Array) -> float:
    hits = [len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), truth.tolist())]  # noqa: B905
    return float(np.mean(hits))


def exact(blocks: list[Block], vectors: Array, queries: Array, k: int) -> tuple[Array, Array]:
    found = scan(blocks, queries, k)
    return rank(queries, found.rows, lambda rows: vectors[rows], k)


# --- scan and rank --------------------------------------------------------------

grid = st.integers(-2, 2)  # so coarse that ties abound


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Array, Array, Array, list[Block]]:
    dim = draw(st.integers(1, 3))
    count = draw(st.integers(1, 40))
    line = st.lists(grid, min_size=dim, max_size=dim)
    vectors = np.array(draw(st.lists(line, min_size=count, max_size=count)), np.float32)
    queries = np.array(draw(st.lists(line, min_size=1, max_size=4)), np.float32)
    alive = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    cut = draw(st.integers(0, count))
    rows = np.arange(count)
    blocks = []
    for part in (slice(0, cut), slice(cut, None)):
        keep = None if alive[part].all() else alive[part]
        blocks.append(Block(rows[part], vectors[part], keep))
    return vectors, queries, alive, blocks


@settings(deadline=None, max_examples=150, derandomize=True)
@given(scenes(), st.integers(1, 50))
def test_a_scan_is_exact_with_ties_and_deletions(
    scene: tuple[Array, Array, Array, list[Block]], k: int
) -> None:
    vectors, queries, alive, blocks = scene
    distances, rows = exact(blocks, vectors, queries, k)
    kept = np.flatnonzero(alive)
    expected, order = brute(vectors[kept], queries, k)
    have = min(k, len(kept))
    assert distances.shape == rows.shape == (len(queries), k)
    np.testing.assert_allclose(distances[:, :have], expected, rtol=1e-6)
    assert (rows[:, have:] == -1).all()
    assert np.isinf(distances[:, have:]).all()
    for number, query in enumerate(queries):
        found = rows[number, :have]
        assert len(set(found)) == have
        assert alive[found].all()
        true = np.linalg.norm(vectors[found].astype(np.float64) - query, axis=1)
        np.testing.assert_allclose(true, distances[number, :have], rtol=1e-6)
    if len(kept) <= k + 16:  # every tie is among the candidates
        assert rows[:, :have].tolist() == kept[order].tolist()


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_a_scan_is_exact_for_many_queries_far_from_the_origin(offset: float) -> None:
    """Not by |x|² + |y|² - 2xy, which would cancel."""
    vectors = (offset + np.random.default_rng(0).random((3000, DIM))).astype(np.float32)
    distances, rows = exact([Block(np.arange(3000), vectors)], vectors, vectors[:300], 5)
    expected, order = brute(vectors, vectors[:300], 5)
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_allclose(distances, expected, rtol=1e-6)
    assert rows[:, 0].tolist() == list(range(300))
    assert (distances[:, 0] == 0).all()


def test_a_scan_says_how_many_vectors_it_compared() -> None:
    vectors = np.zeros((10, 2), np.float32)
    blocks = [Block(np.arange(10), vectors), Block(np.arange(10, 20), vectors, np.arange(10) < 3)]
    assert scan(blocks, vectors[:2], 1).scanned == 2 * 13
    assert scan([], vectors[:2], 1).scanned == 0


def test_a_scan_of_nothing_finds_nothing() -> None:
    queries = np.zeros((2, 3), np.float32)
    distances, rows = exact([], queries, queries, 4)
    assert rows.tolist() == [[-1] * 4] * 2
    assert np.isinf(distances).all()
    empty = exact([Block(np.arange(2), queries)], queries, queries[:0], 4)
    assert [part.shape for part in empty] == [(0, 4), (0, 4)]


@pytest.mark.parametrize("scale", [1e20, 1e-25])
def test_a_scan_is_exact_where_squares_leave_float32(scale: float) -> None:
    vectors = (np.random.default_rng(0).normal(size=(300, DIM)) * scale).astype(np.float32)
    blocks = [Block(np.arange(200), vectors[:200]), Block(np.arange(200, 300), vectors[200:])]
    _, rows = exact(blocks, vectors, vectors[:5], 10)
    np.testing.assert_array_equal(rows, brute(vectors, vectors[:5], 10)[1])


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


def make(kind: str, count: int) -> Array:
    random = np.random.default_rng(3)
    if kind == "uniform":
        return random.random((count, DIM)).astype(np.float32)
    centres = 5 * random.normal(size=(40, DIM))
    noise = 0.5 * random.normal(size=(count, DIM))
    return (centres[random.integers(40, size=count)] + noise).astype(np.float32)


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


PAST_THE_BITMAP = (
    "BUG: IDSelectorBitmap takes the bytes of the bitmap, and is given its bits: "
    "faiss reads up to 8 times past the end, and rows vanish by what lies there"
)


def ones_all_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every new array of bytes lie amid ones: what reads past its end shows itself."""
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


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\0" * 1000, b"IwSq" + b"\xff" * 100], ids=["none", "x", "zeros", "head"]
)
def test_what_is_no_index_is_told(data: bytes) -> None:
    with pytest.raises(CorruptStoreError, match="search index cannot be read"):
        VectorIndex.load(data, {"probes_10": 1, "probes_100": 1}, rows=1, dim=DIM)


def test_a_truncated_index_is_told(built: Built) -> None:
    data = bytes(built.index.dump())
    for length in range(0, len(data), len(data) // 20):
        with pytest.raises(CorruptStoreError, match="search index cannot be read"):
            VectorIndex.load(data[:length], built.index.parameters, rows=6000, dim=DIM)


@pytest.mark.parametrize(("rows", "dim"), [(5999, DIM), (6000, DIM + 1)])
def test_an_index_of_another_store_is_told(built: Built, rows: int, dim: int) -> None:
    data = bytes(built.index.dump())
    with pytest.raises(CorruptStoreError, match=rf"manifest says {rows} of {dim}"):
        VectorIndex.load(data, built.index.parameters, rows=rows, dim=dim)


@pytest.mark.parametrize("parameters", [{}, {"probes_10": 0}, {"lists": 5}])
def test_an_index_without_its_parameters_is_told(built: Built, parameters: dict[str, int]) -> None:
    with pytest.raises(CorruptStoreError, match="no parameters in the manifest"):
        VectorIndex.load(bytes(built.index.dump()), parameters, rows=6000, dim=DIM)


def test_an_index_of_no_probes_is_told(built: Built) -> None:
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
def test_an_index_of_another_kind_is_told(spec: str, metric: int) -> None:
    vectors = make("uniform", 300)
    other: Any = faiss.index_factory(DIM, spec, metric)
    other.train(vectors)
    other.add(vectors)
    data = faiss.serialize_index(other).tobytes()
    with pytest.raises(CorruptStoreError, match="search index"):
        VectorIndex.load(data, {"probes_10": 1, "probes_100": 1}, rows=300, dim=DIM).search(
            vectors[:1], 1, NONE
        )


# --- forged graphs --------------------------------------------------------------


def forged(index: VectorIndex, name: str) -> bytes:
    """A graph with one thing wrong, as bytes."""
    made = index.copy()
    outer: Any = made._outer
    graph: Any = faiss.downcast_index(outer.index)
    hnsw = graph.hnsw
    links = faiss.rev_swig_ptr(hnsw.neighbors.data(), hnsw.neighbors.size())
    floors = faiss.rev_swig_ptr(hnsw.levels.data(), hnsw.levels.size())
    starts = faiss.rev_swig_ptr(hnsw.offsets.data(), hnsw.offsets.size())
    width = faiss.vector_to_array(hnsw.cum_nneighbor_per_level)
    low, high = int(np.flatnonzero(floors == 1)[-1]), int(np.flatnonzero(floors > 1)[0])
    if name == "a link past the rows":
        links[0] = len(floors)
    elif name == "a link to nowhere":
        links[0] = -7
    elif name == "a link to a row of a lower floor":
        links[int(starts[high]) + int(width[1])] = low
    elif name == "an entry past the rows":
        hnsw.entry_point = len(floors)
    elif name == "an entry on a lower floor":
        hnsw.entry_point = low
    elif name == "a floor past the highest":
        hnsw.max_level = 60
    elif name == "a row on another floor":
        floors[low] = 2
    elif name == "links past the end":
        starts[5] = 10**9
    elif name == "fewer row numbers":
        outer.id_map.resize(len(floors) - 1)
    elif name == "fewer codes":
        codes: Any = faiss.downcast_index(graph.storage)
        codes.codes.resize(8)
    return bytes(made.dump())


@pytest.mark.parametrize(
    "name",
    [
        "a link past the rows",
        "a link to nowhere",
        "a link to a row of a lower floor",
        "an entry past the rows",
        "an entry on a lower floor",
        "a floor past the highest",
        "a row on another floor",
        "links past the end",
        "fewer row numbers",
        "fewer codes",
    ],
)
def test_a_forged_graph_is_refused(built: Built, name: str) -> None:
    """Each of them would have faiss read past the end of its memory."""
    if built.index.kind != HNSW:
        pytest.skip("no graph")
    with pytest.raises(CorruptStoreError, match="the search index"):
        VectorIndex.load(forged(built.index, name), built.index.parameters, rows=6000, dim=DIM)


def test_a_whole_graph_is_not_refused(built: Built) -> None:
    if built.index.kind != HNSW:
        pytest.skip("no graph")
    data = forged(built.index, "nothing")
    assert VectorIndex.load(data, built.index.parameters, rows=6000, dim=DIM).rows == 6000


def nibbles(name: str) -> bytes:
    """Lists of packed codes with one thing wrong, as bytes."""
    vectors = make("uniform", 600)
    made: Any = faiss.IndexIVFPQFastScan(
        faiss.IndexFlatL2(DIM), DIM, 8, DIM // 2 if name == "codes of two dimensions" else DIM, 4
    )
    made.by_residual = name == "codes beyond the centre"
    made.cp.min_points_per_centroid = made.pq.cp.min_points_per_centroid = 1
    made.train(vectors)
    made.add(vectors)
    if name == "fewer steps":
        made.pq.centroids.resize(8)
    elif name == "other halves":
        made.M2 = 4 * DIM
    elif name == "longer blocks":
        made.bbs = 64
    elif name == "fewer centres":
        made.quantizer.ntotal = 7
    return faiss.serialize_index(made).tobytes()


@pytest.mark.parametrize(
    "name",
    [
        "codes of two dimensions",
        "codes beyond the centre",
        "fewer steps",
        "other halves",
        "longer blocks",
        "fewer centres",
    ],
)
def test_forged_lists_of_packed_codes_are_refused(name: str) -> None:
    with pytest.raises(CorruptStoreError, match="the search index"):
        VectorIndex.load(nibbles(name), {"effort_10": 1}, rows=600, dim=DIM)


@pytest.mark.parametrize(
    ("parameters", "width"),
    [
        ({}, 36),
        ({"width_10": 72}, 72),
        ({"width_10": 10**15}, 144),
        ({"width_10": -1}, 36),
        ({"width_x": 72}, 36),
    ],
)
def test_a_forged_number_of_candidates_takes_no_memory(
    parameters: dict[str, int], width: int
) -> None:
    data = nibbles("nothing")
    opened = VectorIndex.load(data, {"effort_10": 2, **parameters}, rows=600, dim=DIM)
    assert opened.rerank_depth(10) == width
    assert opened.search(make("uniform", 3), 10, NONE).rows.shape == (3, width)


def test_lists_without_centres_are_refused() -> None:
    """Their centres are found by a graph, which nobody checked."""
    vectors = make("uniform", 600)
    centres: Any = faiss.IndexHNSWFlat(DIM, 8)
    lists: Any = faiss.IndexIVFScalarQuantizer(
        centres, DIM, 8, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2
    )
    lists.train(vectors)
    lists.add(vectors)
    data = faiss.serialize_index(lists).tobytes()
    with pytest.raises(CorruptStoreError, match="its lists have no centres"):
        VectorIndex.load(data, {"effort_10": 1}, rows=600, dim=DIM)


def test_axes_that_do_not_fit_are_refused() -> None:
    vectors = make("uniform", 600)
    lists: Any = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatL2(4), 4, 8, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2
    )
    lists.train(vectors[:, :4].copy())
    turn: Any = faiss.LinearTransform(DIM, 4, False)
    faiss.copy_array_to_vector(np.eye(4, DIM, dtype=np.float32).reshape(-1), turn.A)
    turn.is_trained = True
    both: Any = faiss.IndexPreTransform(turn, lists)
    both.add_with_ids(vectors, np.arange(600))
    data = faiss.serialize_index(both).tobytes()
    assert VectorIndex.load(data, {"effort_10": 1}, rows=600, dim=DIM).rows == 600
    turn.A.resize(3)
    data = faiss.serialize_index(both).tobytes()
    with pytest.raises(CorruptStoreError, match="the search index"):
        VectorIndex.load(data, {"effort_10": 1}, rows=600, dim=DIM)


def test_rows_beyond_what_the_manifest_knows_are_told(built: Built) -> None:
    if built.index.kind != IVF:
        pytest.skip("no lists")
    assert (built.index.list_of(7000)[1000:] > 0).all()
    with pytest.raises(CorruptStoreError, match="rows that the manifest does not know"):
        built.index.list_of(6000)


@pytest.mark.parametrize("count", [1, 8, 30])
def test_no_candidates_are_ranked_to_nothing(count: int) -> None:
    queries = np.zeros((count, 3), np.float32)
    none = np.empty((count, 0), np.int64)
    distances, rows = rank(queries, none, lambda r: queries[r], 4)
    assert rows.tolist() == [[-1] * 4] * count
    assert np.isinf(distances).all()
