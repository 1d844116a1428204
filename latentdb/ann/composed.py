"""Tune an index on queries unlike the rows: means, differences, noise, samples of the prior.

They lie between clusters or beyond them, where neighbours are spread over more inverted
lists, and at distances that codes separate less well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.exact import Floats, Ints, fits_float32
from latentdb.ann.index import MAX_COMPOSED_FACTOR, VectorIndex, least_rerank_depth
from latentdb.ann.measuring import least_where, lower_bound, positions, ranks_of_lists
from latentdb.ann.plan import IVF4

COMPOSED_K = (10, 100)  # tuned for these; more neighbours of a composed query are found by a scan
# Each kind has to reach the recall by itself: a user may ask queries of one only.
KINDS = ("mean of two", "mean of ten", "a - b + c", "row + noise", "normal", "prior")
OF_A_KIND = 160
_NOISE = 0.5  # of the standard deviation of each dimension
_GROWTH = 1.25  # of nprobe where codes lose too many of the neighbours in the probed lists


def compose(rows: Floats, random: np.random.Generator, count: int = OF_A_KIND) -> Floats:
    """Queries of every kind in `KINDS`, kind by kind: float32 ``[q, d]``.

    Parameters
    ----------
    rows
        float32 ``[n, d]`` to make them of.  Where all have the length 1, as under the cosine
        metrics, the queries have too.
    random
        Chooses them.
    count
        Queries of each kind.
    """
    if not len(rows):
        return rows

    def some(number: int) -> NDArray[np.float64]:
        chosen: Floats = rows[random.integers(0, len(rows), (number, count))]
        return chosen.astype(np.float64)

    mean, deviation = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    first, minus, plus = some(3)
    noise, normal, prior = random.normal(size=(3, count, rows.shape[1]))
    parts = (
        some(2).mean(axis=0),
        some(10).mean(axis=0),
        first - minus + plus,
        some(1)[0] + _NOISE * deviation * noise,
        mean + deviation * normal,
        prior,
    )
    queries = np.concatenate(parts)
    if np.allclose(np.linalg.norm(rows.astype(np.float64), axis=1), 1, atol=1e-3):
        lengths = np.linalg.norm(queries, axis=1, keepdims=True)
        queries = np.divide(queries, lengths, out=queries, where=lengths > 0)
    return queries.astype(np.float32)


def tune_composed(
    index: VectorIndex, queries: Floats, truth: Ints, deleted: Ints, target_recall: float
) -> Mapping[str, int]:
    """nprobe (``composed_K``) and re-rank depth (``composed_width_K``) for composed queries.

    Parameters
    ----------
    index
        Tuned on rows, and without those held out.
    queries
        From `compose`.
    truth
        int64 ``[q, K]``: their true neighbours among the rows of the index.
    deleted
        Row numbers, ascending, that the index has and no query may find.
    target_recall
        Least share of true neighbours to find, for each kind.

    Returns
    -------
    Mapping
        Nothing for a K that takes more than `VectorIndex.max_nprobe`: a scan finds so many.
    """
    parameters: dict[str, int] = {}
    least = 1
    for k in COMPOSED_K if len(queries) and fits_float32(queries) else ():
        if k > min(index.max_k, truth.shape[1]):
            break
        found = _least_effort(index, queries, truth[:, :k], deleted, target_recall, least)
        if found is None:
            break
        least = found[0]  # more neighbours are in more lists
        parameters[f"composed_{k}"], parameters[f"composed_width_{k}"] = found
    return parameters


def _least_effort(
    index: VectorIndex, queries: Floats, truth: Ints, deleted: Ints, target: float, least: int
) -> tuple[int, int] | None:
    """Least nprobe, and with it the least re-rank depth, with which every kind is found."""
    k, most = truth.shape[1], index.max_nprobe

    def is_enough(found: NDArray[np.bool_]) -> bool:
        kinds = np.split(found.mean(axis=1), len(KINDS))
        return all(lower_bound(recalls) >= target for recalls in kinds)

    if index.nlist:
        ranks = ranks_of_lists(index, queries, truth)
        nprobe = least_where(lambda lists: is_enough(ranks < lists), least, most + 1)
    else:
        nprobe = max(least, index.nprobe(k))
    shallow = least_rerank_depth(k)
    deep = MAX_COMPOSED_FACTOR * shallow if index.kind == IVF4 else shallow
    deep = min(deep, max(shallow, index.rows // 4))
    while nprobe <= most:
        places = positions(truth, index.probe(queries, nprobe, deep, deleted).rows)
        if is_enough(places < deep):
            return nprobe, _least_depth(is_enough, places, shallow, deep)
        nprobe = int(nprobe * _GROWTH) + 1
    return None


def _least_depth(
    is_enough: Callable[[NDArray[np.bool_]], bool], places: Ints, shallow: int, deep: int
) -> int:
    return least_where(lambda depth: is_enough(places < depth), shallow, deep)
