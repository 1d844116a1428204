"""Random views: of every image another part, in other colours."""

from __future__ import annotations

import numpy as np

from tests.model.test_pca import correlated


def test_views_differ_and_are_the_same_for_the_same_seed() -> None:
    from latentdb.model.views import random_views

    images = correlated(60, (32, 20, 3)).astype(np.float32) / 255
    views, again, others = (np.asarray(random_views(images, 24, (0, n))) for n in (1, 1, 2))
    assert views.shape == (60, 24, 24, 3)
    assert 0 <= views.min() <= views.max() <= 1
    assert np.array_equal(views, again)
    assert np.abs(views - others).mean(axis=(1, 2, 3)).min() > 0.001


def test_of_uniform_colour_only_colour_changes() -> None:
    """White stays grey, and every view of one colour is of one colour."""
    from latentdb.model.views import random_views

    colours = np.random.default_rng(0).random((50, 1, 1, 3)) * np.ones((50, 16, 16, 1))
    views = np.asarray(random_views(colours.astype(np.float32), 12, (3, 4)))
    assert np.abs(views - views[:, :1, :1]).max() < 1e-5
    assert np.abs(views[:, 0, 0] - colours[:, 0, 0]).max() > 0.2
    greys = np.asarray(random_views(np.full((50, 8, 8, 3), 0.5, np.float32), 12, (3, 4)))
    assert np.ptp(greys, axis=3).max() < 2e-3
    shares = np.ptp(views[:, 0, 0], axis=1) < 1e-3
    assert 3 <= shares.sum() <= 20  # a fifth becomes grey


def test_views_show_parts_of_the_image_mirrored_or_not() -> None:
    from latentdb.model.views import random_views

    ramp = np.broadcast_to(np.linspace(0.3, 0.6, 32)[None, None, :, None], (200, 32, 32, 3))
    views = np.asarray(random_views(ramp.astype(np.float32), 24, (5, 6)))
    slopes = np.sign((views[:, :, -1] - views[:, :, 0]).mean(axis=(1, 2)))
    assert 70 < (slopes > 0).sum() < 130
