"""Latents that no image was encoded to: samples, and walks along dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.base.wording import counted
from latentdb.model.posterior import scatter, statistics, variances

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

PRIOR, AGGREGATE = "prior", "aggregate"
SOURCES = (PRIOR, AGGREGATE)
MAX_SAMPLES = 100_000
MAX_STEPS = 101
_FULL_COVARIANCE = 1_024  # dimensions up to which correlations are fitted


@dataclass(frozen=True, eq=False)
class Sample:
    """Random latents.

    Attributes
    ----------
    latents
        float32 ``[n, d]``.
    source
        What they were drawn from, in words.
    """

    latents: Floats
    source: str


@dataclass(frozen=True, eq=False)
class Traversal:
    """Walks from one latent along dimensions of its space.

    Attributes
    ----------
    dims
        The dimensions, numbered from 0.
    offsets
        float64 ``[s]``: steps, in standard deviations of the aggregate posterior.
    latents
        float32 ``[m, s, d]``.
    """

    dims: tuple[int, ...]
    offsets: Doubles
    latents: Floats


def check_sampling(count: int, source: str) -> None:
    """Refuse a number of samples or a source that cannot be used."""
    if source not in SOURCES:
        raise InvalidInputError(f"source {source!r} is unknown: sample from {' or '.join(SOURCES)}")
    if not 1 <= count <= MAX_SAMPLES:
        raise InvalidInputError(f"{count} samples cannot be drawn: give 1 to {MAX_SAMPLES:,}")


def sample_prior(count: int, dim: int, *, seed: int = 0) -> Sample:
    """Latents from the prior ``N(0, 1)``."""
    drawn = np.random.default_rng(seed).standard_normal((count, dim), np.float32)
    return Sample(drawn, "the prior, N(0, 1)")


def sample_aggregate(
    count: int, dim: int, blocks: Iterable[tuple[Floats, Floats | None]], *, seed: int = 0
) -> Sample:
    """Latents from a Gaussian with the mean and covariance of the aggregate posterior.

    The covariance is that of z_mean plus the mean sigma² (law of total variance); beyond
    1,024 dimensions only its diagonal.

    Parameters
    ----------
    blocks
        z_mean and z_log_var of the rows, float32 ``[n, dim]``; the latter may be None.

    Raises
    ------
    NotFoundError
        If there are no rows.
    """
    full = dim <= _FULL_COVARIANCE
    drawn = np.random.default_rng(seed).standard_normal((count, dim))
    if full:
        noise = np.zeros(dim)

        def means() -> Iterator[Floats]:
            for z_mean, z_log_var in blocks:
                if z_log_var is not None:
                    noise[:] += variances(z_log_var).sum(axis=0)
                yield z_mean

        rows, mean, products = scatter(means(), dim)
        values, axes = np.linalg.eigh((products + np.diag(noise)) / max(rows, 1))
        latents = mean + (drawn * np.sqrt(np.maximum(values, 0))) @ axes.T
    else:
        found = statistics(blocks, dim)
        rows, latents = found.rows, found.mean + drawn * found.aggregate_sd
    if not rows:
        raise NotFoundError("no rows to fit the aggregate posterior to: sample from the prior")
    kind = "a Gaussian" if full else "a Gaussian without correlations"
    return Sample(
        latents.astype(np.float32),
        f"the aggregate posterior, as {kind} fitted to {counted(rows, 'row')}",
    )


def parse_dims(text: str, ranked: Sequence[int]) -> tuple[int, ...]:
    """Dimensions by a text: ``"top:8"``, those with the greatest effect, or ``"1,5,9"``.

    Parameters
    ----------
    ranked
        All dimensions, by effect.

    Raises
    ------
    InvalidInputError
        If the text is neither, or names a dimension that does not exist.
    """
    wanted = f"dims {text!r} cannot be used: give top:N, or numbers from 0 to {len(ranked) - 1}"
    head, _, rest = text.partition(":")
    numbers = (rest if head == "top" else text).split(",")
    if not all(number.strip().isascii() and number.strip().isdecimal() for number in numbers):
        raise InvalidInputError(wanted)
    if head == "top":
        if len(numbers) > 1 or int(rest) < 1:
            raise InvalidInputError(wanted)
        return tuple(ranked[: int(rest)])
    dims = tuple(int(number) for number in numbers)
    if max(dims) >= len(ranked):
        raise InvalidInputError(wanted)
    return dims


def traverse(
    start: Floats, dims: Sequence[int], sd: Doubles, *, low: float, high: float, steps: int
) -> Traversal:
    """Walks along dimensions, each from `low` to `high` standard deviations around the start.

    Parameters
    ----------
    start
        float32 ``[d]``.
    dims
        Dimensions, from 0.
    sd
        float64 ``[d]``: the length of one step of 1.

    Raises
    ------
    InvalidInputError
        If the range is empty or not finite, or the steps are not 2 to 101.
    """
    if not (np.isfinite([low, high]).all() and low < high):
        raise InvalidInputError(f"range {low:g}..{high:g} cannot be used: give LOW..HIGH, finite")
    if not 2 <= steps <= MAX_STEPS:
        raise InvalidInputError(f"{steps} steps cannot be used: give 2 to {MAX_STEPS}")
    offsets = np.linspace(low, high, steps)
    latents = np.broadcast_to(start, (len(dims), steps, len(start))).copy()
    for row, dim in enumerate(dims):
        latents[row, :, dim] += (offsets * sd[dim]).astype(np.float32)
    return Traversal(tuple(dims), offsets, latents)
