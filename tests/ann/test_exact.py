"""A scan is exact."""

from __future__ import annotations

import threading

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentdb.ann import exact as exact_search
from latentdb.ann.exact import (
    Block,
    concat,
    faiss_threads,
    fits_float32,
    map_parts,
    nearer,
    scan,
)
from latentdb.ann.ranking import rank
from latentdb.base.errors import InvalidInputError
from tests.ann.vectors import DIM, Array, brute


def exact(blocks: list[Block], vectors: Array, queries: Array, k: int) -> tuple[Array, Array]:
    found = scan(blocks, queries, k)
    return rank(queries, found.rows, lambda rows: vectors[rows], k)


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


@pytest.mark.parametrize("dim", [DIM, 64])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_a_scan_is_exact_for_many_queries_far_from_the_origin(offset: float, dim: int) -> None:
    """Not by |x|² + |y|² - 2xy, which would cancel, as in FAISS before 1.14."""
    vectors = (offset + np.random.default_rng(0).normal(size=(3000, dim))).astype(np.float32)
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


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.integers(1, 70), st.sampled_from([1e-20, 1e-8, 1, 1e6, 1e17, 1e22]), st.integers(0, 99))
def test_no_row_within_a_distance_is_left_out(dim: int, scale: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = (scale * random.normal(size=(60, dim))).astype(np.float32)
    vectors[20:30] = vectors[10:20]
    query = vectors[:1] + np.float32(scale / 100)
    squares = ((vectors.astype(np.float64) - query) ** 2).sum(axis=1)
    square = float(np.sort(squares)[15])
    found = nearer(query, Block(np.arange(100, 160), vectors), square)
    if found is None:
        assert square > 1e37
    else:
        within = np.flatnonzero(squares <= square) + 100
        assert set(within) <= set(found)
        assert len(found) < 60 or scale < 1e-10


@given(st.integers(1, 300), st.floats(0, 3e38), st.integers(0, 2**31))
def test_what_fits_float32_has_finite_squares(dim: int, scale: float, seed: int) -> None:
    vectors = (np.random.default_rng(seed).uniform(-1, 1, size=(4, dim)) * scale).astype(np.float32)
    if fits_float32(vectors):
        with np.errstate(over="raise"):
            assert np.isfinite(((vectors[:1] - vectors) ** 2).sum(axis=1)).all()
            assert np.isfinite(((vectors[:1] + vectors) ** 2).sum(axis=1)).all()


def test_blocks_are_concatenated_without_the_rows_that_their_masks_leave_out() -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(6, 2)
    rows = np.arange(6) + 10
    mask = np.array([True, False, True])
    joined = concat([Block(rows[:3], vectors[:3], mask), Block(rows[3:], vectors[3:])], 2)
    assert joined.rows.tolist() == [10, 12, 13, 14, 15]
    np.testing.assert_array_equal(joined.vectors, vectors[[0, 2, 3, 4, 5]])
    assert concat([], 2).vectors.shape == (0, 2)


def test_parts_of_many_queries_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_search, "core_count", lambda: 3)
    queries = np.arange(5_000, dtype=np.float32)[:, None]
    sizes, threads = [], set()

    def search(part: Array) -> Array:
        sizes.append(len(part))
        threads.add(threading.get_ident())
        with faiss_threads(len(part)):
            assert faiss.omp_get_max_threads() == 1
        return part

    np.testing.assert_array_equal(np.concatenate(map_parts(search, queries)), queries)
    assert max(sizes) == 1_024
    assert threading.get_ident() not in threads
    assert len(map_parts(len, queries[:64])) == 1
    with faiss_threads(5_000):  # this thread has them all
        assert faiss.omp_get_max_threads() == 3


def test_a_part_that_fails_fails_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_search, "core_count", lambda: 2)

    def search(part: Array) -> Array:
        raise InvalidInputError(f"{len(part)} queries")

    with pytest.raises(InvalidInputError, match="500 queries"):
        map_parts(search, np.zeros((1_000, 2), np.float32))
