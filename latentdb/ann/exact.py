"""Exact search: compare queries with every vector."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from latentdb.base.cores import core_count

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Fetch = Callable[[Ints], Floats]  # the vectors of row numbers

AnyResult = TypeVar("AnyResult")

# Rows compared, or added to an index, in one call: so many, fewer above 256 dimensions.
_CHUNK_ROWS, _CHUNK_BYTES = 65_536, 64 << 20
MARGIN = 16  # candidates beyond k, so that float32 rounding cannot drop a neighbour
MIN_SQUARE = 1e-30  # float32 cannot order squared distances below this
MAX_SQUARE = 1e38  # squared distances above this are about to overflow float32
_MIN_BATCH = 8  # queries from which threads are faster
_MIN_PART, _MAX_PART = 64, 1_024  # queries of a part that one thread answers
MIN_PARTED = 2 * _MIN_PART  # queries that are worth several threads
_THREAD = threading.local()
_FLOAT32_ERROR = float(np.finfo(np.float32).eps)  # of a sum of squares, for each of its terms


def chunk_rows(dim: int) -> int:
    """Rows of some dimensions to have in memory at a time."""
    return max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // (4 * max(dim, 1))))


@dataclass(frozen=True, eq=False)
class Block:
    """Vectors with their row numbers.

    Attributes
    ----------
    rows
        int64 ``[n]``: row numbers.
    vectors
        float32 ``[n, d]``, mapped or in memory.
    mask
        bool ``[n]``: the rows to use; None for all.
    """

    rows: Ints
    vectors: Floats
    mask: Mask | None = None

    def restrict(self, mask: Mask) -> Block:
        """The same block with only those of its rows that another mask selects too."""
        return replace(self, mask=mask if self.mask is None else mask & self.mask)

    def selected_rows(self) -> Ints:
        """Row numbers that the mask selects."""
        return self.rows if self.mask is None else self.rows[self.mask]

    def chunks(self) -> Iterator[tuple[Floats, Ints]]:
        """Selected vectors and their row numbers, a limited number at a time."""
        step = chunk_rows(self.vectors.shape[1])
        for start in range(0, len(self.rows), step):
            chunk = slice(start, start + step)
            vectors, rows = self.vectors[chunk], self.rows[chunk]
            if self.mask is not None:
                vectors, rows = vectors[self.mask[chunk]], rows[self.mask[chunk]]
            if len(rows):
                yield vectors, rows


def concat(blocks: Iterable[Block], dim: int) -> Block:
    """The selected rows of blocks as one block in memory, of no rows where there are none."""
    chunks = [chunk for block in blocks for chunk in block.chunks()]
    vectors = [np.empty((0, dim), np.float32), *(chunk[0] for chunk in chunks)]
    rows = [np.empty(0, np.int64), *(chunk[1] for chunk in chunks)]
    return Block(np.concatenate(rows), np.concatenate(vectors))


@dataclass(frozen=True, eq=False)
class Candidates:
    """Row numbers that may be neighbours.

    Attributes
    ----------
    rows
        int64 ``[q, c]``; -1 where there are no more, and in place of a deleted row.
    scanned
        Vectors that were compared, over all queries.
    """

    rows: Ints
    scanned: int


@contextmanager
def faiss_threads(queries: int | None = None) -> Iterator[None]:
    """Let FAISS use one thread for a few queries, all cores for many, or for a build (None).

    For a few queries a second thread is slower on a busy machine, and a thread of `map_parts`
    is one of several.  OpenMP keeps the number for each calling thread; the host's own number
    is restored.
    """
    import faiss

    before = faiss.omp_get_max_threads()
    few = queries is not None and queries < _MIN_BATCH
    is_part = getattr(_THREAD, "is_part", False)
    faiss.omp_set_num_threads(1 if few or is_part else core_count())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def map_parts(search: Callable[[Floats], AnyResult], queries: Floats) -> list[AnyResult]:
    """What a search gives for parts of many queries, in order, one part a thread at a time.

    A search has several steps.  OpenMP's threads would share each, and spin in between, which
    took half of the CPU time.

    Parameters
    ----------
    queries
        float32 ``[q, d]``.
    """
    threads = core_count()
    size = min(max(-(-len(queries) // threads), _MIN_PART), _MAX_PART)
    parts = [queries[start : start + size] for start in range(0, len(queries), size)]
    if threads == 1 or len(parts) < 2:
        return [search(queries)]

    def search_part(part: Floats) -> AnyResult:
        _THREAD.is_part = True
        return search(part)

    pool = ThreadPoolExecutor(threads)
    try:
        return list(pool.map(search_part, parts))
    finally:
        pool.shutdown(cancel_futures=True)


def fits_float32(vectors: Floats) -> bool:
    """Whether squared distances between these vectors fit float32, in which FAISS computes.

    If they overflow, FAISS ends the process in k-means, or leaves rows out of an inverted file.
    """
    if not vectors.size:
        return True
    largest = max(abs(float(vectors.max())), abs(float(vectors.min())))
    return largest < largest_value(vectors.shape[-1])


def largest_value(dim: int) -> float:
    """What the values of vectors must stay below, for `fits_float32`."""
    return math.sqrt(MAX_SQUARE / (4 * dim))


def too_large(vectors: Floats, name: str, first: int = 0) -> str | None:
    """Why `fits_float32` is false of vectors ``[n, d]``, naming the largest; None if it is true.

    Parameters
    ----------
    name
        What to call them.
    first
        Row number of the first.
    """
    if fits_float32(vectors):
        return None
    largest = np.abs(vectors).max(axis=1)
    row, dim = int(largest.argmax()), vectors.shape[1]
    return (
        f"{name} of row {first + row} has a value of {largest[row]:.1e}, too large for float32 "
        f"distances: in {dim:,} dimensions values must be below {largest_value(dim):.1e}"
    )


def is_overflow(squares: Floats) -> Mask:
    """Which squared distances overflowed, or are NaN."""
    return ~(squares < MAX_SQUARE)


def scan(blocks: Iterable[Block], queries: Floats, k: int) -> Candidates:
    """The true nearest rows of each query, and a few more, unranked.

    Parameters
    ----------
    blocks
        The vectors.
    queries
        float32 ``[q, d]``.
    k
        Neighbours wanted.
    """
    wanted = k + MARGIN
    best = np.empty((len(queries), 0), np.float64)
    rows = np.empty((len(queries), 0), np.int64)
    scanned = 0
    for block in blocks:
        for vectors, numbers in block.chunks():
            scanned += len(numbers) * len(queries)
            squares, positions = _nearest(queries, vectors, min(wanted, len(numbers)))
            best = np.concatenate([best, squares], axis=1)
            rows = np.concatenate([rows, numbers[positions]], axis=1)
            if best.shape[1] > wanted:
                order = np.argsort(best, axis=1, kind="stable")[:, :wanted]
                best = np.take_along_axis(best, order, axis=1)
                rows = np.take_along_axis(rows, order, axis=1)
    return Candidates(rows, scanned)


def _nearest(queries: Floats, vectors: Floats, k: int) -> tuple[NDArray[np.float64], Ints]:
    """Squared distances and positions of the k nearest vectors."""
    import faiss

    with faiss_threads(len(queries)):
        found, positions = faiss.knn(queries, vectors, k)
    squares = found.astype(np.float64)
    # FAISS gives no position where a square overflows, and cannot order tiny ones.
    inexact = (positions < 0).any(axis=1) | (found[:, -1] < MIN_SQUARE)
    for number in np.flatnonzero(inexact):
        every = ((vectors - queries[number].astype(np.float64)) ** 2).sum(axis=1)
        positions[number] = np.argsort(every, kind="stable")[:k]
        squares[number] = every[positions[number]]
    return squares, positions


def nearer(query: Floats, block: Block, square: float) -> Ints | None:
    """Row numbers of a block, without a mask, that may lie within a squared distance.

    None where float32 cannot tell.

    Parameters
    ----------
    query
        float32 ``[1, d]``.
    """
    if not square < MAX_SQUARE:
        return None
    import faiss

    query = np.ascontiguousarray(query, np.float32)
    vectors = np.ascontiguousarray(block.vectors, np.float32)
    squares = np.empty(len(vectors), np.float32)
    library: Any = faiss
    pointer = library.swig_ptr
    library.fvec_L2sqr_ny(
        pointer(squares), pointer(query), pointer(vectors), vectors.shape[1], len(vectors)
    )
    return block.rows[squares <= surely_beyond(square, query.shape[1])]


def surely_beyond(square: float, dim: int) -> float:
    """Above it, a squared distance in float32 is of a vector farther than another's."""
    return max(square * rounding_factor(dim), MIN_SQUARE)


def rounding_factor(dim: int) -> float:
    """Between squared distances in float32 of which the larger one surely is the larger."""
    # Either may be off by an eps for each of its terms, of which one is of the subtraction.
    return 1 + 4 * _FLOAT32_ERROR * (dim + 2)
