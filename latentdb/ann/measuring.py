"""What tuning measures: where true neighbours lie, and how surely a recall is reached."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.exact import Floats, Ints
from latentdb.ann.index import VectorIndex

# Recall on a second sample of queries differs by 1.4 standard errors of one: with a margin of two,
# 8 % of such checks fall below the target, with three 1.7 %, with four 0.2 %.
_STANDARD_ERRORS = 4
_BATCH = 100  # queries for which the order of all inverted lists is in memory at a time


def lower_bound(recalls: NDArray[np.float64]) -> float:
    """Mean recall less some standard errors: other queries fall below a bare mean."""
    error = float(recalls.std()) / math.sqrt(len(recalls))
    return float(recalls.mean()) - _STANDARD_ERRORS * error


def least_where(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The least number from `low` for which a condition that stays true is true, by bisection.

    `high` where it is true of none below.
    """
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def positions(truth: Ints, candidates: Ints) -> Ints:
    """Position of true neighbours ``[q, k]`` among candidates ``[q, c]``; c for those not there."""
    result = np.empty(truth.shape, np.int64)
    for number, rows in enumerate(candidates):
        order = rows.argsort(kind="stable")
        places = np.minimum(rows.searchsorted(truth[number], sorter=order), len(rows) - 1)
        found = order[places]
        result[number] = np.where(rows[found] == truth[number], found, len(rows))
    return result


def ranks_of_lists(index: VectorIndex, queries: Floats, truth: Ints) -> Ints:
    """Rank of the inverted list (0 is the nearest centroid) that contains each true neighbour.

    int64 ``[q, k]``; nlist for a row that is in no list.
    """
    rows, inverse = np.unique(truth, return_inverse=True)
    list_of = (index.list_of(rows) - 1)[inverse].reshape(truth.shape)
    ranks = np.empty(truth.shape, np.int64)
    rank_of = np.empty(index.nlist + 1, np.int64)
    rank_of[-1] = index.nlist
    for start in range(0, len(queries), _BATCH):
        _, ordered = index.nearest_lists(queries[start : start + _BATCH])
        for number, lists in enumerate(ordered, start):
            rank_of[lists] = np.arange(index.nlist)
            ranks[number] = rank_of[list_of[number]]
    return ranks
