"""Ranks, AUC and rank correlation: against scikit-learn and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from latentdb.insight.ranks import auc, mean_ranks, rank_correlation


def test_equal_values_share_their_ranks() -> None:
    assert mean_ranks(np.array([5.0, 1, 5, 3])).tolist() == [3.5, 1, 3.5, 2]


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_that_of_scikit_learn(seed: int) -> None:
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(seed)
    low, high = random.integers(0, 9, 30).astype(float), random.integers(3, 12, 20).astype(float)
    y = np.repeat([0, 1], [30, 20])
    assert auc(low, high) == pytest.approx(roc_auc_score(y, np.concatenate([low, high])))


@pytest.mark.parametrize("seed", range(5))
def test_the_correlation_is_that_of_scipy(seed: int) -> None:
    from scipy.stats import spearmanr

    a, b = np.random.default_rng(seed).integers(0, 9, (2, 40)).astype(float)
    assert rank_correlation(a, a + b) == pytest.approx(spearmanr(a, a + b).statistic)
    assert math.isnan(rank_correlation(a, np.ones(40)))
