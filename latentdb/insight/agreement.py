"""How well neighbours agree in their labels: accuracy, precision and mean average precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
_RESAMPLES = 1_000
_INTERVAL = 2.5, 97.5  # percentiles


@dataclass(frozen=True)
class Score:
    """A mean over queries, with its 95 % bootstrap interval.

    Attributes
    ----------
    value, low, high
        0 to 1; NaN where there is no query to score.
    queries
        Number of queries that were scored.
    """

    value: float
    low: float
    high: float
    queries: int


@dataclass(frozen=True)
class Agreement:
    """How well the k nearest neighbours agree with the label of their query.

    Attributes
    ----------
    k
        Neighbours looked at; a query is not its own.
    accuracy
        k-NN accuracy: share of queries whose label is the most frequent one of its
        neighbours.  Of equally frequent ones the first in sorted order counts, as in
        scikit-learn's ``KNeighborsClassifier``.
    precision
        precision@k: share of neighbours with the label of the query.
    mean_average_precision
        mAP@k: mean over queries of ``Σ precision@i · [i has the label] / min(R, k)``,
        i = 1..k, R the other rows with that label.  Queries whose label is theirs
        alone are left out.
    """

    k: int
    accuracy: Score
    precision: Score
    mean_average_precision: Score


def agreement(labels: Ints, neighbours: Ints, others: Ints, *, seed: int = 0) -> Agreement:
    """Scores of queries and their neighbours.

    Parameters
    ----------
    labels
        int64 ``[q]``: the label of each query, as a number from 0.
    neighbours
        int64 ``[q, k]``: the labels of its neighbours, nearest first.
    others
        int64 ``[q]``: rows beside the query that have its label.
    seed
        Of the bootstrap.
    """
    count, k = neighbours.shape
    same = neighbours == labels[:, None]
    ranks = np.arange(1, k + 1)
    average = (same.cumsum(axis=1) / ranks * same).sum(axis=1)
    scored = others > 0
    average = average[scored] / np.minimum(others[scored], k)
    rng = np.random.default_rng(seed)
    return Agreement(
        k,
        _score(_votes(neighbours) == labels, rng),
        _score(same.mean(axis=1) if k else np.zeros(count), rng),
        _score(average, rng),
    )


def _votes(neighbours: Ints) -> Ints:
    """The most frequent label of each row; of equally frequent ones the least."""
    if not neighbours.size:
        return np.full(len(neighbours), -1, np.int64)
    ordered = np.sort(neighbours, axis=1)
    ranks = np.arange(ordered.shape[1])
    starts = np.where(
        np.concatenate([np.ones((len(ordered), 1), bool), ordered[:, 1:] != ordered[:, :-1]], 1),
        ranks,
        0,
    )
    length = ranks - np.maximum.accumulate(starts, axis=1)
    best = length.argmax(axis=1)  # the first maximum: the least label
    return np.asarray(np.take_along_axis(ordered, best[:, None], axis=1)[:, 0])


def _score(values: NDArray[np.bool_] | Doubles, rng: np.random.Generator) -> Score:
    """The mean, and percentiles of the means of samples drawn with replacement."""
    if not len(values):
        return Score(np.nan, np.nan, np.nan, 0)
    means = [
        float(values[rng.integers(0, len(values), len(values))].mean()) for _ in range(_RESAMPLES)
    ]
    low, high = np.percentile(means, _INTERVAL)
    return Score(float(values.mean()), float(low), float(high), len(values))
