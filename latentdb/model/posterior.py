"""Statistics of the posteriors in a store, one dimension at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
# [n, d], and metadata of rows if they are such, to [n, height, width, channels].
Decode = Callable[..., NDArray[np.uint8]]

ACTIVE_VARIANCE = 0.01  # of z_mean over the data, above which a unit is active (Burda et al. 2016)
MAX_AXES = 4_096  # dimensions whose covariance is computed
_MAX_LOG_VAR = 80.0
_BATCH = 256


@dataclass(frozen=True, eq=False)
class Posteriors:
    """Statistics of posteriors ``N(z_mean, sigma²)``, each float64 ``[d]``.

    Attributes
    ----------
    rows
        Number of posteriors.
    mean, variance
        Of z_mean over the rows.
    sigma2
        Mean sigma² over the rows; None if the store has no z_log_var.
    kl
        Mean divergence from the prior ``N(0, 1)`` in nats:
        ``½ (z_mean² + sigma² - log sigma² - 1)`` (Kingma and Welling 2014); None likewise.
    """

    rows: int
    mean: Doubles
    variance: Doubles
    sigma2: Doubles | None
    kl: Doubles | None

    @property
    def aggregate_variance(self) -> Doubles:
        """Variance of the aggregate posterior: that of z_mean, and the mean sigma²."""
        return self.variance if self.sigma2 is None else self.variance + self.sigma2

    @property
    def aggregate_sd(self) -> Doubles:
        """Standard deviation of the aggregate posterior."""
        return np.sqrt(self.aggregate_variance)

    @property
    def prior_gap(self) -> Doubles:
        """Divergence in nats of the aggregate posterior, as a Gaussian, from ``N(0, 1)``."""
        variance = np.maximum(self.aggregate_variance, np.finfo(np.float64).tiny)
        return 0.5 * (self.mean**2 + variance - np.log(variance) - 1)

    def active(self, threshold: float = ACTIVE_VARIANCE) -> NDArray[np.bool_]:
        """Dimensions whose z_mean varies by more than a threshold over the rows."""
        return np.asarray(self.variance > threshold)


def variances(z_log_var: Floats) -> Doubles:
    """sigma² of posteriors, float64 in the shape of `z_log_var`."""
    return np.exp(_bounded(z_log_var))


def divergences(z_mean: Floats, z_log_var: Floats) -> Doubles:
    """Divergence of posteriors from the prior ``N(0, 1)`` in nats, by dimension.

    ``½ (z_mean² + sigma² - log sigma² - 1)`` (Kingma and Welling 2014), float64 in the shape
    of the arguments.
    """
    log_var = _bounded(z_log_var)
    return 0.5 * (z_mean.astype(np.float64) ** 2 + np.exp(log_var) - log_var - 1)


def _bounded(z_log_var: Floats) -> Doubles:
    return z_log_var.astype(np.float64).clip(-_MAX_LOG_VAR, _MAX_LOG_VAR)


class _RunningMean:
    """The mean of rows that come in blocks (Chan et al. 1979): sums around it do not cancel."""

    def __init__(self, dim: int) -> None:
        self.rows = 0
        self.mean = np.zeros(dim)

    def add(self, block: Floats) -> tuple[Doubles, Doubles, float]:
        """The block around its own mean, that mean less the mean before, and a factor.

        The sum of products around the mean grows by that of the first, and by the product of
        the second times the factor.
        """
        values = block.astype(np.float64)
        count, block_mean = len(values), values.mean(axis=0)
        gap, rows = block_mean - self.mean, self.rows + count
        factor = self.rows * count / rows
        self.mean += gap * (count / rows)
        self.rows = rows
        return values - block_mean, gap, factor


def statistics(blocks: Iterable[tuple[Floats, Floats | None]], dim: int) -> Posteriors:
    """Statistics of posteriors, read once.

    Parameters
    ----------
    blocks
        z_mean and z_log_var, each float32 ``[n, dim]``, of which the latter may be None.
    """
    running, squares = _RunningMean(dim), np.zeros(dim)
    sigma2, kl = np.zeros(dim), np.zeros(dim)
    complete = True
    for z_mean, z_log_var in blocks:
        if not len(z_mean):
            continue
        centred, gap, factor = running.add(z_mean)
        squares += (centred**2).sum(axis=0)
        squares += gap**2 * factor
        if z_log_var is None:
            complete = False
        elif complete:
            sigma2 += variances(z_log_var).sum(axis=0)
            kl += divergences(z_mean, z_log_var).sum(axis=0)
    rows = running.rows
    total = max(rows, 1)
    known = complete and rows > 0
    return Posteriors(
        rows,
        running.mean,
        squares / total,
        sigma2 / total if known else None,
        kl / total if known else None,
    )


def decoded_effect(latents: Floats, steps: Doubles, decode: Decode) -> Doubles:
    """How much each dimension changes the picture, float64 ``[d]``: see `decoded_change`.

    Parameters
    ----------
    steps
        float64 ``[d]``: how far to go to either side, one standard deviation each.
    """

    def offsets() -> Iterator[Doubles]:
        for number, step in enumerate(steps):
            offset = np.zeros(len(steps))
            offset[number] = step
            yield offset

    return decoded_change(latents, offsets(), decode)


def decoded_change(latents: Floats, offsets: Iterable[Doubles], decode: Decode) -> Doubles:
    """How much each of some steps changes the picture, float64 ``[m]``.

    Parameters
    ----------
    latents
        float32 ``[n, d]``: where to look, rows of the store.
    offsets
        m of float64 ``[d]``: the steps, which are gone to either side.
    decode
        Latents to uint8 images.

    Returns
    -------
    ndarray
        Root mean square of the change of a pixel, as a share of white (1/255 is one level),
        of ``decode(z + step) - decode(z - step)`` halved, over rows, pixels and channels.
    """
    effects = []
    for step in offsets:
        offset = step.astype(np.float32)
        total, size = 0.0, 0
        for start in range(0, len(latents), _BATCH):
            part = latents[start : start + _BATCH]
            images = decode(np.concatenate([part + offset, part - offset])).astype(np.float32)
            change = (images[: len(part)] - images[len(part) :]) / 2
            total += float(np.square(change, dtype=np.float64).sum())
            size += change.size
        effects.append(np.sqrt(total / max(size, 1)) / 255)
    return np.array(effects)


@dataclass(frozen=True, eq=False)
class PrincipalAxes:
    """The principal axes of z_mean over some rows, the one of the greatest variance first.

    Attributes
    ----------
    rows
        Number of rows.
    mean
        float64 ``[d]``.
    axes
        float64 ``[d, d]``: an axis a row, of length 1; its greatest component is positive.
    variance
        float64 ``[d]``: of z_mean along each axis.
    """

    rows: int
    mean: Doubles
    axes: Doubles
    variance: Doubles

    def step(self, number: int) -> Doubles:
        """One standard deviation along an axis, float64 ``[d]``."""
        return np.asarray(np.sqrt(self.variance[number]) * self.axes[number])


def scatter(blocks: Iterable[Floats], dim: int) -> tuple[int, Doubles, Doubles]:
    """Number of latents, their mean ``[d]``, and the sum of outer products around it ``[d, d]``."""
    running, products = _RunningMean(dim), np.zeros((dim, dim))
    for block in blocks:
        if not len(block):
            continue
        centred, gap, factor = running.add(block)
        products += centred.T @ centred
        products += np.outer(gap, gap) * factor
    return running.rows, running.mean, products


def principal_axes(blocks: Iterable[Floats], dim: int) -> PrincipalAxes:
    """Principal axes of latents, float32 ``[n, dim]``, read once.

    Raises
    ------
    InvalidInputError
        If there are over 4,096 dimensions.
    """
    if dim > MAX_AXES:
        raise InvalidInputError(
            f"principal axes of {dim:,} dimensions are not computed: at most {MAX_AXES:,}"
        )
    rows, mean, products = scatter(blocks, dim)
    values, vectors = np.linalg.eigh(products / max(rows, 1))
    axes = vectors.T[::-1]
    greatest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    return PrincipalAxes(rows, mean, axes * np.sign(greatest), np.maximum(values[::-1], 0))
