"""The calibration tells copies from other images."""

from __future__ import annotations

import numpy as np
import pytest

from latentdb.insight.copies import calibrate, false_rate, mild_copy


@pytest.mark.parametrize("shape", [(16, 16, 3), (20, 9, 1), (1, 1, 3)])
def test_a_mild_copy_is_the_same_picture_with_other_pixels(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    ramp = np.linspace(20, 230, shape[0] * shape[1]).reshape(*shape[:2], 1)
    image = np.broadcast_to(ramp, shape).astype(np.uint8)
    copy = mild_copy(image, rng)
    assert copy.shape == shape
    assert copy.dtype == np.uint8
    assert np.abs(copy - image.astype(float)).mean() < 20
    assert (copy != image).any()


def gaps(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    points = rng.random((count, dim))
    square = np.linalg.norm(points[:400, None] - points, axis=2)
    return np.sort(square, axis=1)[:, 1:21].astype(np.float32)


@pytest.mark.parametrize("dim", [2, 5])
def test_the_false_rate_is_extrapolated_to_what_is_there(dim: int) -> None:
    near = gaps(np.random.default_rng(1), 4_000, dim)
    value = float(np.quantile(near[:, 0], 0.2))
    there = (near <= value).sum(axis=1).mean()
    assert 0.8 * there < false_rate(near, value) < 2 * there  # rather too many than too few


def test_copies_that_are_there_do_not_count_as_false() -> None:
    near = gaps(np.random.default_rng(1), 4_000, 5)
    copied = np.concatenate([np.full((400, 2), 1e-3, np.float32), near[:, :18]], axis=1)
    assert false_rate(copied, 1e-2) < 0.01


def test_the_threshold_stays_below_the_neighbours_where_copies_do_not() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (400, 8, 8, 1), dtype=np.uint8)
    own = images.reshape(400, -1).astype(np.float32)
    near = gaps(rng, 4_000, 5) * 1_000
    encode = lambda pixels: pixels.reshape(len(pixels), -1).astype(np.float32)  # noqa: E731
    free = calibrate(images, own, near * 1_000, encode, lambda one: one)
    assert free.recall is not None
    assert free.recall >= 0.97
    tight = calibrate(images, own, near, encode, lambda one: one)
    assert tight.value < free.value
    assert tight.recall is not None
    assert tight.recall < free.recall
    assert tight.false_rate is not None
    assert tight.false_rate <= 0.01
