"""`Versions`: the version of a store that a page was opened with, and the rows added since."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from latentdb.base.errors import NotFoundError
from latentdb.insight.layout import between, place

if TYPE_CHECKING:
    from latentdb.insight.map import Map
    from latentdb.reader import Reader
    from latentdb.store.rows import Floats
    from latentdb.store.snapshot import Snapshot

MAX_MARKS = 2_000  # new rows that are placed: searching their landmarks takes 0.6 s
_LARGEST = 2**62


class Versions:
    """Rows by number, of the first version or of a later one; threads may share it.

    Row numbers are never given twice: those from `Manifest.next_row` of the first version on
    are of rows that were added.

    Parameters
    ----------
    db, first
        An open store, and the version that the page was opened with.
    map
        The rows of that version that are shown, as points.

    Attributes
    ----------
    rows
        The row numbers of `map`, ascending.
    """

    def __init__(self, db: Reader, first: Snapshot, map: Map) -> None:
        self._db = db
        self.first = first
        self.rows = np.sort(map.rows)
        self._layout = map.layout
        self._placed: dict[int, list[float]] = {}
        self._lock = threading.Lock()

    def of(self, row: int) -> Snapshot:
        """The version that a row is read from; raises `NotFoundError` for one that is in none."""
        if row < _LARGEST:
            if row >= self.first.manifest.next_row:
                newest = self._db._snapshot()
                if newest.is_live(np.array([row], np.int64))[0]:
                    return newest
            else:
                place = int(np.searchsorted(self.rows, row))
                if place < len(self.rows) and self.rows[place] == row:
                    return self.first
        raise NotFoundError(f"row {str(row)[:24]} is not in the store")

    def numbers(self, ids: Sequence[str]) -> list[int]:
        """Row numbers of ids in the newest version; -1 for one that is not in it."""
        numbers: list[int] = self._db._snapshot().locate(ids).tolist()
        return numbers

    def place(self, latents: Floats) -> list[list[float]]:
        """Points on the map for latents ``[n, d]`` that no row has."""
        return _plain(between(self._layout.vectors, self._layout.points, latents))

    def added(self, known: int | None) -> dict[str, Any]:
        """The rows that were added since the start, and their points; at most `MAX_MARKS`.

        A row whose image was indexed anew has a new number.  `known` is the version that the
        caller has the rows of: where that is the newest one, `rows` and `points` are None.
        """
        newest = self._db._snapshot()
        number = newest.manifest.version
        if number == known:
            return {"version": number, "count": None, "rows": None, "points": None}
        live = newest.live_rows()
        live = live[live >= self.first.manifest.next_row]
        shown = live[:MAX_MARKS]
        with self._lock:
            fresh = np.array([row for row in shown.tolist() if row not in self._placed], np.int64)
            if len(fresh):
                layout, vectors = self._layout, newest.vectors(fresh)
                points = _plain(place(layout.vectors, layout.points, vectors))
                self._placed |= dict(zip(fresh.tolist(), points, strict=True))
            self._placed = {row: self._placed[row] for row in shown.tolist()}
            points = list(self._placed.values())
        return {"version": number, "count": len(live), "rows": shown.tolist(), "points": points}


def _plain(points: Floats) -> list[list[float]]:
    plain: list[list[float]] = points.tolist()
    return plain
