"""One committed version of a store, opened for reading."""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import (
    CorruptStoreError,
    NotFoundError,
)
from latentdb.base.files import (
    map_checked,
)
from latentdb.store.columns import Value
from latentdb.store.id_filter import IdFilter
from latentdb.store.manifest import (
    FileEntry,
    Manifest,
)
from latentdb.store.segment import Floats, Ints, Segment, hash_ids

_FEW = 100  # rows for which Python is faster than numpy


class Snapshot:
    """One committed version of a store, opened for reading."""

    def __init__(
        self, folder: Path, manifest: Manifest, cache: dict[str, Segment], lookup: IdFilter
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self._cache = cache
        self._lookup = lookup

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def dim(self) -> int:
        return self.manifest.dim

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Every segment, opened, in the order of row numbers."""
        opened = []
        for entry in self.manifest.segments:
            segment = self._cache.get(entry.file.name)
            if segment is None or segment.entry != entry:
                segment = Segment(self.folder, entry, self.dim, self.manifest.columns)
                self._cache[entry.file.name] = segment
            elif segment.columns != self.manifest.columns:
                segment = segment.with_columns(self.manifest.columns)
                self._cache[entry.file.name] = segment
            opened.append(segment)
        return tuple(opened)

    @cached_property
    def deleted(self) -> Ints:
        """Row numbers that are deleted and still in a segment or in the index, ascending."""
        entry = self.manifest.deletions
        if entry is None:
            return np.empty(0, np.int64)
        path = self.folder / entry.file.name
        view = map_checked(path, entry.file.bytes, entry.file.checksum)
        if len(view) != 8 * entry.rows:
            raise CorruptStoreError(f"{path} holds {len(view)} bytes for {entry.rows} deletions")
        return np.frombuffer(bytes(view), "<i8")  # a copy: the file may be cut while it is mapped

    def file(self, entry: FileEntry) -> mmap.mmap:
        """The content of the index or a model file, mapped, after its checksum held."""
        return map_checked(self.folder / entry.name, entry.bytes, entry.checksum)

    def live(self, segment: Segment) -> NDArray[np.bool_] | None:
        """bool ``[n]``: which rows of a segment are not deleted; None for all."""
        entry = segment.entry
        bounds = np.searchsorted(self.deleted, (entry.first_row, entry.last_row + 1))
        gone = self.deleted[bounds[0] : bounds[1]]
        gone = gone[segment.holds(gone)]
        if not len(gone):
            return None
        keep = np.ones(len(segment), bool)
        keep[segment.positions(gone)] = False
        return keep

    def live_positions(self, segment: Segment) -> Ints:
        """Positions of the rows of a segment that are not deleted, ascending."""
        alive = self.live(segment)
        return np.arange(len(segment)) if alive is None else np.flatnonzero(alive)

    def is_deleted(self, rows: Ints) -> NDArray[np.bool_]:
        """Which row numbers are deleted."""
        if not len(self.deleted):
            return np.zeros(len(rows), bool)
        places = np.minimum(np.searchsorted(self.deleted, rows), len(self.deleted) - 1)
        return np.asarray(self.deleted[places] == rows)

    def locate(self, ids: Sequence[str], hashes: NDArray[np.uint64] | None = None) -> Ints:
        """Row numbers of ids, whose hashes may be known; -1 where one is not in the store."""
        if hashes is None:
            # A question about a few ids is not worth what `IdFilter` costs once.
            hashes = hash_ids(ids)
            order = np.arange(len(ids))
        else:
            order = self._lookup.possible(self.segments, hashes)
        # Bisection for one after the other is several times faster in ascending order.
        order = order[np.argsort(hashes[order], kind="stable")]
        names, sought = [ids[int(place)] for place in order], hashes[order]
        rows = np.full(len(ids), -1, np.int64)
        for segment in reversed(self.segments) if names else ():
            positions = segment.find(names, sought)
            found = np.flatnonzero(positions >= 0)
            found = found[rows[order[found]] < 0]
            if len(found):
                numbers = segment.numbers(positions[found])
                alive = ~self.is_deleted(numbers)
                rows[order[found[alive]]] = numbers[alive]
        return rows

    def find(self, ids: Sequence[str]) -> Ints:
        """Row numbers of ids, all of which must be in the store.

        Raises
        ------
        NotFoundError
            Names the first that is not.
        """
        rows = self.locate(ids)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise NotFoundError(f"no id {ids[missing[0]]!r}{others} among {len(self)} rows")
        return rows

    def groups(self, rows: Ints) -> Iterator[tuple[Segment, Ints, Ints]]:
        """Row numbers by segment: (segment, positions in it, places in `rows`)."""
        numbers = self._firsts.searchsorted(rows, side="right") - 1
        if len(rows) <= _FEW:
            present = sorted(set(numbers.tolist()))
        else:
            present = np.unique(numbers).tolist()
        for number in present:
            if number < 0:
                raise CorruptStoreError(f"{self.folder}: a row number before the first segment")
            places = (numbers == number).nonzero()[0]
            segment = self.segments[number]
            yield segment, segment.positions(rows[places]), places

    @cached_property
    def _firsts(self) -> Ints:
        """The first row number of each segment."""
        return np.array([segment.entry.first_row for segment in self.segments], np.int64)

    def vectors_ascending(self, rows: Ints, numbers: Sequence[int]) -> Floats:
        """`vectors` of row numbers that ascend: for the few of one answer, in microseconds.

        Parameters
        ----------
        rows, numbers
            The same, as an array and for Python.
        """
        result = np.empty((len(numbers), self.dim), np.float32)
        start = 0
        for segment in self.segments:
            entry = segment.entry
            stop = bisect_right(numbers, entry.last_row, start)
            if start == stop:
                continue
            if segment.gapless and numbers[start] >= entry.first_row:
                positions = rows[start:stop] - entry.first_row
            else:
                positions = segment.positions(rows[start:stop])
            result[start:stop] = segment.z_means(positions)
            start = stop
        return result if start == len(numbers) else self.vectors(rows)

    def vectors(self, rows: Ints) -> Floats:
        """z_mean of row numbers: float32 ``[n, d]``."""
        result = np.empty((len(rows), self.dim), np.float32)
        for segment, positions, places in self.groups(rows):
            result[places] = segment.z_means(positions)
        return result

    def log_vars(self, rows: Ints) -> Floats | None:
        """z_log_var of row numbers, float32 ``[n, d]``; None if one of them has none."""
        result = np.empty((len(rows), self.dim), np.float32)
        for segment, positions, places in self.groups(rows):
            found = segment.z_log_vars(positions)
            if found is None:
                return None
            result[places] = found
        return result

    def ids(self, rows: Ints) -> list[str]:
        """Ids of row numbers."""
        result = [""] * len(rows)
        for segment, positions, places in self.groups(rows):
            for position, place in zip(positions, places, strict=True):
                result[place] = segment.ids[int(position)]
        return result

    def paths(self, rows: Ints) -> list[str | None]:
        """Paths of the images behind row numbers; None for rows that had none."""
        result: list[str | None] = [None] * len(rows)
        for segment, positions, places in self.groups(rows):
            if segment.paths is None:
                continue
            for position, place in zip(positions, places, strict=True):
                result[place] = segment.paths[int(position)] or None
        return result

    def records(self, rows: Ints) -> list[tuple[str, str | None, dict[str, Value]]]:
        """Id, path and metadata of row numbers; a missing value is left out."""
        result: list[tuple[str, str | None, dict[str, Value]]] = [("", None, {})] * len(rows)
        for segment, positions, places in self.groups(rows):
            texts = segment.paths
            columns = [(key, segment.items(key, positions)) for key in self.manifest.columns]
            for number, place in enumerate(places.tolist()):
                position = int(positions[number])
                path = None if texts is None else texts[position] or None
                values: dict[str, Value] = {
                    key: value for key, column in columns if (value := column[number]) is not None
                }
                result[place] = segment.ids[position], path, values
        return result

    def metadata(self, rows: Ints) -> list[dict[str, Value]]:
        """Metadata of row numbers; a missing value is left out."""
        return [values for _, _, values in self.records(rows)]

    def live_rows(self) -> Ints:
        """Every row number that is alive, ascending."""
        parts = [np.empty(0, np.int64)]
        for segment in self.segments:
            keep = self.live(segment)
            parts.append(segment.rows if keep is None else segment.rows[keep])
        return np.concatenate(parts)
