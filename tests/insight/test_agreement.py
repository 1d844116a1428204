"""Agreement of neighbours in their labels, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from latentdb.insight.agreement import agreement


def test_accuracy_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 2_000)
    points = np.eye(5, 6)[labels] + rng.normal(0, 0.7, (2_000, 6))
    gallery, queries = slice(0, 1_500), slice(1_500, None)
    model = KNeighborsClassifier(10).fit(points[gallery], labels[gallery])
    found = labels[gallery][model.kneighbors(points[queries], return_distance=False)]
    others = np.bincount(labels[gallery], minlength=5)[labels[queries]]
    result = agreement(labels[queries], found, others)
    truth = model.score(points[queries], labels[queries])
    assert result.accuracy.value == pytest.approx(truth, abs=1e-6)
    assert result.accuracy.low < truth < result.accuracy.high
    assert result.precision.value == pytest.approx((found == labels[queries][:, None]).mean())
    assert result.accuracy.queries == 500


def test_average_precision_by_hand() -> None:
    # Ranks 1 and 3 of 3 are right, of 2 such rows: (1/1 + 2/3) / 2.
    result = agreement(np.array([7]), np.array([[7, 1, 7]]), np.array([2]))
    assert result.mean_average_precision.value == pytest.approx((1 + 2 / 3) / 2)
    # Of 9 such rows at most 3 can be found.
    result = agreement(np.array([7]), np.array([[7, 1, 7]]), np.array([9]))
    assert result.mean_average_precision.value == pytest.approx((1 + 2 / 3) / 3)


def test_a_label_of_one_row_has_no_average_precision() -> None:
    result = agreement(np.array([0, 1]), np.array([[0, 0], [0, 0]]), np.array([2, 0]))
    assert result.mean_average_precision.queries == 1
    assert result.mean_average_precision.value == 1
    assert result.accuracy.value == 0.5


def test_of_equally_frequent_labels_the_first_counts() -> None:
    found = agreement(np.array([1]), np.array([[2, 1, 2, 1]]), np.array([5]))
    assert found.accuracy.value == 1
    assert agreement(np.array([2]), np.array([[2, 1, 2, 1]]), np.array([5])).accuracy.value == 0


def test_no_queries() -> None:
    none = np.empty(0, np.int64)
    assert np.isnan(agreement(none, np.empty((0, 3), np.int64), none).accuracy.value)
