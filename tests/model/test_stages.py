"""The losses of a stage, and what its images are."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from latentdb.kerasfile.runtime import load_keras

if TYPE_CHECKING:
    from latentdb.model.stages import Trainer

SHAPE = (24, 24, 3)


def trainer(pixels: Any) -> Trainer:
    """Of a linear network: its statistics need no training."""
    load_keras()
    from latentdb.model.network import ConvNetwork, Design
    from latentdb.model.pca import fit_pca
    from latentdb.model.stages import Budget, Trainer

    shape = pixels.shape[1:]
    network = ConvNetwork(
        Design(shape, 4, convolutions=False), fit_pca(pixels, 4, seed=0), beta=0.005, seed=0
    )
    return Trainer(
        network, pixels, pixels, beta=0.005, budget=Budget(None, 1), patience=1, seed=0,
        interrupted=threading.Event(), report=None,
    )  # fmt: skip


def images(channels: int = 3) -> Any:
    """Some of little contrast, which are easily reconstructed, and others."""
    random = np.random.default_rng(0)
    contrast = np.where(np.arange(40) % 2, 100, 10)[:, None, None, None]
    noise = random.random((40, *SHAPE[:2], channels)) - 0.5
    return (128 + contrast * noise).astype(np.uint8)


def test_the_loss_follows_the_mean_of_db() -> None:
    """Its value is the squared error, its gradient that of the mean logarithm."""
    import tensorflow as tf

    pixels = images()
    own = trainer(pixels)
    floats = tf.constant(pixels.astype(np.float32) / 255)
    seed = np.array([3, 5], np.int32)
    layer = own.network.layers["linear_image"].kernel.value
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(layer)
        loss, _ = own._reconstruction(floats, seed, trunk_training=False)
        z_mean = own.network.means(floats)
        noise = tf.random.stateless_normal(tf.shape(z_mean), seed)
        z = z_mean + tf.exp(0.5 * own.network.log_variances(z_mean)) * noise
        squares = tf.reduce_sum(tf.square(floats - own.network.pixels(z)), axis=[1, 2, 3])
        mean_logarithm = tf.reduce_mean(tf.math.log(squares))
    mean = float(tf.reduce_mean(squares))
    assert float(tf.reduce_max(squares) / tf.reduce_min(squares)) > 20
    assert float(loss) == pytest.approx(mean, rel=1e-4)
    wanted = mean * np.asarray(tape.gradient(mean_logarithm, layer))
    found = np.asarray(tape.gradient(loss, layer))
    assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()


def test_half_of_the_colour_images_are_mirrored() -> None:
    pixels = images()
    mirrored = np.asarray(trainer(pixels)._mirrored(pixels, np.array([1, 2], np.int32)))
    same = (mirrored == pixels).all(axis=(1, 2, 3))
    other = (mirrored == pixels[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ other).all()
    assert 10 < same.sum() < 30


def test_grey_images_may_be_digits_and_are_not_mirrored() -> None:
    pixels = images(channels=1)
    assert trainer(pixels)._mirrored(pixels, np.array([1, 2], np.int32)) is pixels
