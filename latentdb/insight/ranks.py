"""Ranks of numbers, and what they tell: pure functions of arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


def mean_ranks(values: NDArray[np.floating]) -> Doubles:
    """Ranks from 1, float64 ``[n]``; equal values have the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse], np.float64)


def auc(low: Doubles, high: Doubles) -> float:
    """Share of pairs in which the second is greater, equal ones counted half (Mann-Whitney)."""
    ranks = mean_ranks(np.concatenate([low, high]))
    total = float(ranks[len(low) :].sum()) - len(high) * (len(high) + 1) / 2
    return total / (len(low) * len(high))


def rank_correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Spearman's correlation; NaN where one of the two is constant."""
    first, second = (ranks - ranks.mean() for ranks in (mean_ranks(a), mean_ranks(b)))
    scale = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / scale if scale else float("nan")
