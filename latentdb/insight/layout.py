"""Vectors as points of a plane, placed so that neighbours stay neighbours.

A neighbour embedding as UMAP (McInnes, Healy, Melville 2018): points attract those
that are near in the space, and repel random others.  The repulsion is stronger than
UMAP's, which moves the picture towards t-SNE's (Böhm, Berens, Kobak 2022).  On 10,000
half-whitened PCA latents of CIFAR-10 in 64 dimensions, on one thread, the picture kept
12.8 % of the 10 nearest neighbours after 3.6 CPU seconds; umap-learn 4.2 % after 10,
openTSNE 14.9 % after 21, PaCMAP 2.2 % after 2, the first two principal axes 1.1 %.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.neighbours import nearest, neighbours, others_mask, overlaps
from latentdb.insight.blocks import sample_rows

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
Report = Callable[[int, int], None]

_NEIGHBOURS = 10  # that attract a point
_SPREAD = 10.0  # half the width of the picture that the run starts from
_ROUNDS = 400, 200  # of small and of large sets, whose rounds take longer
_LARGE = 20_000
_REPELLED = 5  # random points that each attraction is balanced by
_REPULSION = 20.0  # times UMAP's
_MAX_STEP = 0.5  # of one pull or push; UMAP's 4 throws points out of the picture
_MIN_SQUARE = 1e-3
_BISECTIONS = 48
_LANDMARKS = 5  # by which a point is placed that was not laid out


def lay_out(vectors: Floats, *, seed: int = 0, report: Report | None = None) -> Floats:
    """Points in a plane for vectors.

    Parameters
    ----------
    vectors
        float32 ``[n, d]``, to some 50,000.
    seed
        The same vectors and seed give the same points on the same machine.
    report
        Called with the rounds done, and their number.

    Returns
    -------
    ndarray
        float32 ``[n, 2]``.
    """
    count = len(vectors)
    if count <= 1:
        return np.zeros((count, 2), np.float32)
    points = principal_plane(vectors)
    if count <= 3:
        return points
    distances, others = neighbours(vectors, min(_NEIGHBOURS, count - 1))
    first, second, weight = _edges(others, _memberships(distances.astype(np.float64)))
    rng = np.random.default_rng(seed)
    rounds = _ROUNDS[count > _LARGE]
    rate = weight / weight.max()
    due = rng.random(len(rate))
    for number in range(rounds):
        # An edge of half the weight takes part in every second round.
        due += rate
        taken = np.flatnonzero(due >= 1)
        due[taken] -= 1
        step = 1 - number / rounds
        points += step * _forces(points, first[taken], second[taken], rng)
        if report is not None:
            report(number + 1, rounds)
    return points


def _forces(points: Floats, first: Ints, second: Ints, rng: np.random.Generator) -> Floats:
    """How far each point moves: float32 ``[n, 2]``."""
    gap = points[first] - points[second]
    square = np.einsum("ij,ij->i", gap, gap)
    pull = np.clip((-2 / (1 + square))[:, None] * gap, -_MAX_STEP, _MAX_STEP)
    moved = np.concatenate([first, second])
    force = np.concatenate([pull, -pull])
    here = points[moved]
    for _ in range(_REPELLED):
        gap = here - points[rng.integers(0, len(points), len(moved))]
        square = np.einsum("ij,ij->i", gap, gap)
        push = (2 * _REPULSION / ((_MIN_SQUARE + square) * (1 + square)))[:, None] * gap
        force += np.clip(push, -_MAX_STEP, _MAX_STEP)
    sums = [np.bincount(moved, force[:, axis], len(points)) for axis in (0, 1)]
    return np.stack(sums, axis=1).astype(np.float32)


def principal_plane(vectors: Floats) -> Floats:
    """The first two principal axes of vectors, float32 ``[n, 2]``, scaled to a fixed width."""
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    if centred.shape[1] == 1:
        centred = np.pad(centred, ((0, 0), (0, 1)))
    axes = np.linalg.eigh(centred.T @ centred)[1][:, :-3:-1]
    # An axis has no sign of its own: take the one that the library cannot change.
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])
    points = centred @ axes
    return np.asarray(points * (_SPREAD / max(np.abs(points).max(), 1e-30)), np.float32)


def _memberships(distances: Doubles) -> Doubles:
    """How strongly each neighbour attracts, 0 to 1: UMAP's fuzzy set, float64 ``[n, k]``.

    ``exp(-(d - d_1) / s)`` with s such that the k of them add up to log2 k.
    """
    beyond = distances - distances[:, :1]
    wanted = np.log2(distances.shape[1])
    least = max(1e-3 * float(distances.mean()), 1e-30)
    low, high = np.zeros(len(distances)), np.full(len(distances), np.inf)
    scale = np.full(len(distances), max(float(beyond.mean()), least))
    for _ in range(_BISECTIONS):
        wide = np.exp(-beyond / scale[:, None]).sum(axis=1) > wanted
        high, low = np.where(wide, scale, high), np.where(wide, low, scale)
        scale = np.where(np.isinf(high), 2 * scale, (low + high) / 2).clip(least, 1e30)
    return np.asarray(np.exp(-beyond / scale[:, None]))


def _edges(others: Ints, weights: Doubles) -> tuple[Ints, Ints, Doubles]:
    """Pairs of neighbours, each once, with ``a + b - a b`` of the weights of its two directions."""
    count, width = others.shape
    start = np.repeat(np.arange(count), width)
    stop, weight = others.ravel(), weights.ravel()
    keys = np.minimum(start, stop) * count + np.maximum(start, stop)
    order = np.argsort(keys, kind="stable")
    keys, weight = keys[order], weight[order]
    firsts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    missed = np.multiply.reduceat(1 - weight, firsts)
    return keys[firsts] // count, keys[firsts] % count, 1 - missed


def place(landmarks: Floats, points: Floats, vectors: Floats) -> Floats:
    """Points for further vectors, among those that are laid out and do not move.

    Parameters
    ----------
    landmarks, points
        Vectors, float32 ``[m, d]``, and their points, float32 ``[m, 2]``.
    vectors
        float32 ``[n, d]``.

    Returns
    -------
    ndarray
        float32 ``[n, 2]``: the mean of the points of the five nearest landmarks, weighted by
        ``1 / d²``, so that a landmark itself is on its point.
    """
    known = {row.tobytes(): number for number, row in enumerate(landmarks)}
    found = np.array([known.get(row.tobytes(), -1) for row in vectors], np.int64)
    placed = points[found]
    others = np.flatnonzero(found < 0)
    # Most rows are landmarks: searching their neighbours took 17 s of CPU for 50,000.
    if len(others):
        placed[others] = between(landmarks, points, vectors[others])
    return placed


def between(landmarks: Floats, points: Floats, vectors: Floats) -> Floats:
    """`place` of a few vectors, without a table of the landmarks."""
    positions = nearest(vectors, landmarks, _LANDMARKS)[1]
    # FAISS's squares are not exactly 0 for equal vectors.
    gaps = np.subtract(landmarks[positions], vectors[:, None], dtype=np.float64)
    squares = np.maximum(np.einsum("nkd,nkd->nk", gaps, gaps), np.finfo(np.float64).tiny)
    weights = squares.min(axis=1, keepdims=True) / squares
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(np.einsum("nk,nkc->nc", weights, points[positions]), np.float32)


def neighbours_kept(
    vectors: Floats, points: Floats, *, k: int = 10, sample: int = 5_000, seed: int = 0
) -> float:
    """Share of the k nearest neighbours that are among the k nearest in the picture too.

    Parameters
    ----------
    vectors, points
        float32 ``[n, d]`` and ``[n, 2]``.
    sample
        Vectors to look at, drawn with `seed`; their neighbours are sought among all.

    Returns
    -------
    float
        0 to 1; about k / n for a random picture.
    """
    k = min(k, len(vectors) - 1)
    if k < 1:
        return 1.0
    rows = sample_rows(np.arange(len(vectors)), sample, seed)
    found = []
    for space in (vectors, points):
        positions = nearest(np.ascontiguousarray(space[rows]), space, k + 1)[1]
        found.append(positions[others_mask(positions, rows)].reshape(len(rows), k))
    return float(overlaps(*found).mean())
