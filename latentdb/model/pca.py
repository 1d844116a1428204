"""Principal component analysis of images, the closed form that training starts from.

The optimum of a linear VAE is that of probabilistic PCA (Tipping & Bishop 1999;
Lucas et al., *Don't Blame the ELBO!*, 2019), so it need not be trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_VALUES = 200_000_000  # pixel values that are fitted, e.g. 65,000 images of CIFAR-10
_BLOCK_VALUES = 16 << 20  # converted to float32 at a time: 64 MiB
_OVERSAMPLING = 16  # directions beyond those wanted; at least half as many again
_ITERATIONS = 6  # of the subspace iteration
_LEAST_DEVIATION = 1e-3  # in 0..1, less than the rounding of one 8-bit pixel (1.1e-3)

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class PCA:
    """Mean and principal directions of images, pixels in 0..1.

    Attributes
    ----------
    mean
        float32 ``[values]``, `values` being height x width x channels.
    components
        float32 ``[values, d]``: orthonormal columns, the largest variance first;
        zero columns where the images have fewer dimensions than `d`.
    deviations
        float32 ``[d]``: standard deviations along them.
    """

    mean: Floats
    components: Floats
    deviations: Floats

    def first(self, dims: int) -> PCA:
        """The same with the first `dims` components only."""
        return PCA(self.mean, self.components[:, :dims], self.deviations[:dims])

    @property
    def scales(self) -> Floats:
        """The units of a half-whitened latent, ``c sqrt(deviation)``: float32 ``[d]``.

        A latent's variance is then proportional to the deviation of its component
        instead of the variance, and 1 in the mean of those that vary.  Zero where
        a component does not vary.
        """
        varies = self.deviations > 0
        if not varies.any():
            return np.zeros_like(self.deviations)
        roots = np.sqrt(self.deviations / self.deviations[varies].mean(dtype=np.float64))
        return np.asarray(roots * self.deviations[varies].mean(), np.float32)


def area_pooled(images: Pixels, factor: int) -> Pixels:
    """Images reduced by a whole factor, each pixel the rounded mean of its square.

    Parameters
    ----------
    images
        uint8 ``[n, height, width, channels]``, sides divisible by `factor`.
    """
    if factor == 1:
        return images
    count, height, width, channels = images.shape
    pooled = np.empty((count, height // factor, width // factor, channels), np.uint8)
    step = max(1, _BLOCK_VALUES // (height * width * channels))
    for start in range(0, count, step):
        block = images[start : start + step]
        squares = block.reshape(
            len(block), height // factor, factor, width // factor, factor, channels
        )
        pooled[start : start + step] = np.rint(squares.mean(axis=(2, 4), dtype=np.float32))
    return pooled


def fit_pca(images: Pixels, dims: int, *, seed: int = 0) -> PCA:
    """The first principal components, by a randomised subspace iteration.

    Halko, Martinsson & Tropp, *Finding structure with randomness* (2011),
    algorithm 4.4.  Images are converted block by block; at most `MAX_VALUES` pixel
    values, evenly spaced images, are used.

    Parameters
    ----------
    images
        uint8 ``[n, height, width, channels]``, in random order.
    dims
        Components.
    seed
        Of the random start.
    """
    values = int(np.prod(images.shape[1:]))
    flat = images.reshape(len(images), values)
    step = -(-flat.size // MAX_VALUES)
    flat = flat[::step]
    count = len(flat)
    rows = max(1, _BLOCK_VALUES // values)
    starts = range(0, count, rows)
    total = sum(flat[at : at + rows].sum(axis=0, dtype=np.float64) for at in starts)
    mean = np.asarray(total / (255.0 * count), np.float32)
    wanted = min(count, values, dims + max(_OVERSAMPLING, dims // 2))
    random = np.random.default_rng([seed, 1])
    basis = random.standard_normal((values, wanted), dtype=np.float32)

    def covariance_times(directions: Floats) -> Floats:
        product = np.zeros_like(directions)
        for at in starts:
            block = flat[at : at + rows].astype(np.float32)
            block *= np.float32(1 / 255)
            block -= mean
            product += block.T @ (block @ directions)
        return product / np.float32(count)

    basis = _orthonormal(basis)
    for _ in range(_ITERATIONS):
        basis = _orthonormal(covariance_times(basis))
    reduced = (basis.T @ covariance_times(basis)).astype(np.float64)
    variances, rotation = np.linalg.eigh((reduced + reduced.T) / 2)
    found = min(dims, len(variances))
    order = np.argsort(variances)[::-1][:found]
    components = np.zeros((values, dims), np.float32)
    deviations = np.zeros(dims, np.float32)
    components[:, :found] = basis @ rotation[:, order].astype(np.float32)
    deviations[:found] = np.sqrt(np.maximum(variances[order], 0))
    constant = deviations < _LEAST_DEVIATION
    components[:, constant], deviations[constant] = 0, 0
    return PCA(mean, components, deviations)


def _orthonormal(columns: Floats) -> Floats:
    """An orthonormal basis of what the columns span, which may be fewer.

    By the eigenvectors of their inner products, in float64: of 12,288 values and 96
    columns six times as fast as numpy's QR.
    """
    wide = columns.astype(np.float64)
    squares, rotation = np.linalg.eigh(wide.T @ wide)
    spanned = squares > 1e-12 * max(squares[-1], 1e-300)
    if not spanned.any():
        return columns[:, :1]
    return np.asarray(wide @ (rotation[:, spanned] / np.sqrt(squares[spanned])), np.float32)
