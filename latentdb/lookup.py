"""Which ids are surely in no segment: a filter over their hashes.

An add asks for each of its ids whether it is in the store, and nearly none is.
To bisect every segment for each of 10,000 ids takes as long as to write them; to
look at one bit for each takes a tenth of a millisecond.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from latentdb.segment import Ints, Segment

_BITS = 32  # for each row at first, or up to twice as many
_LEAST_BITS = 16  # with fewer the filter is made anew
# Rows taken in while one hash is bisected for: one add must not pay for what many gain.
_WORTH = 2
_HALF = np.uint64(32)
_BIT = np.left_shift(1, np.arange(8)).astype(np.uint8)


class Lookup:
    """Bits for beginnings of hashes, and of their second halves: set for those of known segments.

    Of the hashes that no segment has, one in some hundreds has both bits set.

    Four bytes a row, or up to eight, and made only when so many ids were asked for that it is
    worth it.  Threads may share it.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._known: set[str] = set()  # segments, by file name
        self._rows = 0
        self._table = np.zeros(8, np.uint8)
        self._lock = threading.Lock()

    def possible(self, segments: Sequence[Segment], hashes: NDArray[np.uint64]) -> Ints:
        """Numbers of the hashes that may be in a segment, ascending; no other is in one."""
        with self._lock:
            self._asked += len(hashes) * len(segments)
            if _WORTH * self._asked < sum(map(len, segments)):
                return np.arange(len(hashes))  # bisection has cost less than the filter would
            self._include(segments)
            maybe = np.flatnonzero(self._bits(self._beginnings(hashes)))
            return maybe[self._bits(self._beginnings(hashes[maybe] << _HALF))]

    def _bits(self, numbers: Ints) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = (self._table[numbers >> 3] & _BIT[numbers & 7]).astype(bool)
        return found

    def _include(self, segments: Sequence[Segment]) -> None:
        new = [segment for segment in segments if segment.entry.file.name not in self._known]
        self._rows += sum(map(len, new))
        if self._rows * _LEAST_BITS > 8 * len(self._table):
            # Too full: of rows, or of those of segments that are there no more.
            new, self._known = list(segments), set()
            self._rows = sum(map(len, new))
            self._table = np.zeros(1 << max((_BITS * self._rows).bit_length() - 3, 3), np.uint8)
        for segment in new:
            beginnings = self._beginnings(segment.hashes)
            places = beginnings >> 3
            # Of those that fall into one byte, which are neighbours, one after the other.
            firsts = np.flatnonzero(np.diff(places, prepend=-1))
            bits = np.bitwise_or.reduceat(_BIT[beginnings & 7], firsts)
            self._table[places[firsts]] |= bits
            others = self._beginnings(segment.hashes << _HALF)
            np.bitwise_or.at(self._table, others >> 3, _BIT[others & 7])
            self._known.add(segment.entry.file.name)

    def _beginnings(self, hashes: NDArray[np.uint64]) -> Ints:
        """The first bits of hashes, as many as number a bit of the table."""
        shift = np.uint64(64 - (8 * len(self._table)).bit_length() + 1)
        return (hashes >> shift).view(np.int64)  # a view: numpy converts slowly
