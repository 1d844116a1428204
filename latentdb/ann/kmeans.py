"""Centres of clusters by FAISS's k-means."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from latentdb.ann.exact import Floats, Ints, faiss_threads
from latentdb.ann.neighbours import nearest

ROWS_PER_CENTRE = 256  # more do not move a centre; FAISS samples them down itself
_ITERATIONS, _RESTARTS = 25, 3


def centres(vectors: Floats, count: int, *, seed: int = 0) -> Floats:
    """Centres of `count` clusters: the best of three runs of k-means, float32 ``[count, d]``.

    Parameters
    ----------
    vectors
        float32 ``[n, d]``, n >= count, for which `latentdb.ann.exact.fits_float32`.
    """
    import faiss

    means = faiss.Kmeans(
        vectors.shape[1],
        count,
        niter=_ITERATIONS,
        nredo=_RESTARTS,
        init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=ROWS_PER_CENTRE,
    )
    with faiss_threads():
        means.train(vectors)
    return np.array(means.centroids, np.float32)


def assign(blocks: Iterable[Floats], middle: Floats) -> tuple[Ints, Floats]:
    """The nearest centre of each vector, and its distance: int64 and float32 ``[n]``."""
    found = [nearest(vectors, middle, 1) for vectors in blocks]
    none = np.empty((0, 1), np.float32), np.empty((0, 1), np.int64)
    distances = np.concatenate([none[0], *(pair[0] for pair in found)])
    numbers = np.concatenate([none[1], *(pair[1] for pair in found)])
    return numbers[:, 0], distances[:, 0]
