"""Random views of images, in tensorflow: what the semantic dimensions are trained on.

The augmentations of SimCLR (Chen et al. 2020): a crop, a mirror image, and
brightness, contrast, saturation and hue.  A view takes one resampling and one
matrix of 3x3: a few microseconds an image.

Imports tensorflow at its head; see `vae`.
"""

from __future__ import annotations

import math
import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else tensorflow logs to stderr

import tensorflow as tf

_AREA = (0.3, 1.0)  # of the crop, as a share of the image
_ASPECT = 0.28  # largest logarithm of the crop's ratio of height to width
_COLOUR_SHARE = 0.8  # of the views that have their colours changed
_GREY_SHARE = 0.2
_GAIN = (0.6, 1.4)  # brightness and contrast
_SATURATION = (0.3, 1.7)
_HUE = math.pi / 5
# RGB to luminance and two chrominances (YIQ, NTSC 1953).
_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def random_views(images: Any, size: int, seed: Any) -> Any:
    """One view of every image: float32 ``[n, size, size, 3]`` in 0..1.

    Parameters
    ----------
    images
        float32 ``[n, height, width, 3]`` in 0..1.
    size
        Height and width of a view.
    seed
        int32 ``[2]``.
    """
    count = tf.shape(images)[0]
    draws = tf.random.stateless_uniform((12, count), seed)

    def between(number: int, low: float, high: float) -> Any:
        return low + (high - low) * draws[number]

    area, aspect = between(0, *_AREA), tf.exp(between(1, -_ASPECT, _ASPECT) / 2)
    height = tf.minimum(tf.sqrt(area) * aspect, 1.0)
    width = tf.minimum(tf.sqrt(area) / aspect, 1.0)
    top, left = draws[2] * (1 - height), draws[3] * (1 - width)
    mirrored = draws[4] < 0.5
    right = left + width
    edges = tf.where(mirrored, right, left), tf.where(mirrored, left, right)
    boxes = tf.stack([top, edges[0], top + height, edges[1]], axis=1)
    crops = tf.image.crop_and_resize(images, boxes, tf.range(count), (size, size))
    changed = draws[5] < _COLOUR_SHARE

    def change(number: int, low: float, high: float, neutral: float) -> Any:
        return tf.where(changed, between(number, low, high), neutral)

    brightness, contrast = change(6, *_GAIN, 1.0), change(7, *_GAIN, 1.0)
    saturation = tf.where(draws[8] < _GREY_SHARE, 0.0, change(9, *_SATURATION, 1.0))
    hue = change(10, -_HUE, _HUE, 0.0)
    matrix = _colour_matrix(saturation, hue)
    to_yiq = tf.constant(_YIQ)
    luminance = tf.reduce_mean(tf.tensordot(crops, to_yiq[0], 1), axis=[1, 2])
    gain = (brightness * contrast)[:, None, None] * matrix
    offset = brightness * (1 - contrast) * luminance
    flat = tf.reshape(crops, (count, size * size, 3))
    coloured = tf.matmul(flat, gain, transpose_b=True) + offset[:, None, None]
    return tf.reshape(tf.clip_by_value(coloured, 0.0, 1.0), (count, size, size, 3))


def _colour_matrix(saturation: Any, hue: Any) -> Any:
    """Scale and rotate the chrominances: float32 ``[n, 3, 3]`` on RGB."""
    to_yiq = tf.constant(_YIQ)
    across, along = saturation * tf.cos(hue), saturation * tf.sin(hue)
    one, zero = tf.ones_like(hue), tf.zeros_like(hue)
    rows = [one, zero, zero, zero, across, -along, zero, along, across]
    rotation = tf.reshape(tf.stack(rows, axis=1), (-1, 3, 3))
    return tf.linalg.inv(to_yiq) @ rotation @ to_yiq
