"""The true neighbours of vectors in memory, of all of them or of others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.exact import Floats, Ints, faiss_threads


def nearest(queries: Floats, vectors: Floats, k: int) -> tuple[Floats, Ints]:
    """The k nearest of some vectors to each query.

    Parameters
    ----------
    queries, vectors
        float32 ``[q, d]`` and ``[n, d]``, for which `latentdb.ann.exact.fits_float32`.
    k
        Neighbours wanted; at most n are found.

    Returns
    -------
    distances, positions
        float32 L2 distances ``[q, k]``, ascending, and int64 positions in `vectors`.
    """
    import faiss

    with faiss_threads(len(queries)):
        squares, positions = faiss.knn(queries, vectors, min(k, len(vectors)))
    return np.sqrt(np.maximum(squares, 0)), positions.astype(np.int64, copy=False)


def neighbours(vectors: Floats, k: int) -> tuple[Floats, Ints]:
    """The k nearest others of each vector.

    Parameters
    ----------
    vectors
        float32 ``[n, d]``.
    k
        Neighbours wanted, less than n.

    Returns
    -------
    distances, positions
        As `nearest`; a vector is not its own neighbour, an equal one is.
    """
    distances, positions = nearest(vectors, vectors, k + 1)
    others = others_mask(positions, np.arange(len(vectors)))
    shape = (len(vectors), positions.shape[1] - 1)
    return distances[others].reshape(shape), positions[others].reshape(shape)


def others_mask(found: Ints, own: Ints) -> NDArray[np.bool_]:
    """Which of the neighbours found are others than the query itself, bool ``[n, k + 1]``.

    k of each row: where more equal vectors than were asked for displaced the query from
    its own neighbours, the last one is left out in its place.

    Parameters
    ----------
    found
        int64 ``[n, k + 1]``: positions or row numbers, nearest first.
    own
        int64 ``[n]``: those of the queries.
    """
    others: NDArray[np.bool_] = found != own[:, None]
    others[others.all(axis=1), -1] = False
    return others


def overlaps(first: Ints, second: Ints) -> NDArray[np.float64]:
    """Share of the neighbours in each row that the same row of the other has, float64 ``[n]``.

    Parameters
    ----------
    first, second
        int64 ``[n, k]``, without a number twice in a row.
    """
    both = np.sort(np.concatenate([first, second], axis=1), axis=1)
    shared = (both[:, 1:] == both[:, :-1]).sum(axis=1)  # equal numbers are now side by side
    return np.asarray(shared / first.shape[1], np.float64)
