"""The picture page of a model: what it reconstructs, samples and does to its dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latentdb.images.render import Cell, contact_sheet
from latentdb.model.arithmetic import interpolate
from latentdb.model.generation import sample_aggregate, sample_prior, traverse
from latentdb.model.posterior import statistics

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = 8
_TRAVERSALS = 8  # dimensions, the most active ones
_INTERPOLATIONS = 2
_RANGE = 2.0  # of a traversal, in standard deviations

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


def picture_page(
    originals: Pixels,
    reconstructions: Pixels,
    ratios: NDArray[np.float64],
    latents: Floats,
    log_variances: Floats | None,
    decode: Callable[[Floats], Pixels],
    *,
    seed: int = 0,
) -> Image:
    """Reconstructions, samples, interpolations and traversals, a row each.

    Parameters
    ----------
    originals, reconstructions
        uint8 ``[n, height, width, channels]``; the first eight are shown.
    ratios
        float64 ``[n]``: PSNR of each, in dB.
    latents, log_variances
        float32 ``[m, d]``: z_mean and z_log_var of many images, the first n of which
        are the originals'.
    decode
        Latents to images.
    seed
        Of the samples.
    """
    shown = min(COLUMNS, len(originals))
    rows = [
        _row(originals[:shown], ["held-out images"]),
        _row(reconstructions[:shown], [f"{ratio:.1f} dB" for ratio in ratios[:shown]]),
    ]
    dim = latents.shape[1]
    prior = sample_prior(COLUMNS, dim, seed=seed).latents
    aggregate = sample_aggregate(COLUMNS, dim, [(latents, log_variances)], seed=seed).latents
    rows.append(_row(decode(prior), ["prior samples"]))
    rows.append(_row(decode(aggregate), ["aggregate\nsamples"]))
    for number in range(min(_INTERPOLATIONS, len(originals) // 2)):
        pair = latents[2 * number], latents[2 * number + 1]
        path = interpolate(*pair, steps=COLUMNS)
        rows.append(_row(decode(path), ["interpolation"]))
    found = statistics([(latents, log_variances)], dim)
    by = found.variance if found.kl is None else found.kl
    dims = [int(number) for number in np.argsort(-by, kind="stable")[:_TRAVERSALS]]
    walk = traverse(latents[0], dims, found.aggregate_sd, low=-_RANGE, high=_RANGE, steps=COLUMNS)
    for number, steps in zip(dims, walk.latents, strict=True):
        captions = [f"{offset:+.1f} sd" for offset in walk.offsets]
        captions[0] = f"dim {number}: {captions[0]}"
        rows.append(_row(decode(steps), captions))
    return contact_sheet(rows)


def _row(images: Pixels, captions: list[str]) -> list[Cell]:
    """Images with the captions that there are."""
    padded = captions + [""] * (len(images) - len(captions))
    return list(zip(images, padded, strict=True))
