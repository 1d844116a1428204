"""Which ids are surely not in the store: the id hashes of all segments, sorted.

An add looks up each of its ids, and almost none is in the store.  Bisecting
every segment for a hundred ids takes as long as writing them; bisecting one
merged array takes a twentieth of that.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from latentdb.store.rows import Ints
from latentdb.store.segment import Segment

# Fixed cost of probing one segment, in units of one hash look-up (measured).
_PROBE_COST = 500
# Merging one hash costs as much as one look-up.  The array is made once a tenth of its cost was
# spent on look-ups, because adds come in series.
_MERGE_PAYS = 10
_MAX_UNMERGED = 32  # segments, usually small, that are probed one by one


class IdFilter:
    """The id hashes of segments, merged and sorted: 8 bytes a row.

    It is built once enough ids were looked up to pay for it.  Threads may share it.
    """

    def __init__(self) -> None:
        self._spent = 0
        self._merged: set[str] = set()  # segments, by file name
        self._hashes = np.empty(0, np.uint64)
        self._lock = threading.Lock()

    def possible(self, segments: Sequence[Segment], hashes: NDArray[np.uint64]) -> Ints:
        """Positions of the hashes that may be in a segment, ascending; no other hash is."""
        with self._lock:
            self._spent += (_PROBE_COST + len(hashes)) * len(segments)
            if _MERGE_PAYS * self._spent < sum(map(len, segments)):
                return np.arange(len(hashes))  # look-ups have cost less than the array would
            unmerged = self._merge(segments)
            merged = self._hashes
        # Look-ups in ascending order stay within the cache.
        order = np.argsort(hashes)
        ascending = hashes[order]
        found = _among(merged, ascending)
        for segment in unmerged:
            found |= _among(segment.hashes, ascending)
        return np.sort(order[found])

    def _merge(self, segments: Sequence[Segment]) -> list[Segment]:
        """Merge segments that are new; return those that are too small to be merged yet."""
        new = [segment for segment in segments if segment.entry.file.name not in self._merged]
        rows = sum(map(len, segments))
        stale = len(self._hashes) > 2 * rows  # most belong to segments that were replaced
        if not stale and len(new) <= _MAX_UNMERGED and 2 * sum(map(len, new)) <= rows:
            return new
        if stale:
            new, self._merged, self._hashes = list(segments), set(), np.empty(0, np.uint64)
        # A stable sort is Timsort, which merges sorted runs.
        runs = [self._hashes, *(segment.hashes for segment in new)]
        self._hashes = np.sort(np.concatenate(runs), kind="stable")
        self._merged.update(segment.entry.file.name for segment in new)
        return []


def _among(ascending: NDArray[np.uint64], hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Mask of the hashes that are in a sorted array."""
    if not len(ascending):
        return np.zeros(len(hashes), bool)
    nearest = np.minimum(ascending.searchsorted(hashes), len(ascending) - 1)
    return np.asarray(ascending[nearest] == hashes)
