"""How near reconstructions are to their images: structural similarity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latentdb.images.pixel_range import Pixels

Doubles = NDArray[np.float64]
_SIGMA, _WINDOW = 1.5, 11
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_BATCH_VALUES = 4 << 20


def ssim(images: Pixels, others: Pixels) -> Doubles:
    """Mean structural similarity of each pair of images: 1 for equal ones.

    Wang et al. 2004: a Gaussian window of 11 x 11 pixels and sigma 1.5 (a smaller one where
    the image is smaller), K1 0.01, K2 0.03; the mean over windows inside the image and channels.

    Parameters
    ----------
    images, others
        uint8 ``[n, height, width, channels]``.

    Returns
    -------
    ndarray
        float64 ``[n]``.
    """
    side = min(_WINDOW, *images.shape[1:3])
    offsets = np.arange(side) - (side - 1) / 2
    window = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    window = (window / window.sum()).astype(np.float32)
    step = max(1, _BATCH_VALUES // int(np.prod(images.shape[1:])))
    result = np.empty(len(images))
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        # Around the middle of the range, so that the variances do not cancel in float32.
        one, other = images[part] - np.float32(127.5), others[part] - np.float32(127.5)
        mean1, mean2 = _blurred(one, window), _blurred(other, window)
        variance1 = _blurred(one * one, window) - mean1**2
        variance2 = _blurred(other * other, window) - mean2**2
        covariance = _blurred(one * other, window) - mean1 * mean2
        mean1, mean2 = mean1 + np.float32(127.5), mean2 + np.float32(127.5)
        luminance = (2 * mean1 * mean2 + _C1) / (mean1**2 + mean2**2 + _C1)
        structure = (2 * covariance + _C2) / (variance1 + variance2 + _C2)
        result[part] = (luminance * structure).mean(axis=(1, 2, 3), dtype=np.float64)
    return result


def _blurred(values: NDArray[np.float32], window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weighted means of all windows inside ``[n, height, width, channels]``."""
    for axis in (1, 2):
        count = values.shape[axis] - len(window) + 1
        parts = (
            np.take(values, range(offset, offset + count), axis) * weight
            for offset, weight in enumerate(window)
        )
        values = sum(parts, np.zeros((), np.float32))
    return values
