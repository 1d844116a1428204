"""Directions of a latent space: those that do something, and those between two sets of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.base.wording import counted
from latentdb.insight.blocks import sample_rows
from latentdb.insight.ranks import auc
from latentdb.insight.separation import DIFFERENCE, METHODS, fit
from latentdb.model.posterior import Decode, PrincipalAxes, decoded_change, principal_axes
from latentdb.search.recipes import digest_of
from latentdb.search.selection import vector_blocks
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot

MAX_DIM = 2_048  # of a method that needs a matrix
_AXES = 256  # of the greatest variance, whose effect is measured
_EFFECT_ROWS = 64
_EFFECT_DECODES = 100_000
_FIT_BYTES = 256 << 20  # of the rows of one side that are fitted
_FIT_ROWS = 50_000
_LEAST = 5  # rows of a side, one of which is held out

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """A principal axis of z_mean, ``pc(number)`` in recipes.

    Attributes
    ----------
    number
        By variance, from 0.
    variance
        Share of the variance of z_mean along it.
    effect
        Root mean square change of a pixel for one standard deviation, as a share of white;
        None without a decoder.
    """

    number: int
    variance: float
    effect: float | None


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction from one set of rows to another.

    Attributes
    ----------
    source, target
        The expressions of the rows it leads from and to.
    method
        One of `latentdb.insight.separation.METHODS`.
    vector
        float32 ``[d]``: added once it covers, along itself, the way from the mean of the
        source to that of the target.
    auc
        By method: the share of held-out pairs of a row of either side that the direction,
        fitted to the others, puts in the right order.
    held_out
        Rows that were held out.
    rows, digest
        Number of rows of both sides, and the digest of their latents in order.
    """

    source: str
    target: str
    method: str
    vector: Floats
    auc: dict[str, float]
    held_out: int
    rows: int
    digest: str


def find_axes(
    snapshot: Snapshot, rows: Ints, decode: Decode | None, *, seed: int = 0
) -> tuple[tuple[Axis, ...], PrincipalAxes]:
    """The principal axes of z_mean, the one that changes the picture most first.

    Without labels, and unlike single dimensions, they are not correlated over the rows.

    Parameters
    ----------
    rows
        Row numbers, ascending.
    decode
        Latents to uint8 images; None without a decoder, and then they are ordered by variance.
    seed
        Of the 64 rows around which the effect is measured.

    Raises
    ------
    NotFoundError
        If there are fewer than two rows.
    """
    if len(rows) < 2:
        raise NotFoundError("a direction needs two rows: index images first")
    axes = principal_axes(vector_blocks(snapshot, rows), snapshot.dim)
    total = max(float(axes.variance.sum()), np.finfo(np.float64).tiny)
    shares = axes.variance / total
    count = min(snapshot.dim, _AXES)
    if decode is None:
        return tuple(Axis(n, float(shares[n]), None) for n in range(count)), axes
    around = max(1, min(_EFFECT_ROWS, _EFFECT_DECODES // (2 * count)))
    latents = snapshot.vectors(sample_rows(rows, around, seed))
    effects = decoded_change(latents, (axes.step(number) for number in range(count)), decode)
    ranked = np.argsort(-effects, kind="stable").tolist()
    return tuple(Axis(n, float(shares[n]), float(effects[n])) for n in ranked), axes


def find_direction(
    snapshot: Snapshot,
    source: str,
    target: str,
    rows: tuple[Ints, Ints],
    *,
    method: str = DIFFERENCE,
    seed: int = 0,
) -> Direction:
    """The direction from some rows to others.

    Every method is fitted to four fifths of the rows and its separation measured on the
    rest; the direction that is returned is fitted to all.

    Parameters
    ----------
    source, target
        The expressions.
    rows
        The row numbers that they select.
    method
        One of `latentdb.insight.separation.METHODS`.
    seed
        Of the rows that are held out.

    Raises
    ------
    InvalidInputError
        If the method is unknown, a side has too few rows, or a row is on both.
    """
    if method not in METHODS:
        raise InvalidInputError(f"method {method!r} is unknown: use {', '.join(METHODS)}")
    for text, side in zip((source, target), rows, strict=True):
        if len(side) < _LEAST:
            raise InvalidInputError(
                f"{counted(len(side), 'row')} match {text!r}: a direction needs {_LEAST} on each "
                "side"
            )
    common = len(np.intersect1d(*rows))
    if common:
        raise InvalidInputError(
            f"{counted(common, 'row')} match both {source!r} and {target!r}: make them exclude "
            "each other"
        )
    if snapshot.dim > MAX_DIM and method != DIFFERENCE:
        raise InvalidInputError(
            f"method {method!r} takes up to {MAX_DIM:,} dimensions, this store has "
            f"{snapshot.dim:,}: use {DIFFERENCE}"
        )
    most = max(_LEAST, min(_FIT_ROWS, _FIT_BYTES // (4 * snapshot.dim)))
    a, b = (snapshot.vectors(sample_rows(side, most, seed)) for side in rows)
    usable = METHODS if snapshot.dim <= MAX_DIM else (DIFFERENCE,)
    scores, held_out = _held_out(a, b, usable, seed)
    count, digest = digest_of(snapshot, [source, target])
    return Direction(
        source, target, method, _scaled(fit(a, b, method), a, b), scores, held_out, count, digest
    )


def _held_out(
    a: Floats, b: Floats, methods: tuple[str, ...], seed: int
) -> tuple[dict[str, float], int]:
    """AUC of each method on a fifth of the rows, and how many these are."""
    random = np.random.default_rng(seed)
    fitted, tested = [], []
    for side in (a, b):
        order = random.permutation(len(side))
        cut = max(1, len(side) // 5)
        tested.append(side[order[:cut]])
        fitted.append(side[order[cut:]])
    scores = {}
    for method in methods:
        axis = fit(fitted[0], fitted[1], method)
        scores[method] = auc(tested[0] @ axis, tested[1] @ axis)
    return scores, len(tested[0]) + len(tested[1])


def _scaled(axis: Doubles, a: Floats, b: Floats) -> Floats:
    """An axis as long as the gap of the means along it."""
    gap = b.mean(axis=0, dtype=np.float64) - a.mean(axis=0, dtype=np.float64)
    square = float(axis @ axis)
    if not square:
        raise InvalidInputError("the rows of both sides have the same mean: there is no direction")
    return np.asarray(axis * (float(axis @ gap) / square), np.float32)
