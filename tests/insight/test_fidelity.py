"""Structural similarity, against tensorflow's."""

from __future__ import annotations

import numpy as np
import pytest

from latentdb.insight.fidelity import ssim


@pytest.mark.parametrize("shape", [(16, 20, 3), (28, 28, 1)])
def test_ssim_is_tensorflows(shape: tuple[int, int, int]) -> None:
    import tensorflow as tf

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, *shape), dtype=np.uint8)
    noise = rng.normal(0, 20 * np.arange(5)[:, None, None, None], (5, *shape))
    others = (images + noise).clip(0, 255).astype(np.uint8)
    wanted = tf.image.ssim(images, others, 255).numpy()
    np.testing.assert_allclose(ssim(images, others), wanted, atol=1e-5)
    assert ssim(images, images) == pytest.approx(1)


def test_images_smaller_than_the_window() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 1), dtype=np.uint8)
    assert ssim(images, images) == pytest.approx(1)
    assert (ssim(images, 255 - images) < 0).all()
