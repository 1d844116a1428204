"""Arithmetic on latents: averages, blends, linear and spherical interpolation.

Pure functions on arrays ``[n, d]`` that compute in float64 and return float32.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError
from latentdb.base.wording import counted

METHODS = ("linear", "slerp", "norm")
MAX_STEPS = 10_000

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_PARALLEL = 1e-7  # radians below which the arc equals the chord in float32
_MAX_ITERATIONS = 100


def _float32(values: Any) -> Floats:
    return np.asarray(values).astype(np.float32)


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise InvalidInputError(f"method {method!r} is unknown: use one of {', '.join(METHODS)}")


def normalise_weights(weights: Sequence[float] | NDArray[Any] | None, count: int) -> Doubles:
    """Weights scaled to a sum of 1; as they are if they sum to zero; equal weights if None.

    Weights that sum to zero make a difference of latents, a direction, which has no mean.

    Parameters
    ----------
    weights
        One per latent; a negative one leads away from its latent.
    count
        Number of latents.

    Returns
    -------
    ndarray
        float64 ``[count]``.

    Raises
    ------
    InvalidInputError
        If their number is not `count`, one is not finite, or all are zero.
    """
    if count < 1:
        raise InvalidInputError("there is nothing to blend: give at least one latent")
    if weights is None:
        return np.full(count, 1.0 / count)
    try:
        array = np.asarray(weights, np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"weights {weights!r} are not numbers: give one number per latent"
        ) from error
    if array.ndim != 1:
        raise InvalidInputError(f"weights have shape {list(array.shape)}: expected [{count}]")
    if array.shape != (count,):
        raise InvalidInputError(
            f"{counted(array.size, 'weight')} for {counted(count, 'latent')}: give one per latent"
        )
    if not np.isfinite(array).all():
        raise InvalidInputError(f"weights {array.tolist()} are not all finite: give finite numbers")
    largest = float(np.abs(array).max())
    if largest > 1e300:
        array = array / largest  # else the sum overflows
    if not array.any():
        raise InvalidInputError(f"weights {array.tolist()} are all zero: give one that is not")
    total = float(array.sum())
    if abs(total) <= 1e-12 * float(np.abs(array).sum()):
        return array
    scaled: Doubles = array / total
    return scaled


def average(latents: NDArray[Any], weights: Sequence[float] | None = None) -> Floats:
    """Weighted mean of latents.

    Parameters
    ----------
    latents
        ``[n, d]``.
    weights
        ``[n]``, scaled to a sum of 1; equal by default.

    Returns
    -------
    ndarray
        float32 ``[d]``.
    """
    points = np.asarray(latents, np.float64)
    return _float32(normalise_weights(weights, len(points)) @ points)


def lerp(a: NDArray[Any], b: NDArray[Any], t: float) -> Floats:
    """The point at `t` on the straight line from `a` (0) to `b` (1): float32 ``[d]``."""
    if t == 0 or t == 1:
        return np.asarray(b if t else a, np.float32).copy()
    start, end = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return _float32((1.0 - t) * start + t * end)


def slerp(a: NDArray[Any], b: NDArray[Any], t: float) -> Floats:
    """The point at `t` on the arc from `a` (0) to `b` (1).

    The direction moves along the great circle at constant speed (Shoemake,
    *Animating Rotation with Quaternion Curves*, 1985); the norm moves linearly
    from one norm to the other.  Where no great circle is defined (a zero
    vector, opposite directions), the result is that of `lerp`.

    Returns
    -------
    ndarray
        float32 ``[d]``.
    """
    start, end = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = np.linalg.norm(start), np.linalg.norm(end)
    if t in (0, 1) or not norms[0] or not norms[1]:
        return lerp(a, b, t)
    u, v = start / norms[0], end / norms[1]
    # atan2 of chord lengths is accurate for small and for nearly opposite angles; arccos is not.
    angle = 2.0 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))
    if angle < _PARALLEL or np.pi - angle < _PARALLEL:
        return lerp(a, b, t)
    direction = (np.sin((1.0 - t) * angle) * u + np.sin(t * angle) * v) / np.sin(angle)
    return _float32(((1.0 - t) * norms[0] + t * norms[1]) * direction)


def blend(
    latents: NDArray[Any], weights: Sequence[float] | None = None, *, method: str = "linear"
) -> Floats:
    """A weighted combination of latents.

    Parameters
    ----------
    latents
        ``[n, d]``.
    weights
        ``[n]``, scaled to a sum of 1, but for those that sum to zero, a difference;
        equal by default.  If only one is not zero, its latent is returned unchanged.
    method
        ``"linear"``: the weighted mean.  ``"norm"``: the weighted mean, scaled
        to the weighted mean of the norms, because means of many latents shrink
        towards the origin, where decoders give blurred images.  ``"slerp"``: the
        weighted mean on the sphere (Buss & Fillmore, *Spherical Averages*, 2001)
        with that norm; weights must not be negative.

    Returns
    -------
    ndarray
        float32 ``[d]``.

    Raises
    ------
    InvalidInputError
        If the weights or the method are invalid.
    """
    _check_method(method)
    points = np.asarray(latents, np.float64)
    scaled = normalise_weights(weights, len(points))
    nonzero = np.flatnonzero(scaled)
    if len(nonzero) == 1:
        return _float32(np.asarray(latents)[nonzero[0]])
    mean = scaled @ points
    if method == "linear":
        return _float32(mean)
    if method == "slerp":
        if (scaled < 0).any():
            raise InvalidInputError(
                f"weights {np.asarray(weights).tolist()} have different signs: "
                "slerp needs weights of one sign; use the method linear or norm"
            )
        if len(nonzero) == 2:
            return slerp(latents[nonzero[0]], latents[nonzero[1]], float(scaled[nonzero[1]]))
        return _spherical_mean(points[nonzero], scaled[nonzero])
    norm = np.linalg.norm(mean)
    # Weighted by |w|: with negative weights the mean norm could be negative and flip the result.
    target_norm = float(np.average(np.linalg.norm(points, axis=1), weights=np.abs(scaled)))
    return _float32(mean if norm == 0 else mean * (target_norm / norm))


def _spherical_mean(points: Doubles, weights: Doubles) -> Floats:
    """Gradient steps on the sphere from the normalised mean; the norm is the mean norm."""
    norms = np.linalg.norm(points, axis=1)
    if (norms == 0).any() or np.linalg.norm(weights @ (points / norms[:, None])) < _PARALLEL:
        return _float32(weights @ points)  # the mean direction is undefined
    units = points / norms[:, None]
    mean = weights @ units
    mean /= np.linalg.norm(mean)
    for _ in range(_MAX_ITERATIONS):
        cosines = np.clip(units @ mean, -1.0, 1.0)
        angles = np.arccos(cosines)
        tangents = units - cosines[:, None] * mean
        lengths = np.linalg.norm(tangents, axis=1)
        scale = np.divide(angles, lengths, out=np.ones_like(angles), where=lengths > _PARALLEL)
        step = weights @ (tangents * scale[:, None])
        length = np.linalg.norm(step)
        if length < 1e-12:
            break
        mean = np.cos(length) * mean + np.sin(length) * step / length
        mean /= np.linalg.norm(mean)
    return _float32(float(weights @ norms) * mean)


def interpolate(a: NDArray[Any], b: NDArray[Any], steps: int, *, method: str = "linear") -> Floats:
    """Latents on a path from `a` to `b`, both included.

    Parameters
    ----------
    a, b
        ``[d]``.
    steps
        Number of points on the path, 2 to `MAX_STEPS`.
    method
        As in `blend`.

    Returns
    -------
    ndarray
        float32 ``[steps, d]``; the first is `a` and the last `b`, exactly.
    """
    _check_method(method)
    try:
        steps = operator.index(steps)
    except TypeError as error:
        raise InvalidInputError(f"steps {steps!r} is not a whole number: give 2 or more") from error
    if not 2 <= steps <= MAX_STEPS:
        raise InvalidInputError(
            f"{counted(steps, 'step')} cannot make a path: give 2 to {MAX_STEPS:,}"
        )
    pair = np.stack([np.asarray(a, np.float32), np.asarray(b, np.float32)])
    positions = np.linspace(0.0, 1.0, steps)
    return np.stack([blend(pair, [1.0 - t, t], method=method) for t in positions])
