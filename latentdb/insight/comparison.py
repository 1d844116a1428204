"""Two latent spaces of the same images: which neighbours they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.exact import fits_float32
from latentdb.ann.neighbours import neighbours, overlaps
from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.base.wording import counted
from latentdb.insight.blocks import sample_rows
from latentdb.insight.layout import lay_out
from latentdb.insight.ranks import rank_correlation
from latentdb.search.embedded_rows import EmbeddedRows
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot

if TYPE_CHECKING:
    from PIL import Image as PILImage

    from latentdb.store.columns import Value

MAX_ROWS = 50_000
_PAIRS = 20_000  # of rows, whose distances are correlated
_CHANGED = 10  # rows to name
_SIDE = 800  # of each map

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Changed:
    """A row, and the share of its neighbours that both stores agree on."""

    id: str
    overlap: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """How far two stores agree about the same ids.

    Attributes
    ----------
    ids
        That were compared: those in both stores, or a sample of them.
    common, only_a, only_b
        How many ids are in both, and in one alone.
    k, metric
        Neighbours of each row, and by which metric.
    overlap
        Share of the k nearest in one store that are among the k nearest in the other, mean
        over the rows; `chance` is what two stores without relation would have.
    overlaps
        float64 ``[n]``: of each row of `ids`.
    rank_correlation
        Spearman's, of the distances of 20,000 pairs of rows.
    map_disparity
        What is left of the squared size of one map after the other was laid on it by
        shift, turn, reflection and scale (Procrustes): 0 for equal maps, 1 for unrelated.
    points_a, points_b
        float32 ``[n, 2]``: the maps, the second laid on the first.
    changed
        The ten rows whose neighbours agree least.
    """

    ids: tuple[str, ...]
    common: int
    only_a: int
    only_b: int
    k: int
    metric: str
    overlap: float
    chance: float
    overlaps: Doubles
    rank_correlation: float
    map_disparity: float
    points_a: Floats
    points_b: Floats
    changed: tuple[Changed, ...]


def compare(
    a: Snapshot,
    b: Snapshot,
    rows: Ints,
    *,
    k: int = 10,
    metric: str = "l2",
    most: int = 5_000,
    seed: int = 0,
) -> tuple[Comparison, Ints]:
    """How far two stores agree, and the row numbers in `a` that were compared.

    Parameters
    ----------
    rows
        Row numbers of `a` to look at, ascending.
    most
        Rows to compare; of more a sample is taken, and neighbours are those in the sample.

    Raises
    ------
    InvalidInputError
        If an argument cannot be used.
    NotFoundError
        If fewer than three ids are in both.
    """
    if not 3 <= most <= MAX_ROWS:
        raise InvalidInputError(f"{most} rows cannot be compared: give 3 to {MAX_ROWS:,}")
    ids = a.ids(rows)
    others = b.locate(ids)
    shared = np.flatnonzero(others >= 0)
    if len(shared) < 3:
        hint = f"ids look like {ids[0]!r} and " if ids else ""
        second = b.ids(b.live_rows()[:1])
        raise NotFoundError(
            f"the stores share {counted(len(shared), 'id')}, a comparison needs 3"
            + (f": {hint}{second[0]!r}" if hint and second else "")
        )
    chosen = sample_rows(shared, most, seed)
    k = _check_k(k, len(chosen))
    spaces = (
        EmbeddedRows(a, metric).fetch(rows[chosen]),
        EmbeddedRows(b, metric).fetch(others[chosen]),
    )
    if not all(map(fits_float32, spaces)):
        raise InvalidInputError("these latents are too large for float32 distances")
    shares = overlaps(*(neighbours(vectors, k)[1] for vectors in spaces))
    map_a, map_b = (lay_out(vectors, seed=seed) for vectors in spaces)
    laid, disparity = procrustes(map_a, map_b)
    names = [ids[index] for index in chosen.tolist()]
    order = np.argsort(shares, kind="stable")[:_CHANGED].tolist()
    found = Comparison(
        tuple(names),
        len(shared),
        len(ids) - len(shared),
        len(b) - len(shared),
        k,
        metric,
        float(shares.mean()),
        k / (len(chosen) - 1),
        shares,
        _distance_correlation(*spaces, seed),
        disparity,
        map_a,
        laid,
        tuple(Changed(names[index], float(shares[index])) for index in order),
    )
    return found, rows[chosen]


def _check_k(k: int, count: int) -> int:
    if not 1 <= k <= 1_000:
        raise InvalidInputError(f"k {k} cannot be used: give 1 to 1,000")
    return min(k, count - 1)


def _distance_correlation(first: Floats, second: Floats, seed: int) -> float:
    random = np.random.default_rng(seed)
    left = random.integers(0, len(first), _PAIRS)
    right = (left + random.integers(1, len(first), _PAIRS)) % len(first)
    return rank_correlation(
        *(np.linalg.norm(space[left] - space[right], axis=1) for space in (first, second))
    )


def procrustes(fixed: Floats, moved: Floats) -> tuple[Floats, float]:
    """Points laid on others by shift, turn, reflection and scale, and what is left between.

    The rotation is that of the singular value decomposition (Schönemann 1966).

    Parameters
    ----------
    fixed, moved
        float32 ``[n, 2]``, in the same order.

    Returns
    -------
    points, disparity
        float32 ``[n, 2]``; squared distance to `fixed` as a share of its squared size.
    """
    centre = fixed.mean(axis=0, dtype=np.float64)
    target = fixed - centre
    points = moved - moved.mean(axis=0, dtype=np.float64)
    size, other = float(np.square(target).sum()), float(np.square(points).sum())
    if not size or not other:
        return fixed.copy(), float(bool(size) != bool(other))
    left, values, right = np.linalg.svd(points.T @ target)
    scale = float(values.sum()) / other
    laid = scale * (points @ (left @ right)) + centre
    disparity = 1 - float(values.sum()) ** 2 / (size * other)
    return laid.astype(np.float32), max(disparity, 0.0)


def draw_comparison(
    found: Comparison, values: Sequence[Value | None] | None, title: str, names: tuple[str, str]
) -> PILImage.Image:
    """Both maps side by side, coloured by labels or by the overlap of each row.

    Parameters
    ----------
    values, title
        Labels of the rows, and what they are; None for the overlaps.
    names
        Of the stores.
    """
    from PIL import Image

    from latentdb.insight.atlas import draw_map

    if values is None:
        values, title = found.overlaps.tolist(), "overlap"
    nothing = np.empty(0, np.int64)
    notes = (
        names[0],
        f"{names[1]}: {found.overlap:.1%} of the {found.k} nearest are the same, "
        f"{found.chance:.1%} by chance; rank correlation {found.rank_correlation:.2f}",
    )
    maps = [
        draw_map(points, nothing, [], values, title, note, side=_SIDE)
        for points, note in zip((found.points_a, found.points_b), notes, strict=True)
    ]
    canvas = Image.new("RGB", (sum(one.width for one in maps), maps[0].height), "white")
    canvas.paste(maps[0], (0, 0))
    canvas.paste(maps[1], (maps[0].width, 0))
    return canvas
