"""Which ids are surely in no segment: the hashes of many segments as one sorted array.

An add asks for each of its ids whether it is in the store, and nearly none is.
To bisect every segment for a hundred ids takes as long as to write them; to
bisect one array for them takes a twentieth of that.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from latentdb.store.segment import Ints, Segment

# To look into a segment takes as long as to bisect one with many for so many hashes more.
_EACH = 500
# Rows are merged as fast as many hashes are bisected for in one segment.  The array is made when a
# tenth of its price was paid: adds seldom come alone.
_WORTH = 10
_NEWER = 32  # segments, small ones as a rule, that are looked into one by one


class IdFilter:
    """The hashes of segments, sorted: 8 bytes a row.

    Made only when so many ids were asked for that it is worth it.  Threads may
    share it.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._known: set[str] = set()  # segments, by file name
        self._hashes = np.empty(0, np.uint64)
        self._lock = threading.Lock()

    def possible(self, segments: Sequence[Segment], hashes: NDArray[np.uint64]) -> Ints:
        """Numbers of the hashes that may be in a segment, ascending; no other is in one."""
        with self._lock:
            self._asked += (_EACH + len(hashes)) * len(segments)
            if _WORTH * self._asked < sum(map(len, segments)):
                return np.arange(len(hashes))  # bisection has cost less than the array would
            newer = self._include(segments)
            merged = self._hashes
        # One after the other in ascending order stays within the cache.
        order = np.argsort(hashes)
        ascending = hashes[order]
        found = _among(merged, ascending)
        for segment in newer:
            found |= _among(segment.hashes, ascending)
        return np.sort(order[found])

    def _include(self, segments: Sequence[Segment]) -> list[Segment]:
        """Merge what is new, or give it back if it is little."""
        new = [segment for segment in segments if segment.entry.file.name not in self._known]
        rows = sum(map(len, segments))
        stale = len(self._hashes) > 2 * rows  # most is of segments that are there no more
        if not stale and len(new) <= _NEWER and 2 * sum(map(len, new)) <= rows:
            return new
        if stale:
            new, self._known, self._hashes = list(segments), set(), np.empty(0, np.uint64)
        # Timsort: what is sorted already is merged.
        parts = [self._hashes, *(segment.hashes for segment in new)]
        self._hashes = np.sort(np.concatenate(parts), kind="stable")
        self._known.update(segment.entry.file.name for segment in new)
        return []


def _among(ascending: NDArray[np.uint64], hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which hashes are in an array."""
    if not len(ascending):
        return np.zeros(len(hashes), bool)
    places = np.minimum(ascending.searchsorted(hashes), len(ascending) - 1)
    return np.asarray(ascending[places] == hashes)
