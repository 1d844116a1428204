"""Which dimensions of a latent space carry something, and whether it collapsed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentdb.base.errors import NotFoundError
from latentdb.insight.blocks import posterior_blocks, sample_rows
from latentdb.model.posterior import (
    ACTIVE_VARIANCE,
    Decode,
    Doubles,
    Posteriors,
    decoded_effect,
    statistics,
)
from latentdb.store.rows import Ints
from latentdb.store.snapshot import Snapshot

THRESHOLDS = (0.001, ACTIVE_VARIANCE, 0.1)
DEFINITION = "a unit is active if the variance of its z_mean over the rows is above the threshold"
_EFFECT_ROWS = 64
_EFFECT_DECODES = 100_000  # most images to decode for the effects
_LEVEL = 1 / 255
_KL = 0.01  # nats, above which a dimension claims to say something
_FEW = 0.5  # share of active units below which the latent size is too large
_FAR = 0.1  # nats a dimension between the aggregate posterior and the prior


@dataclass(frozen=True)
class Dimension:
    """One latent dimension over the rows of a store.

    Attributes
    ----------
    number
        From 0.
    mean, variance
        Of z_mean.
    sigma2, kl
        Mean posterior variance, and mean divergence from the prior in nats; None
        in a store without z_log_var.
    effect
        Root mean square change of a pixel for one standard deviation of the
        aggregate posterior, as a share of white; None without a decoder.
    active
        Whether the variance is above 0.01.
    note
        What is odd about it; empty for nothing.
    """

    number: int
    mean: float
    variance: float
    sigma2: float | None
    kl: float | None
    effect: float | None
    active: bool
    note: str


@dataclass(frozen=True)
class Diagnosis:
    """The state of a latent space.

    Attributes
    ----------
    rows
        Rows that were looked at.
    dimensions
        By decoded effect, the greatest first; by KL or variance where there is none.
    active
        Number of active units at each threshold.
    kl
        Sum over the dimensions, in nats; None in a store without z_log_var.
    prior_gap
        Mean over the dimensions of the divergence of the aggregate posterior from
        the prior, in nats.
    verdict
        One line: what collapsed or did not, and what to change.
    """

    rows: int
    dimensions: tuple[Dimension, ...]
    active: dict[float, int]
    kl: float | None
    prior_gap: float
    verdict: str


def diagnose(
    snapshot: Snapshot, rows: Ints, decode: Decode | None, *, seed: int = 0
) -> tuple[Diagnosis, Posteriors]:
    """The state of the latent space of some rows, and the statistics behind it.

    Parameters
    ----------
    rows
        Row numbers.
    decode
        Latents to uint8 images; None without a decoder.
    seed
        Of the rows around which the decoded effect is measured.

    Raises
    ------
    NotFoundError
        If there are no rows.
    """
    if not len(rows):
        raise NotFoundError("no rows to diagnose: index images first, or use another expression")
    posteriors = statistics(posterior_blocks(snapshot, rows), snapshot.dim)
    effects = None
    if decode is not None:
        effects = effects_of(snapshot, rows, posteriors, decode, seed=seed)
    notes = [_note(posteriors, effects, number) for number in range(snapshot.dim)]
    active = posteriors.active()
    dimensions = tuple(
        Dimension(
            number,
            float(posteriors.mean[number]),
            float(posteriors.variance[number]),
            _at(posteriors.sigma2, number),
            _at(posteriors.kl, number),
            _at(effects, number),
            bool(active[number]),
            notes[number],
        )
        for number in order(posteriors, effects)
    )
    found = Diagnosis(
        len(rows),
        dimensions,
        {threshold: int(posteriors.active(threshold).sum()) for threshold in THRESHOLDS},
        None if posteriors.kl is None else float(posteriors.kl.sum()),
        float(posteriors.prior_gap.mean()),
        _verdict(posteriors, effects),
    )
    return found, posteriors


def effects_of(
    snapshot: Snapshot, rows: Ints, posteriors: Posteriors, decode: Decode, *, seed: int
) -> Doubles:
    """Decoded effect of each dimension, around a sample of the rows."""
    count = max(1, min(_EFFECT_ROWS, _EFFECT_DECODES // (2 * snapshot.dim)))
    around = snapshot.vectors(sample_rows(rows, count, seed))
    return decoded_effect(around, posteriors.aggregate_sd, decode)


def order(posteriors: Posteriors, effects: Doubles | None) -> list[int]:
    """The dimensions by what they do, the greatest first."""
    by = effects
    if by is None:
        by = posteriors.variance if posteriors.kl is None else posteriors.kl
    ranked: list[int] = np.argsort(-by, kind="stable").tolist()
    return ranked


def _at(values: Doubles | None, number: int) -> float | None:
    return None if values is None else float(values[number])


def _note(posteriors: Posteriors, effects: Doubles | None, number: int) -> str:
    if effects is None:
        return ""
    visible = effects[number] >= _LEVEL
    if posteriors.kl is not None:
        informed = bool(posteriors.kl[number] > _KL)
        if informed and not visible:
            return f"KL above {_KL} nats, but less than one level of 255 in the picture"
        if visible and not informed:
            return "visible in the picture, but its posterior is the prior"
    return ""


def _verdict(posteriors: Posteriors, effects: Doubles | None) -> str:
    dim = len(posteriors.mean)
    active = int(posteriors.active().sum())
    if posteriors.rows < 2:
        return "one row shows no collapse, nor its absence: diagnose two or more"
    if not active:
        return (
            f"posterior collapse: none of {dim} dimensions is active, every image has the same "
            "latent; lower beta, or train longer"
        )
    if effects is not None and effects.max() < _LEVEL:
        return (
            f"decoder collapse: no dimension changes a pixel by one level of 255, although "
            f"{active} of {dim} are active; train longer, or lower beta"
        )
    if active < _FEW * dim:
        return (
            f"partial collapse: {active} of {dim} dimensions are active; lower beta, or train "
            f"with a latent size of {active}"
        )
    text = f"no collapse: {active} of {dim} dimensions are active"
    if posteriors.sigma2 is not None and posteriors.prior_gap.mean() > _FAR:
        text += "; the aggregate posterior is not the prior: sample with --from aggregate"
    return text
