"""Rank candidates by their true distance: float32 leaves out most of them, float64 orders."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentdb.ann.exact import (
    MARGIN,
    MAX_SQUARE,
    MIN_SQUARE,
    Fetch,
    Floats,
    Ints,
    faiss_threads,
    rounding_factor,
    surely_beyond,
)
from latentdb.base.errors import CorruptStoreError

_BYTES = 1 << 20  # of candidate vectors in memory at a time
_SPARE = 4  # vectors compared in float64 beyond the k that are nearest in float32


@dataclass(frozen=True, eq=False)
class Matrix:
    """Vectors in memory, or mapped, of row numbers without a gap: they need not be fetched.

    Attributes
    ----------
    first_row
        Row number of the first.
    vectors
        float32 ``[n, d]``, contiguous.
    """

    first_row: int
    vectors: Floats


def rank(queries: Floats, candidates: Ints, source: Fetch | Matrix, k: int) -> tuple[Floats, Ints]:
    """The k nearest candidates of each query by true L2 distance, computed in float64.

    Parameters
    ----------
    queries
        float32 ``[q, d]``.
    candidates
        int64 ``[q, c]`` row numbers, negative for none.
    source
        The vectors, or a function that gives those of row numbers.
    k
        Neighbours wanted.

    Returns
    -------
    distances, rows
        float32 ``[q, k]`` and int64 ``[q, k]``, nearest first, ties by row
        number; infinity and -1 where there are fewer.

    Raises
    ------
    CorruptStoreError
        If a candidate is no row of a `Matrix`.
    """
    if not candidates.size:
        return _nothing(len(queries), k)
    if not isinstance(source, Matrix):
        return _rank_fetched(queries, candidates, source, k)
    first, count = source.first_row, len(source.vectors)
    positions = np.ascontiguousarray(candidates - first if first else candidates)
    # Without a sign, what is below 0 is among the largest.
    if int(positions.view(np.uint64).max()) >= count:
        is_none = candidates < 0
        outside = candidates[~is_none & ((positions < 0) | (positions >= count))]
        if len(outside):
            raise CorruptStoreError(f"row {outside[0]} is a candidate and not in the store")
        positions = _none_last(np.where(is_none, -1, positions))
    distances, found = _nearest(queries, source.vectors, positions, k)
    if first:
        found[found >= 0] += first
    return distances, found


def _rank_fetched(queries: Floats, candidates: Ints, fetch: Fetch, k: int) -> tuple[Floats, Ints]:
    parts = []
    step = max(1, _BYTES // (4 * max(queries.shape[1], 1) * candidates.shape[1]))
    for start in range(0, len(queries), step):
        rows = np.sort(candidates[start : start + step], axis=1)
        wanted, positions = rows.reshape(-1), np.arange(rows.size).reshape(rows.shape)
        if rows[:, 0].min() < 0:
            is_live = rows >= 0
            wanted, positions = rows[is_live], np.full(rows.shape, -1, np.int64)
            positions[is_live] = np.arange(len(wanted))
            positions = _none_last(positions)
        distances, found = _nearest(queries[start : start + step], fetch(wanted), positions, k)
        is_found = found >= 0
        found[is_found] = wanted[found[is_found]]
        parts.append((distances, found))
    if len(parts) == 1:
        return parts[0]
    distances, found = (np.concatenate(part) for part in zip(*parts, strict=True))
    return distances, found


def _none_last(positions: Ints) -> Ints:
    """Positions in descending order: FAISS stops at the first that is below 0."""
    return np.ascontiguousarray(np.sort(positions, axis=1)[:, ::-1])


def _nearest(queries: Floats, vectors: Floats, positions: Ints, k: int) -> tuple[Floats, Ints]:
    """Distances and positions ``[q, k]`` of the nearest of some vectors, those at positions."""
    if not len(queries) or positions.shape[1] <= k + MARGIN:
        return _nearest_in_float64(queries, vectors, positions, k)
    near, unsure = _near_in_float32(queries, vectors, positions, k)
    distances, found = _nearest_in_float64(queries, vectors, near, k)
    for number in unsure:
        one = slice(number, number + 1)
        distances[one], found[one] = _nearest_in_float64(queries[one], vectors, positions[one], k)
    return distances, found


def _near_in_float32(
    queries: Floats, vectors: Floats, positions: Ints, k: int
) -> tuple[Ints, Sequence[int]]:
    """Positions of a few vectors more than the k nearest, and the queries whose k may be others."""
    import faiss

    count, wanted = len(queries), k + _SPARE
    queries = np.ascontiguousarray(queries, np.float32)
    vectors = np.ascontiguousarray(vectors, np.float32)
    squares, near = np.empty((count, wanted), np.float32), np.empty((count, wanted), np.int64)
    library: Any = faiss
    pointer, width = library.swig_ptr, positions.shape[1]
    with nullcontext() if count == 1 else faiss_threads(count):
        library.knn_L2sqr_by_idx(
            pointer(queries),
            pointer(vectors),
            pointer(positions),
            queries.shape[1],
            count,
            len(vectors),
            width,
            wanted,
            pointer(squares),
            pointer(near),
            width,  # left out, FAISS 1.15 takes the number of vectors
        )
    dim = queries.shape[1]
    if count == 1:
        farthest, beyond = squares.item(k - 1), squares.item(wanted - 1)
        return near, () if surely_beyond(farthest, dim) < beyond < MAX_SQUARE else (0,)
    last = squares[:, -1]  # the largest number where FAISS found no more
    limits = np.minimum(squares[:, k - 1], MAX_SQUARE) * rounding_factor(dim)
    is_sure = (np.maximum(limits, MIN_SQUARE) < last) & (last < MAX_SQUARE)
    return near, np.flatnonzero(~is_sure).tolist()


def _nearest_in_float64(
    queries: Floats, vectors: Floats, positions: Ints, k: int
) -> tuple[Floats, Ints]:
    if len(queries) == 1:
        return _nearest_of_one(queries, vectors, positions[0], k)
    distances, found = _nothing(len(queries), k)
    if not len(vectors):
        return distances, found
    step = max(1, _BYTES // (8 * max(queries.shape[1], 1) * positions.shape[1]))
    for start in range(0, len(queries), step):
        batch = slice(start, start + step)
        near = np.sort(positions[batch], axis=1)
        chosen = vectors.take(near, axis=0, mode="clip")
        differences = np.subtract(chosen, queries[batch, None, :], dtype=np.float64)
        squares = np.einsum("qcd,qcd->qc", differences, differences)
        squares[near < 0] = np.inf
        order = squares.argsort(axis=1, kind="stable")[:, :k]
        count = order.shape[1]
        distances[batch, :count] = np.sqrt(np.take_along_axis(squares, order, axis=1))
        found[batch, :count] = np.take_along_axis(near, order, axis=1)
    return distances, found


def _nearest_of_one(query: Floats, vectors: Floats, positions: Ints, k: int) -> tuple[Floats, Ints]:
    """`_nearest_in_float64` of one query, where every call of numpy counts."""
    near = np.sort(positions)
    if near.item(0) < 0:
        near = near[near.searchsorted(0) :]
    differences = np.subtract(vectors.take(near, axis=0), query, dtype=np.float64)
    squares = np.einsum("cd,cd->c", differences, differences)
    order = squares.argsort(kind="stable")[:k]
    nearest, rows = np.sqrt(squares[order]).astype(np.float32), near[order]
    if len(rows) == k:
        return nearest[None], rows[None]
    distances, found = _nothing(1, k)
    distances[0, : len(rows)], found[0, : len(rows)] = nearest, rows
    return distances, found


def _nothing(count: int, k: int) -> tuple[Floats, Ints]:
    return np.full((count, k), np.inf, np.float32), np.full((count, k), -1, np.int64)
