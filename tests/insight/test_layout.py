"""A layout keeps neighbours together, is the same each time, and never moves a point."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from latentdb.insight.layout import lay_out, neighbours_kept, place, principal_plane

Floats = NDArray[np.float32]


def clusters(count: int, *, groups: int = 6, dim: int = 16, seed: int = 0) -> tuple[Floats, Floats]:
    """Vectors around `groups` centres far from each other, and the group of each."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, count)
    vectors = 8 * np.eye(groups, dim)[group] + rng.normal(size=(count, dim))
    return vectors.astype(np.float32), group


def test_neighbours_in_the_picture_are_of_the_same_cluster() -> None:
    vectors, group = clusters(1_200)
    points = lay_out(vectors)
    assert points.shape == (1_200, 2)
    assert np.isfinite(points).all()
    gaps = np.square(points[:, None] - points).sum(axis=2)
    np.fill_diagonal(gaps, np.inf)
    nearest = np.argsort(gaps, axis=1)[:, :10]
    assert (group[nearest] == group[:, None]).mean() > 0.98


def test_more_neighbours_are_kept_than_by_the_principal_plane() -> None:
    vectors, _ = clusters(1_500)
    kept = neighbours_kept(vectors, lay_out(vectors))
    assert kept > 3 * neighbours_kept(vectors, principal_plane(vectors))


def test_no_point_is_thrown_out_of_the_picture() -> None:
    points = lay_out(clusters(3_000)[0])
    middle = np.abs(points - np.median(points, axis=0)).max(axis=1)
    assert middle.max() < 4 * np.median(middle)


def test_the_same_seed_gives_the_same_bytes() -> None:
    vectors, _ = clusters(400)
    assert lay_out(vectors, seed=3).tobytes() == lay_out(vectors, seed=3).tobytes()
    assert lay_out(vectors, seed=3).tobytes() != lay_out(vectors, seed=4).tobytes()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 11])
def test_few_vectors(count: int) -> None:
    vectors, _ = clusters(count)
    points = lay_out(vectors)
    assert points.shape == (count, 2)
    assert points.dtype == np.float32
    assert np.isfinite(points).all()


@pytest.mark.parametrize("dim", [1, 2])
def test_few_dimensions(dim: int) -> None:
    points = lay_out(np.random.default_rng(0).normal(size=(60, dim)).astype(np.float32))
    assert np.isfinite(points).all()
    assert len(np.unique(points, axis=0)) == 60


def test_equal_vectors() -> None:
    points = lay_out(np.ones((50, 4), np.float32))
    assert np.isfinite(points).all()


def test_a_landmark_is_placed_on_its_own_point() -> None:
    vectors, _ = clusters(800)
    points = lay_out(vectors)
    assert np.array_equal(place(vectors, points, vectors[:50]), points[:50])


def test_a_new_vector_is_placed_among_its_cluster() -> None:
    vectors, group = clusters(1_500)
    points = lay_out(vectors[:1_000])
    placed = place(vectors[:1_000], points, vectors[1_000:])
    gaps = np.square(placed[:, None] - points).sum(axis=2)
    assert (group[:1_000][gaps.argmin(axis=1)] == group[1_000:]).mean() > 0.98


def test_placing_needs_no_five_landmarks() -> None:
    landmarks, points = np.eye(2, 3, dtype=np.float32), np.array([[0, 0], [4, 2]], np.float32)
    middle = np.array([[0.5, 0.5, 0]], np.float32)
    np.testing.assert_allclose(place(landmarks, points, middle), [[2, 1]])


def test_neighbours_kept_of_a_picture_that_is_the_space() -> None:
    points = np.random.default_rng(1).normal(size=(500, 2)).astype(np.float32)
    assert neighbours_kept(points, points) == 1
    assert neighbours_kept(points, points, sample=100) == 1
    shuffled = np.random.default_rng(2).permutation(points)
    assert neighbours_kept(points, shuffled) < 0.1


def test_progress_is_reported() -> None:
    seen: list[tuple[int, int]] = []
    lay_out(clusters(40)[0], report=lambda done, total: seen.append((done, total)))
    assert seen[0] == (1, 400)
    assert seen[-1] == (400, 400)
