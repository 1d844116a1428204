"""k-means finds planted clusters, and is the same each time."""

from __future__ import annotations

import numpy as np

from latentdb.ann.kmeans import assign, centres


def test_planted_clusters_are_found() -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 8, 2_000)
    vectors = (20 * np.eye(8)[group] + rng.normal(size=(2_000, 8))).astype(np.float32)
    middle = centres(vectors, 8)
    numbers, distances = assign([vectors[:700], vectors[700:]], middle)
    assert len(set(zip(numbers.tolist(), group.tolist(), strict=True))) == 8
    gaps = np.linalg.norm(vectors - middle[numbers], axis=1)
    np.testing.assert_allclose(distances, gaps, rtol=1e-3)
    assert centres(vectors, 8).tobytes() == middle.tobytes()


def test_as_many_clusters_as_rows() -> None:
    vectors = np.eye(5, dtype=np.float32)
    assert sorted(assign([vectors], centres(vectors, 5))[0].tolist()) == [0, 1, 2, 3, 4]


def test_no_rows() -> None:
    numbers, distances = assign([], np.eye(2, dtype=np.float32))
    assert len(numbers) == len(distances) == 0
