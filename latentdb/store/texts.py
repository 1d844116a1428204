"""Texts as a segment has them: one UTF-8 blob, and offsets into it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import CorruptStoreError

if TYPE_CHECKING:
    from latentdb.store.blocks import MappedArray

Ints = NDArray[np.int64]


class Texts:
    """Texts, stored as one UTF-8 blob and offsets into it."""

    def __init__(self, offsets: MappedArray, blob: MappedArray, name: str) -> None:
        self._offsets = offsets
        self._blob = blob
        self._name = name
        self._checked = False

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, position: int) -> str:
        start, stop = self._offsets.range(position, position + 2).tolist()
        if not 0 <= start <= stop <= len(self._blob):
            raise CorruptStoreError(f"{self._name}: its text offsets do not ascend")
        return self._decoded(self._blob.range(start, stop).tobytes())

    def __iter__(self) -> Iterator[str]:
        whole, offsets = self.utf8()
        blob = whole.tobytes()
        start = 0
        for stop in offsets[1:].tolist():
            yield blob[start:stop].decode()
            start = stop

    def take(self, positions: Ints) -> list[str]:
        """The texts at some positions."""
        starts, stops = self._offsets.take(positions), self._offsets.take(positions + 1)
        ranges, size = list(zip(starts.tolist(), stops.tolist(), strict=True)), len(self._blob)
        for start, stop in ranges:
            if not 0 <= start <= stop <= size:
                raise CorruptStoreError(f"{self._name}: its text offsets do not ascend")
        blob = self._blob.with_ranges(ranges).data
        return [self._decoded(blob[start:stop]) for start, stop in ranges]

    def utf8(self) -> tuple[NDArray[np.uint8], Ints]:
        """The blob, uint8, and the offset of each text and of the end, int64 ``[n + 1]``.

        Raises
        ------
        CorruptStoreError
            If the offsets do not fit the blob, or a text is not UTF-8.
        """
        blob, offsets = self._blob.whole(), self._offsets.whole()
        if not self._checked:
            if offsets[0] != 0 or offsets[-1] != len(blob) or (np.diff(offsets) < 0).any():
                raise CorruptStoreError(f"{self._name}: its text offsets do not fit its text")
            self._decoded(blob.tobytes())
            starts = offsets[offsets < len(blob)]
            if ((blob[starts] & 0xC0) == 0x80).any():  # a text begins within a character
                raise CorruptStoreError(f"{self._name}: its text is not UTF-8")
            self._checked = True
        return blob, offsets

    def _decoded(self, text: bytes | memoryview) -> str:
        try:
            return str(text, "utf-8")
        except UnicodeDecodeError as error:
            raise CorruptStoreError(f"{self._name}: its text is not UTF-8") from error


def encode(texts: Iterable[str]) -> tuple[NDArray[np.uint8], Ints]:
    """`Texts.utf8` of texts in memory."""
    encoded = [text.encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), offsets
