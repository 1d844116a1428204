"""The true neighbours of vectors in memory, of all of them or of others."""

from __future__ import annotations

import numpy as np

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
    others = positions != np.arange(len(vectors))[:, None]
    # Among k + 1 equal vectors FAISS may not return the vector itself: then drop the last.
    others[others.all(axis=1), -1] = False
    shape = (len(vectors), positions.shape[1] - 1)
    return distances[others].reshape(shape), positions[others].reshape(shape)
