"""`Latents`: the vectors of blends, and the statistics of a store that they need."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.explorer.blends import Blend, Clustered, Part, Sampled, Selection, Uploaded
from latentdb.insight.blocks import mean_vector, norms, posterior_blocks
from latentdb.model import arithmetic, generation
from latentdb.model.posterior import statistics
from latentdb.search.selection import parse_where, select_rows
from latentdb.store import recipes as saved_recipes

if TYPE_CHECKING:
    from latentdb.explorer.versions import Versions
    from latentdb.insight.clusters import Clustering
    from latentdb.insight.map import Map
    from latentdb.model.posterior import Posteriors
    from latentdb.store.rows import Floats, Ints

MAX_CLUSTERS = 200
SAMPLES = 64  # latents that are drawn together
_KEPT_UPLOADS = 64
_KEPT_SAMPLES = 16
_SHELL = (0.05, 0.5, 0.95)  # quantiles of |z|


@dataclass(frozen=True, eq=False)
class Upload:
    """An uploaded image: its latent, float32 ``[d]``, and a PNG of it as the model sees it."""

    vector: Floats
    png: bytes


class Latents:
    """Vectors of what a page speaks of; threads may share it.

    Parameters
    ----------
    versions, map
        What is looked at, and the rows of its first version as points.
    codes
        Categories of a column, one for each point.
    """

    def __init__(self, versions: Versions, map: Map, codes: Callable[[str], Sequence[int]]) -> None:
        self._versions = versions
        self._snapshot = versions.first
        self._map = map
        self._codes = codes
        self._uploads: OrderedDict[str, Upload] = OrderedDict()
        self._samples: OrderedDict[tuple[int, str], Floats] = OrderedDict()
        self._clusterings: dict[int, Clustering] = {}
        self._lock = threading.RLock()

    def of(self, blend: Blend) -> Floats:
        """The vector of a blend, float32 ``[d]``."""
        vectors = np.stack([self._part(part) for part in blend.parts])
        weights = [part.weight for part in blend.parts]
        latent = arithmetic.blend(vectors, weights, method=blend.method)
        if not (blend.shifts or blend.directions):
            return latent
        moved = latent.astype(np.float64)
        for dimension, by in blend.shifts:
            if dimension >= len(moved):
                raise InvalidInputError(
                    f"dimension {dimension} cannot be used: give 0 to {len(moved) - 1}"
                )
            moved[dimension] += by * self.posteriors.aggregate_sd[dimension]
        for name, factor in blend.directions:
            moved += factor * saved_recipes.load(self._snapshot, name).vector.astype(np.float64)
        return moved.astype(np.float32)

    def _part(self, part: Part) -> Floats:
        of = part.of
        vector: Floats
        if isinstance(of, Sampled):
            vector = self._drawn(of.seed, of.source)[of.number % SAMPLES]
        elif isinstance(of, Clustered):
            means = self.clustering(of.count).means
            if of.number >= len(means):
                raise NotFoundError(f"there are {len(means)} clusters, from 0: no {of.number}")
            vector = means[of.number]
        elif isinstance(of, Uploaded):
            vector = self.uploaded(of.token).vector
        elif isinstance(of, Selection):
            vector = self.mean(of)[0]
        else:
            vector = self._versions.of(of).vectors(np.array([of], np.int64))[0]
        return vector

    # --- averages -----------------------------------------------------------------

    def points(self, selection: Selection) -> Ints:
        """Positions on the map of the rows of a selection."""
        mask = np.ones(len(self._map.rows), bool)
        if selection.where is not None:
            where = parse_where(self._snapshot, selection.where)
            mask &= np.isin(self._map.rows, select_rows(self._snapshot, where))
        if selection.polygon is not None:
            mask &= inside(self._map.points, selection.polygon)
        if selection.category is not None:
            name, number = selection.category
            mask &= np.asarray(self._codes(name)) == number
        return np.flatnonzero(mask)

    def mean(self, selection: Selection) -> tuple[Floats, int]:
        """The mean latent of a selection, and the number of its rows."""
        rows = np.sort(self._map.rows[self.points(selection)])
        if not len(rows):
            raise NotFoundError("no row is selected: there is nothing to average")
        return mean_vector(self._snapshot, rows).astype(np.float32), len(rows)

    # --- statistics -----------------------------------------------------------------

    @cached_property
    def posteriors(self) -> Posteriors:
        """Means and deviations of all rows."""
        with self._lock:
            return statistics(
                posterior_blocks(self._snapshot, self._versions.rows), self._snapshot.dim
            )

    @cached_property
    def shell(self) -> tuple[float, ...]:
        """The lengths |z| between which nine of ten rows are, and the median between them."""
        lengths = norms(self._snapshot, self._versions.rows)
        low, middle, high = np.quantile(lengths, _SHELL).tolist()
        return low, middle, high

    def clustering(self, count: int) -> Clustering:
        """All rows in clusters, computed once for each count."""
        from latentdb.ann.metrics import L2
        from latentdb.insight.clusters import cluster
        from latentdb.store.columns import LABEL

        if not 1 <= count <= MAX_CLUSTERS:
            raise InvalidInputError(f"{count} clusters cannot be shown: give 1 to {MAX_CLUSTERS}")
        with self._lock:
            if count not in self._clusterings:
                label = LABEL if LABEL in self._snapshot.manifest.columns else None
                number = min(count, len(self._versions.rows))
                self._clusterings[count] = cluster(
                    self._snapshot, self._versions.rows, number, metric=L2, label=label
                )
            return self._clusterings[count]

    def _drawn(self, seed: int, source: str) -> Floats:
        key = seed, source
        with self._lock:
            if key not in self._samples:
                dim = self._snapshot.dim
                if source == generation.PRIOR:
                    drawn = generation.sample_prior(SAMPLES, dim, seed=seed)
                else:
                    blocks = posterior_blocks(self._snapshot, self._versions.rows)
                    drawn = generation.sample_aggregate(SAMPLES, dim, blocks, seed=seed)
                _keep(self._samples, key, drawn.latents, _KEPT_SAMPLES)
            return self._samples[key]

    # --- uploads -----------------------------------------------------------------------

    def keep_upload(self, token: str, upload: Upload) -> None:
        """Keep an uploaded image; the oldest ones are forgotten."""
        with self._lock:
            _keep(self._uploads, token, upload, _KEPT_UPLOADS)

    def uploaded(self, token: str) -> Upload:
        """An uploaded image."""
        with self._lock:
            if token not in self._uploads:
                raise NotFoundError("this image is not on the server any more: upload it again")
            return self._uploads[token]


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any, most: int) -> None:
    kept[key] = value
    while len(kept) > most:
        kept.popitem(last=False)


def inside(points: Floats, polygon: Sequence[tuple[float, float]]) -> np.ndarray[Any, Any]:
    """Whether points ``[n, 2]`` are inside a polygon, by the even-odd rule."""
    x, y = points.astype(np.float64).T
    found = np.zeros(len(points), bool)
    for (x1, y1), (x2, y2) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        crossing = (y1 > y) != (y2 > y)
        if y1 != y2:
            found ^= crossing & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    return found
