"""The closed form of a linear VAE, against a singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest

from latentdb.model import pca
from latentdb.model.pca import area_pooled, fit_pca


def correlated(count: int, shape: tuple[int, ...] = (6, 5, 3)) -> np.ndarray:
    """Images whose pixels depend on one another, as those of photos do."""
    random = np.random.default_rng(0)
    factors = random.standard_normal((count, 40)) / np.arange(1, 41)
    values = factors @ random.standard_normal((40, int(np.prod(shape)))) * 20 + 128
    return np.clip(values, 0, 255).reshape(count, *shape).astype(np.uint8)


def test_it_is_the_singular_value_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pca, "_BLOCK_VALUES", 900)  # blocks of ten images
    images = correlated(205)
    found = fit_pca(images, 8)
    flat = images.reshape(205, -1) / 255.0
    np.testing.assert_allclose(found.mean, flat.mean(axis=0), atol=1e-6)
    _, singular, directions = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(found.deviations, singular[:8] / 205**0.5, rtol=1e-4)
    overlap = np.abs(np.sum(found.components.T * directions[:8], axis=1))
    np.testing.assert_allclose(overlap, 1, atol=1e-3)


def test_the_seed_decides_nothing_but_the_last_digits() -> None:
    images = correlated(205)
    one, other = (fit_pca(images, 8, seed=seed).deviations for seed in (1, 2))
    np.testing.assert_allclose(one, other, rtol=1e-4)


def test_more_images_than_the_bound_are_thinned_out(monkeypatch: pytest.MonkeyPatch) -> None:
    images = correlated(200)
    monkeypatch.setattr(pca, "MAX_VALUES", 50 * 90)
    expected = fit_pca(images[::4], 3)
    np.testing.assert_array_equal(fit_pca(images, 3).components, expected.components)


def test_dimensions_the_images_do_not_have_are_zero() -> None:
    few = fit_pca(correlated(5), 16)
    assert (few.deviations[:4] > 0).all()
    assert not few.deviations[4:].any()
    assert not few.components[:, 4:].any()
    assert np.isfinite(few.scales).all()
    assert np.mean((few.deviations[:4] / few.scales[:4]) ** 2) == pytest.approx(1, rel=1e-5)
    equal = fit_pca(np.full((12, 4, 4, 1), 90, np.uint8), 2)
    assert not equal.components.any()
    assert not equal.scales.any()


def test_half_whitening_makes_variances_of_deviations() -> None:
    found = fit_pca(correlated(205), 8)
    variances = (found.deviations / found.scales) ** 2
    np.testing.assert_allclose(
        variances / variances[0], found.deviations / found.deviations[0], 1e-4
    )
    assert variances.mean() == pytest.approx(1, rel=1e-5)
    assert found.first(3).components.shape == (90, 3)


def test_area_pooling_takes_the_mean_of_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pca, "_BLOCK_VALUES", 100)
    images = correlated(7, (4, 6, 3))
    pooled = area_pooled(images, 2)
    assert pooled.shape == (7, 2, 3, 3)
    assert pooled[3, 1, 2].tolist() == np.rint(images[3, 2:4, 4:6].mean(axis=(0, 1))).tolist()
    assert area_pooled(images, 1) is images
