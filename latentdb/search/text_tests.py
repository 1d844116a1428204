"""Tests of many texts at once, on their UTF-8 bytes, without an object per text.

UTF-8 sorts as code points do, and a text is found in it only where it is one.  Lone
surrogates, which an expression can hold and a store cannot, are encoded by the same
rule: they sort as code points too, and are found nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.store.texts import Ints

Mask = NDArray[np.bool_]
_BLOCK = 16_384  # texts: arrays that fit the cache, and that malloc takes from the heap (3x faster)
# Leaves the first 0 to 8 bytes of a big-endian word.
_FIRST_BYTES = np.array([2**64 - 2 ** (64 - 8 * count) for count in range(9)], np.uint64)


def mask_texts(blob: NDArray[np.uint8], offsets: Ints, test: Callable[[TextTests], Mask]) -> Mask:
    """Mask of the texts that a test holds for, bool ``[n]``; they are given as to `TextTests`."""
    masks = [np.empty(0, bool)]
    for first in range(0, len(offsets) - 1, _BLOCK):
        part = offsets[first : first + _BLOCK + 1]
        masks.append(test(TextTests(blob[part[0] : part[-1]], part - part[0])))
    return np.concatenate(masks)


class TextTests:
    """Tests of texts; each gives an entry per text.

    Parameters
    ----------
    blob
        uint8: their UTF-8, one after the other.
    offsets
        int64 ``[n + 1]``: where each begins, and where the last ends.
    """

    def __init__(self, blob: NDArray[np.uint8], offsets: Ints) -> None:
        self._blob = blob
        self._starts, self._stops = offsets[:-1], offsets[1:]
        self._lengths = self._stops - self._starts

    def is_in(self, values: Iterable[str]) -> Mask:
        """Mask of the texts that are one of some values."""
        groups: dict[int, set[bytes]] = {}
        for value in map(_encode, values):
            groups.setdefault(len(value), set()).add(value)
        holds = np.zeros(len(self._starts), bool)
        for length, group in groups.items():
            rows = np.flatnonzero(self._lengths == length)
            if len(group) == 1:
                rows = rows[self._at(self._starts[rows], *group)]
            else:  # the last word of each first: it is compared faster, and few have the same
                for size in (min(length, _word_bytes(length)), length):
                    sought = np.array([value[-size:] for value in group], f"S{size}")
                    dtype = f"S{size}" if size == length else f"u{size}"
                    texts = _windows(self._blob, dtype)[self._stops[rows] - size]
                    rows = rows[_among(texts, sought.view(dtype))]
            holds[rows] = True
        return holds

    def startswith(self, value: str) -> Mask:
        """Mask of the texts that begin with a value."""
        return self._inside(self._starts, _encode(value))

    def endswith(self, value: str) -> Mask:
        """Mask of the texts that end with a value."""
        encoded = _encode(value)
        return self._inside(self._stops - len(encoded), encoded)

    def contains(self, value: str) -> Mask:
        """Mask of the texts that have a value somewhere."""
        encoded = _encode(value)
        size = len(encoded)
        if not size or size > self._lengths.max(initial=0):
            return np.full(len(self._starts), not size)
        found = self._blob[: len(self._blob) - size + 1] == encoded[0]
        found &= self._blob[size - 1 :] == encoded[-1]
        places = np.flatnonzero(found)
        if size > 2:
            places = places[self._at(places, encoded)]
        # The first place from the begin of each text on: it is in that text, or none is.
        places = np.append(places, len(self._blob))
        return np.asarray(places[places.searchsorted(self._starts)] + size <= self._stops)

    def lengths(self) -> Ints:
        """Number of characters of each text."""
        begins = (self._blob & 0xC0) != 0x80  # the other bytes continue a character
        counts = np.concatenate([np.zeros(1, np.int64), np.cumsum(begins)])
        return np.asarray(counts[self._stops] - counts[self._starts])

    def compare(self, value: str) -> NDArray[np.int64]:
        """-1, 0 or 1 for each text that is before a value, equal to it, or after it."""
        encoded = _encode(value)
        words = _windows(np.append(self._blob, np.zeros(8, np.uint8)), ">u8")
        starts, lengths = self._starts, self._lengths
        signs: Ints = np.sign(lengths - len(encoded))  # of those that agree as far as both go
        rows = np.arange(len(signs))
        for start in range(0, len(encoded), 8):
            sought = int.from_bytes(encoded[start : start + 8].ljust(8, b"\0"), "big")
            found = words[np.minimum(starts + start, len(self._blob))]
            found = found & _FIRST_BYTES[np.clip(lengths - start, 0, 8)]
            same = found == sought
            if not same.all():
                signs[rows[~same]] = np.where(found[~same] < sought, -1, 1)
                rows, starts, lengths = rows[same], starts[same], lengths[same]
        return signs

    def _inside(self, starts: Ints, value: bytes) -> Mask:
        """Mask of the texts that have a value at given places, and are long enough for it."""
        holds = np.zeros(len(starts), bool)
        rows = np.flatnonzero(self._lengths >= len(value))
        holds[rows[self._at(starts[rows], value)]] = True
        return holds

    def _at(self, places: Ints, value: bytes) -> Ints:
        """Indices of the places in the blob where a value stands; all must leave room for it."""
        indices = np.arange(len(places))
        word = _word_bytes(len(value))
        # From the end of the value, where texts differ more often than where they begin.
        for stop in range(len(value), 0, -word):
            start = max(stop - word, 0)
            found = _windows(self._blob, f"u{word}")[places + start]
            same = found == np.frombuffer(value, f"u{word}", 1, start)
            indices, places = indices[same], places[same]
        return indices


def _encode(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _word_bytes(size: int) -> int:
    """Bytes of the widest word of 1, 2, 4 or 8 that are not more than size, but 1 at least."""
    return 1 << min(max(size.bit_length() - 1, 0), 3)


def _among(items: NDArray[Any], values: NDArray[Any]) -> Mask:
    """Mask of the items that are one of a few values.  np.isin would import numpy.ma."""
    values = np.sort(values)
    nearest = np.minimum(values.searchsorted(items), len(values) - 1)
    return np.asarray(values[nearest] == items)


def _windows(blob: NDArray[np.uint8], dtype: str) -> NDArray[Any]:
    """The blob as overlapping items: one begins at each byte, as far as there is room."""
    count = max(len(blob) - np.dtype(dtype).itemsize + 1, 0)
    return np.ndarray((count,), dtype, blob, strides=(1,))
