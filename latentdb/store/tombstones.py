"""Images that were deleted: the next indexing of their folder does not bring them back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import CorruptStoreError
from latentdb.store.rows import Ints
from latentdb.store.segment import hash_ids
from latentdb.store.snapshot import Snapshot

_TYPE = np.dtype([("id", "<u8"), ("digest", "<u8"), ("size", "<i8"), ("mtime_ns", "<i8")])


@dataclass(frozen=True, eq=False)
class Tombstones:
    """Deleted images by the xxh3-64 of their ids and contents, with size and time.

    Attributes
    ----------
    table
        Structured ``[n]``, ascending by id, without doubles.
    """

    table: NDArray[Any]

    def __len__(self) -> int:
        return len(self.table)

    @staticmethod
    def of(snapshot: Snapshot) -> Tombstones:
        """Those of a version of a store.

        Raises
        ------
        CorruptStoreError, NotFoundError
            If their file is damaged.
        """
        entry = snapshot.manifest.tombstones
        if entry is None:
            return Tombstones(np.empty(0, _TYPE))
        return Tombstones.load(bytes(snapshot.file(entry.file)), entry.rows)

    @staticmethod
    def load(data: bytes, rows: int) -> Tombstones:
        """So many tombstones from the bytes of their file.

        Raises
        ------
        CorruptStoreError
            If they are others.
        """
        if len(data) != rows * _TYPE.itemsize:
            raise CorruptStoreError(f"holds {len(data)} bytes for {rows} deleted images")
        table = np.frombuffer(data, _TYPE)
        if (table["id"][1:] < table["id"][:-1]).any():
            raise CorruptStoreError("its deleted images are not in order")
        return Tombstones(table)

    def dump(self) -> bytes:
        """The bytes of their file."""
        return self.table.tobytes()

    @staticmethod
    def of_rows(snapshot: Snapshot, rows: Ints) -> Tombstones:
        """Of those of some rows that came from image files."""
        found = [np.empty(0, _TYPE)]
        for segment, positions, _ in snapshot.groups(rows):
            stats = segment.file_stats
            if stats is None:
                continue
            positions = positions[stats.sizes[positions] > 0]
            table = np.empty(len(positions), _TYPE)
            table["id"] = hash_ids([segment.ids[position] for position in positions.tolist()])
            table["digest"] = stats.digests[positions]
            table["size"] = stats.sizes[positions]
            table["mtime_ns"] = stats.mtimes_ns[positions]
            found.append(table)
        return Tombstones(np.unique(np.concatenate(found)))

    def with_more(self, others: Tombstones) -> Tombstones:
        """These and others; the later stamp of an image counts."""
        both = np.concatenate([others.table, self.table])
        _, first = np.unique(both[["id", "digest"]], return_index=True)
        return Tombstones(both[first])

    def without(self, names: Collection[int], digests: Collection[int] = ()) -> Tombstones:
        """Those of other ids than these, given by their hashes, and of other contents."""
        table = self.table
        dropped = np.isin(table["id"], np.array(list(names), np.uint64))
        dropped |= np.isin(table["digest"], np.array(list(digests), np.uint64))
        return Tombstones(table[~dropped])

    def has_file(self, name: int, size: int, mtime_ns: int) -> bool:
        """Whether the image of an id was deleted, and its file not changed since."""
        return any(
            (int(one["size"]), int(one["mtime_ns"])) == (size, mtime_ns) for one in self._of(name)
        )

    def has_content(self, digest: int, name: int | None = None) -> bool:
        """Whether an image of this content was deleted, under a certain id or any."""
        if name is not None:
            return any(int(one["digest"]) == digest for one in self._of(name))
        place = int(np.searchsorted(self._contents, np.uint64(digest)))
        return place < len(self._contents) and int(self._contents[place]) == digest

    @cached_property
    def _contents(self) -> NDArray[np.uint64]:
        return np.unique(self.table["digest"])

    def _of(self, name: int) -> NDArray[Any]:
        first = np.searchsorted(self.table["id"], np.uint64(name), "left")
        stop = np.searchsorted(self.table["id"], np.uint64(name), "right")
        return self.table[first:stop]
