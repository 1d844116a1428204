"""Layers and scales that follow from the data: least squares in place of gradients.

Imports tensorflow at its head; see `vae`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else tensorflow logs to stderr

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from latentdb.model.network import ConvNetwork

BLOCK = 256  # images at a time
_SEMANTIC_DEVIATION = 1.5
_RIDGE = 0.01  # of the mean square of the features

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


def blocks(pixels: Pixels) -> Iterator[Pixels]:
    """Images in order, 256 at a time."""
    for start in range(0, len(pixels), BLOCK):
        yield pixels[start : start + BLOCK]


def sample_means(network: ConvNetwork, sample: Pixels) -> Floats:
    """z_mean of images of the network's inner shape: float32 ``[n, d]``."""
    encode = tf.function(lambda block: network.means(tf.cast(block, tf.float32) / 255.0))
    return np.concatenate([np.asarray(encode(block)) for block in blocks(sample)])


def fit_linear_decoder(network: ConvNetwork, sample: Pixels) -> None:
    """Fit the decoder's linear layer to the latents by least squares.

    For latents that changed under a decoder that was not trained: its
    convolutions still add nothing.
    """
    latents = sample_means(network, sample)
    known = np.column_stack([latents, np.ones(len(latents))]).astype(np.float64)
    squares = known.T @ known + 1e-6 * len(known) * np.eye(known.shape[1])
    products = sum(
        known[start : start + BLOCK].T @ (block.reshape(len(block), -1) / 255.0)
        for start, block in zip(range(0, len(sample), BLOCK), blocks(sample), strict=True)
    )
    fitted = np.linalg.solve(squares, products).astype(np.float32)
    network.layers["linear_image"].set_weights([fitted[:-1], fitted[-1]])


def fit_trunk_mean(network: ConvNetwork, sample: Pixels, before: Floats) -> None:
    """Fit what features add to the dimensions that are not semantic, by ridge regression.

    For features that changed under a decoder that knows what they added.

    Parameters
    ----------
    before
        float32 ``[n, d]``: z_mean of the sample before they changed.
    """
    layers = network.layers

    @tf.function  # type: ignore[untyped-decorator]
    def parts(block: Any) -> Any:
        images = tf.cast(block, tf.float32) / 255.0
        features = network.trunk(network.trunk_input(images))
        flat = tf.reshape(features, (tf.shape(features)[0], -1))
        return flat, layers["linear_mean"](layers["flatten"](images))

    found = [parts(block) for block in blocks(sample)]
    features, linear = (np.concatenate([np.asarray(f[i]) for f in found]) for i in (0, 1))
    # Towards the weights that there are, which were right for the features before.
    kernel = layers["trunk_mean"].get_weights()[0]
    target = before[:, : network.design.linear_dims] - linear - features @ kernel
    centre, offset = features.mean(axis=0), target.mean(axis=0)
    centred = (features - centre).astype(np.float64)
    squares = centred.T @ centred
    squares += (_RIDGE * np.trace(squares) / len(squares) + 1e-9) * np.eye(len(squares))
    change = np.linalg.solve(squares, centred.T @ (target - offset)).astype(np.float32)
    layers["trunk_mean"].set_weights([kernel + change, offset - centre @ change])


def fit_scales(network: ConvNetwork, sample: Pixels) -> None:
    """Bring the latents to their final scales, which leaves reconstructions as they are.

    The mean variance of the dimensions that are not semantic becomes 1; the
    deviation of each semantic one becomes 1.5, found to serve neighbours by
    cosine best.
    """
    deviations = sample_means(network, sample).std(axis=0)
    free = deviations[: network.design.linear_dims]
    factors = np.ones(network.design.latent_dim, np.float32)
    if (free > 0).any():
        factors[: len(free)] = 1 / np.sqrt(np.square(free[free > 0]).mean())
    semantic = deviations[len(free) :]
    factors[len(free) :] = _SEMANTIC_DEVIATION / np.maximum(semantic, 1e-3)
    network.rescale(factors)
