"""`Lists`: what the page goes through one by one: dimensions, clusters, copies, outliers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from latentdb.base.errors import InvalidInputError
from latentdb.insight.outliers import COLUMNS
from latentdb.store.recipes import load_all

if TYPE_CHECKING:
    from latentdb.explorer.latents import Latents
    from latentdb.explorer.versions import Versions
    from latentdb.reader import Reader
    from latentdb.store.recipes import SavedRecipe

MAX_LISTED = 200
_NEAREST = 8


class Lists:
    """Lists of rows by number, each computed at the first call; threads may share it.

    Parameters
    ----------
    db, versions
        An open store, and the versions of it that are looked at.
    latents
        Of the first one.
    """

    def __init__(self, db: Reader, versions: Versions, latents: Latents) -> None:
        self._db = db
        self._versions = versions
        self._latents = latents
        self._found: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def _once(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        with self._lock:  # one at a time: each of them reads all rows
            if name not in self._found:
                self._found[name] = compute()
            return self._found[name]

    def dimensions(self) -> dict[str, Any]:
        """All dimensions by decoded effect, the greatest first."""

        def compute() -> dict[str, Any]:
            found = self._db.diagnose()
            sd = self._latents.posteriors.aggregate_sd
            return {
                "verdict": found.verdict,
                "dimensions": [
                    {
                        "number": one.number,
                        "effect": one.effect,
                        "mean": one.mean,
                        "sd": float(sd[one.number]),
                        "active": one.active,
                        "note": one.note,
                    }
                    for one in found.dimensions
                ],
            }

        return self._once("dimensions", compute)

    def directions(self) -> dict[str, Any]:
        """Saved recipes and directions, which a blend can be moved along."""
        return {"directions": list(map(describe_recipe, load_all(self._versions.first)))}

    def clusters(self, count: int) -> dict[str, Any]:
        """Clusters, the largest first; the mean of one is the part ``{"cluster": [count, i]}``."""
        found = self._latents.clustering(count)
        ids = [name for one in found.clusters for name in (one.medoid, *one.nearest[:_NEAREST])]
        rows = dict(zip(ids, self._versions.numbers(ids), strict=True))
        return {
            "purity": found.purity,
            "clusters": [
                {
                    "number": one.number,
                    "size": one.size,
                    "medoid": rows[one.medoid],
                    "nearest": [rows[name] for name in one.nearest[:_NEAREST]],
                    "spread": one.spread,
                    "label": None if one.label is None else str(one.label),
                    "purity": one.purity,
                }
                for one in found.clusters
            ],
        }

    def duplicates(self, metric: str) -> dict[str, Any]:
        """Groups of copies by a metric, the farthest apart first; at most 200."""

        def compute() -> dict[str, Any]:
            found = self._db.duplicates(metric=metric)
            shown = found.groups[:MAX_LISTED]
            ids = [member.id for group in shown for member in group.members]
            rows = dict(zip(ids, self._versions.numbers(ids), strict=True))
            return {
                "metric": found.metric,
                "threshold": found.threshold.value,
                "count": len(found.groups),
                "notes": list(found.notes),
                "groups": [
                    {
                        "exact": group.exact,
                        "rows": [
                            {"row": rows[member.id], "distance": member.distance}
                            for member in group.members
                            if rows[member.id] >= 0
                        ],
                    }
                    for group in shown
                ],
            }

        return self._once(f"duplicates {metric}", compute)

    def outliers(self, by: str, metric: str) -> dict[str, Any]:
        """The 200 most unusual rows by a measure, with its value; distances are by a metric."""
        if by and by not in COLUMNS:
            raise InvalidInputError(f"by {by[:20]!r} is unknown: use one of {', '.join(COLUMNS)}")

        def compute() -> dict[str, Any]:
            found = self._db.outliers(MAX_LISTED, by=by or None, metric=metric)
            rows = self._versions.numbers([one.id for one in found.top])
            return {
                "by": found.by,
                "metric": metric,
                "notes": list(found.notes),
                "rows": [
                    {"row": row, "value": getattr(one, found.by)}
                    for row, one in zip(rows, found.top, strict=True)
                    if row >= 0
                ],
            }

        return self._once(f"outliers {by} {metric}", compute)


def describe_recipe(saved: SavedRecipe) -> dict[str, Any]:
    """Name, text, rows and length of a saved recipe."""
    return {
        "name": saved.name,
        "text": saved.text,
        "rows": saved.rows,
        "norm": float(np.linalg.norm(saved.vector)),
    }
