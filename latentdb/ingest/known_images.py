"""What a store knows of images by their contents: renamed ones, copies, deleted ones."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from latentdb.images.sources import split_member_path
from latentdb.store.roots import Root
from latentdb.store.rows import Ints
from latentdb.store.segment import hash_ids
from latentdb.store.snapshot import Snapshot
from latentdb.store.tombstones import Tombstones


class KnownImages:
    """The rows of a snapshot by the contents of their files; threads may share it.

    Parameters
    ----------
    snapshot
        The snapshot.
    restore
        Take images in that were deleted.
    rows_below
        Rows from this number on are not looked at; None for all rows.
    """

    def __init__(
        self, snapshot: Snapshot, *, restore: bool = False, rows_below: int | None = None
    ) -> None:
        self._snapshot = snapshot
        self._restore = restore
        self._rows_below = rows_below
        self._tombstones = Tombstones.of(snapshot)
        self._renamed: set[int] = set()
        self._lock = threading.Lock()
        self.restored_ids: set[int] = set()  # hashes of ids
        self.restored_contents: set[int] = set()  # digests

    @cached_property
    def _by_digest(self) -> tuple[NDArray[np.uint64], Ints]:
        """Digests of the files of all live rows, ascending, and the rows' numbers."""
        digests, rows = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for segment in self._snapshot.segments:
            stats = segment.file_stats
            if stats is not None:
                live = self._snapshot.live_positions(segment)
                live = live[stats.sizes[live] > 0]
                if self._rows_below is not None:
                    live = live[segment.rows[live] < self._rows_below]
                digests.append(stats.digests[live])
                rows.append(segment.rows[live])
        every, numbers = np.concatenate(digests), np.concatenate(rows)
        order = np.argsort(every, kind="stable")
        return every[order], numbers[order]

    def rows_of(self, digest: int) -> Ints:
        """Numbers of the rows whose files had a content, in order of insertion."""
        with self._lock:
            digests, rows = self._by_digest
        wanted = np.uint64(digest)
        first = int(digests.searchsorted(wanted))
        if first == len(digests) or digests[first] != wanted:
            return rows[:0]  # of almost every new image
        return rows[first : digests.searchsorted(wanted, "right")]

    def renamed(self, rows: Ints) -> int | None:
        """The first of some rows whose file is gone; each is given once."""
        for row in rows.tolist():
            path, _ = self._snapshot.content(row)
            if path is not None and is_gone(path):
                with self._lock:
                    if row not in self._renamed:
                        self._renamed.add(row)
                        return int(row)
        return None

    @property
    def any_deleted(self) -> bool:
        """Whether there are images to leave out."""
        return len(self._tombstones) > 0 and not self._restore

    def was_deleted(self, name: str, size: int, mtime_ns: int) -> bool:
        """Whether the image of an id was deleted, by the size and time of its file."""
        return self.any_deleted and self._tombstones.has_file(_hash(name), size, mtime_ns)

    def was_content_deleted(self, name: str, digest: int, rows: Ints) -> bool:
        """Whether an image was deleted: under this id, or under any if no row has its content.

        Parameters
        ----------
        rows
            Those of its content.
        """
        if not len(self._tombstones):
            return False
        under_id = self._tombstones.has_content(digest, _hash(name))
        if not under_id and (len(rows) or not self._tombstones.has_content(digest)):
            return False
        if not self._restore:
            return True
        if under_id:
            self.restored_ids.add(_hash(name))
        else:
            self.restored_contents.add(digest)
        return False


def _hash(name: str) -> int:
    return int(hash_ids([name])[0])


def is_gone(path: str) -> bool:
    """Whether there is no file at a path; False if that cannot be told."""
    parts = split_member_path(path)
    try:
        os.lstat(path if parts is None or os.path.lexists(path) else parts[0])
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def missing_rows(snapshot: Snapshot, found: Ints, folders: Sequence[str]) -> Iterator[int]:
    """Rows whose images were in some folders, or are these files, and are gone.

    Parameters
    ----------
    found
        Rows whose files were found, ascending.
    """
    tops = [Root(folder) for folder in folders]
    for segment in snapshot.segments:
        if segment.paths is None:
            continue
        positions = snapshot.live_positions(segment)
        positions = positions[~np.isin(segment.rows[positions], found)]
        if not len(positions):
            continue
        paths = list(segment.paths)
        for position in positions.tolist():
            path = paths[position]
            if any(top.holds(path) for top in tops) and is_gone(path):
                yield int(segment.rows[position])
