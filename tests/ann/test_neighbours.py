"""True neighbours of vectors in memory."""

from __future__ import annotations

import numpy as np
import pytest

from latentdb.ann.neighbours import nearest, neighbours


def test_nearest_are_those_of_every_distance() -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(300, 5)), rng.normal(size=(40, 5))
    vectors, queries = vectors.astype(np.float32), queries.astype(np.float32)
    distances, positions = nearest(queries, vectors, 7)
    every = np.linalg.norm(queries[:, None] - vectors, axis=2)
    np.testing.assert_array_equal(positions, np.argsort(every, axis=1)[:, :7])
    np.testing.assert_allclose(distances, np.sort(every, axis=1)[:, :7], atol=1e-5)


def test_at_most_all_are_found() -> None:
    assert nearest(np.zeros((1, 2), np.float32), np.ones((3, 2), np.float32), 9)[1].shape == (1, 3)


@pytest.mark.parametrize("equal", [1, 3, 40])
def test_a_vector_is_not_its_own_neighbour(equal: int) -> None:
    rng = np.random.default_rng(1)
    vectors = np.repeat(rng.normal(size=(60, 4)).astype(np.float32), equal, axis=0)
    distances, positions = neighbours(vectors, 5)
    assert positions.shape == distances.shape == (len(vectors), 5)
    assert not (positions == np.arange(len(vectors))[:, None]).any()
    if equal == 40:
        assert (distances < 1e-3).all()
