"""Pictures of a latent space: traversals, histograms, samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from latentdb.base.wording import counted
from latentdb.images.pixel_range import Pixels
from latentdb.images.render import SIDE, Cell, one_line
from latentdb.insight.clusters import Cluster
from latentdb.insight.diagnosis import Dimension
from latentdb.insight.directions import Axis
from latentdb.model.generation import Traversal

Doubles = NDArray[np.float64]
_BINS = 32
_RANGE = 4.0  # of a histogram, in standard deviations of the prior
_BAR, _PRIOR = (76, 114, 176), (221, 132, 82)


def traversal_rows(walk: Traversal, images: Pixels, captions: Sequence[str]) -> list[list[Cell]]:
    """One row of a sheet for each dimension.

    Parameters
    ----------
    images
        uint8 ``[m, s, height, width, channels]``, decoded from the walk.
    captions
        Of the dimensions.
    """
    rows = []
    for row, caption in enumerate(captions):
        steps = [f"{round(offset, 2) or 0:g} sd" for offset in walk.offsets]
        cells = list(zip(images[row], steps, strict=True))
        cells[0] = (images[row][0], f"{steps[0]}\n{caption}")
        rows.append(cells)
    return rows


def axis_rows(axes: Sequence[Axis], images: Pixels, sides: float) -> list[list[Cell]]:
    """One row of a sheet for each axis: several latents, each moved to either side.

    Parameters
    ----------
    images
        uint8 ``[m, 3 s, height, width, channels]``: of each start -, 0 and +.
    sides
        How far, in standard deviations.
    """
    rows = []
    for axis, row in zip(axes, images, strict=True):
        captions = [f"-{sides:g} sd", "0", f"+{sides:g} sd"] * (len(row) // 3)
        captions[1] = "mean"
        effect = "" if axis.effect is None else f": {255 * axis.effect:.1f} levels"
        captions[0] += f"\npc({axis.number}){effect}"
        rows.append(list(zip(row, captions, strict=True)))
    return rows


def dimension_caption(dimension: Dimension) -> str:
    """What a dimension does, in a few words."""
    words = [f"dim {dimension.number}"]
    if dimension.effect is not None:
        words.append(f"{255 * dimension.effect:.1f} levels")
    return ": ".join(words)


def histogram(values: Doubles) -> Pixels:
    """A histogram of one dimension of z_mean as bars, with the prior's density as a line.

    Parameters
    ----------
    values
        float64 ``[n]``; those beyond 4 standard deviations of the prior are in the outer bins.

    Returns
    -------
    ndarray
        uint8 ``[96, 96, 3]``.
    """
    edges = np.linspace(-_RANGE, _RANGE, _BINS + 1)
    counts, _ = np.histogram(values.clip(-_RANGE, _RANGE), edges)
    middle = (edges[1:] + edges[:-1]) / 2
    density = counts / max(len(values), 1) / (edges[1] - edges[0])
    prior = np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi)
    top = max(float(density.max()), float(prior.max()))
    picture = np.full((SIDE, SIDE, 3), 255, np.uint8)
    width = SIDE // _BINS
    for number in range(_BINS):
        columns = slice(number * width, (number + 1) * width)
        height = round(density[number] / top * (SIDE - 4))
        picture[SIDE - height :, columns] = _BAR
        line = SIDE - 1 - round(prior[number] / top * (SIDE - 4))
        picture[max(line - 1, 0) : line + 1, columns] = _PRIOR
    return picture


def cluster_caption(cluster: Cluster) -> str:
    """Number, size and purity of a cluster, in two lines."""
    lines = [f"{cluster.number}: {counted(cluster.size, 'row')}"]
    if cluster.label is not None and cluster.purity is not None:
        lines.append(f"{cluster.purity:.0%} {one_line(str(cluster.label))}")
    return "\n".join(lines)
