"""One committed version of a store, opened for reading."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import CorruptStoreError, IdNotFoundError
from latentdb.base.files import map_checked
from latentdb.store.columns import Value
from latentdb.store.id_filter import IdFilter
from latentdb.store.manifest import FileEntry, Manifest
from latentdb.store.rows import Floats, Ints
from latentdb.store.segment import Segment, hash_ids

_NUMPY_PAYS = 100  # up to so many rows, a set of Python is faster than np.unique


class Snapshot:
    """One committed version of a store, opened for reading."""

    def __init__(
        self, folder: Path, manifest: Manifest, cache: dict[str, Segment], id_filter: IdFilter
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self._cache = cache
        self._id_filter = id_filter
        self._rows = manifest.rows  # which counts segments, as no query should

    def __len__(self) -> int:
        return self._rows

    @property
    def dim(self) -> int:
        return self.manifest.dim

    @property
    def default_metric(self) -> str:
        """The metric of queries that name none."""
        return self.manifest.settings.default_metric

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Every segment, opened, in the order of row numbers."""
        opened = []
        for entry in self.manifest.segments:
            segment = self._cache.get(entry.file.name)
            if segment is None or segment.entry != entry:
                manifest = self.manifest
                segment = Segment(self.folder, entry, self.dim, manifest.columns, manifest.dtype)
                self._cache[entry.file.name] = segment
            elif segment.columns != self.manifest.columns:
                segment = segment.with_columns(self.manifest.columns)
                self._cache[entry.file.name] = segment
            opened.append(segment)
        return tuple(opened)

    def is_intact(self) -> bool:
        """`Segment.is_intact` of every segment, in half the time: each query asks."""
        return all(mapped.size() == size for mapped, size in self._maps)

    @cached_property
    def _maps(self) -> list[tuple[mmap.mmap, int]]:
        maps = [segment.mapped for segment in self.segments]
        return [(mapped, len(mapped)) for mapped in maps if mapped is not None]

    @cached_property
    def deleted(self) -> Ints:
        """Row numbers that are deleted and still in a segment or in the index, ascending."""
        entry = self.manifest.deletions
        if entry is None:
            return np.empty(0, np.int64)
        view = self.file(entry.file)
        if len(view) != 8 * entry.rows:
            path = self.folder / entry.file.name
            raise CorruptStoreError(f"{path} holds {len(view)} bytes for {entry.rows} deletions")
        rows = np.frombuffer(bytes(view), "<i8")  # a copy: the file may be cut while it is mapped
        if (rows[1:] <= rows[:-1]).any():  # they are sought by bisection
            path = self.folder / entry.file.name
            raise CorruptStoreError(f"{path}: refused, its row numbers do not ascend")
        return rows

    def file(self, entry: FileEntry) -> mmap.mmap:
        """The content of a file of the version, mapped, after its checksum was verified."""
        return map_checked(self.folder / entry.name, entry.bytes, entry.checksum)

    def live(self, segment: Segment) -> NDArray[np.bool_] | None:
        """bool ``[n]``: mask of the rows of a segment that are not deleted; None for all."""
        entry = segment.entry
        bounds = np.searchsorted(self.deleted, (entry.first_row, entry.last_row + 1))
        deleted = self.deleted[bounds[0] : bounds[1]]
        deleted = deleted[segment.holds(deleted)]
        if not len(deleted):
            return None
        live = np.ones(len(segment), bool)
        live[segment.positions(deleted)] = False
        return live

    def live_positions(self, segment: Segment) -> Ints:
        """Positions of the rows of a segment that are not deleted, ascending."""
        live = self.live(segment)
        return np.arange(len(segment)) if live is None else np.flatnonzero(live)

    def is_deleted(self, rows: Ints) -> NDArray[np.bool_]:
        """Mask of the row numbers that are deleted."""
        if not len(self.deleted):
            return np.zeros(len(rows), bool)
        nearest = np.minimum(np.searchsorted(self.deleted, rows), len(self.deleted) - 1)
        return np.asarray(self.deleted[nearest] == rows)

    def is_live(self, rows: Ints) -> NDArray[np.bool_]:
        """Mask of the row numbers that are in the store and not deleted."""
        present = np.zeros(len(rows), bool)
        for segment in self.segments:
            present |= segment.holds(rows)
        return present & ~self.is_deleted(rows)

    def locate(self, ids: Sequence[str], hashes: NDArray[np.uint64] | None = None) -> Ints:
        """Row numbers of ids; -1 where one is not in the store.  `hashes` are those of the ids."""
        if len(ids) == 1 and hashes is None:
            return np.array([self._locate_one(ids[0])], np.int64)
        if hashes is None:
            # A look-up of a few ids does not pay for building the `IdFilter`.
            hashes = hash_ids(ids)
            order = np.arange(len(ids))
        else:
            order = self._id_filter.possible(self.segments, hashes)
        # Bisection for hashes in ascending order is several times faster.
        order = order[np.argsort(hashes[order], kind="stable")]
        names, sought = [ids[int(index)] for index in order], hashes[order]
        rows = np.full(len(ids), -1, np.int64)
        for segment in reversed(self.segments) if names else ():
            positions = segment.find(names, sought)
            found = np.flatnonzero(positions >= 0)
            found = found[rows[order[found]] < 0]
            if len(found):
                numbers = segment.numbers(positions[found])
                live = ~self.is_deleted(numbers)
                rows[order[found[live]]] = numbers[live]
        return rows

    def _locate_one(self, name: str) -> int:
        """`locate` of one id: most queries look up no more."""
        (wanted,) = hash_ids([name])
        for segment in reversed(self.segments):
            position = segment.find_one(name, wanted)
            if position >= 0:
                number = segment.numbers(np.array([position]))
                if not self.is_deleted(number)[0]:
                    return int(number[0])
        return -1

    def find(self, ids: Sequence[str]) -> Ints:
        """Row numbers of ids, all of which must be in the store.

        Raises
        ------
        IdNotFoundError
            Names the first id that is not.
        """
        rows = self.locate(ids)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise IdNotFoundError(f"no id {ids[missing[0]]!r}{others} among {len(self)} rows")
        return rows

    def groups(self, rows: Ints) -> Iterator[tuple[Segment, Ints, Ints]]:
        """Row numbers by segment: (segment, positions in it, indices into `rows`)."""
        if len(self.segments) == 1 and len(rows):
            yield self.segments[0], self.segments[0].positions(rows), np.arange(len(rows))
            return
        numbers = self._firsts.searchsorted(rows, side="right") - 1
        if len(rows) <= _NUMPY_PAYS:
            present = sorted(set(numbers.tolist()))
        else:
            present = np.unique(numbers).tolist()
        for number in present:
            if number < 0:
                raise CorruptStoreError(f"{self.folder}: a row number before the first segment")
            indices = (numbers == number).nonzero()[0]
            segment = self.segments[number]
            yield segment, segment.positions(rows[indices]), indices

    def places(self, rows: Ints) -> Ints:
        """Places of rows, by number, among the rows of all segments, one after the other.

        Raises
        ------
        CorruptStoreError
            If a row is in no segment; it may be given a place instead.
        """
        numbers = self._firsts.searchsorted(rows, side="right") - 1
        places = rows - self._firsts[numbers] + self._starts[numbers]
        for number in sorted(set(numbers[self._gapped[numbers]].tolist())):
            here = numbers == number
            places[here] = self._starts[number] + self.segments[number].positions(rows[here])
        return places

    @cached_property
    def _starts(self) -> Ints:
        """The place of the first row of each segment: see `places`."""
        return np.cumsum([0, *(len(segment) for segment in self.segments)])[:-1]

    @cached_property
    def _gapped(self) -> NDArray[np.bool_]:
        """Which segments have gaps in their row numbers."""
        return np.array([not segment.gapless for segment in self.segments], bool)

    @cached_property
    def _firsts(self) -> Ints:
        """The first row number of each segment."""
        return np.array([segment.entry.first_row for segment in self.segments], np.int64)

    def vectors_ascending(self, rows: Ints) -> Floats:
        """`vectors` of row numbers that ascend: faster for the few rows of one result."""
        if len(self.segments) == 1:
            return self.vectors(rows)
        result = np.empty((len(rows), self.dim), np.float32)
        start = 0
        for number, stop in enumerate(rows.searchsorted(self._ends).tolist()):
            if stop > start:
                segment = self.segments[number]
                result[start:stop] = segment.z_means(segment.positions(rows[start:stop]))
                start = stop
        return result if start == len(rows) else self.vectors(rows)

    @cached_property
    def _ends(self) -> Ints:
        """The first row number after each segment."""
        return np.array([segment.entry.last_row + 1 for segment in self.segments], np.int64)

    def vectors(self, rows: Ints) -> Floats:
        """z_mean of row numbers: float32 ``[n, d]``."""
        if len(self.segments) == 1:
            return self.segments[0].z_means(self.segments[0].positions(rows))
        result = np.empty((len(rows), self.dim), np.float32)
        for segment, positions, indices in self.groups(rows):
            result[indices] = segment.z_means(positions)
        return result

    def log_vars(self, rows: Ints) -> Floats | None:
        """z_log_var of row numbers, float32 ``[n, d]``; None if one of them has none."""
        result = np.empty((len(rows), self.dim), np.float32)
        for segment, positions, indices in self.groups(rows):
            found = segment.z_log_vars(positions)
            if found is None:
                return None
            result[indices] = found
        return result

    def latents(self, rows: Ints) -> tuple[Floats, Floats | None]:
        """`vectors` and `log_vars` of row numbers."""
        if len(self.segments) != 1:
            return self.vectors(rows), self.log_vars(rows)
        (segment,) = self.segments
        positions = segment.positions(rows)
        return segment.z_means(positions), segment.z_log_vars(positions)

    def ids(self, rows: Ints) -> list[str]:
        """Ids of row numbers."""
        result = [""] * len(rows)
        for segment, positions, indices in self.groups(rows):
            for name, index in zip(segment.ids.take(positions), indices.tolist(), strict=True):
                result[index] = name
        return result

    def paths(self, rows: Ints) -> list[str | None]:
        """Paths of the images behind row numbers; None for rows that had none."""
        result: list[str | None] = [None] * len(rows)
        for segment, positions, indices in self.groups(rows):
            if segment.paths is None:
                continue
            for path, index in zip(segment.paths.take(positions), indices.tolist(), strict=True):
                result[index] = path or None
        return result

    def content(self, row: int) -> tuple[str | None, int]:
        """Path of the image behind a row, and xxh3 of its content; None and -1 without."""
        (segment, positions, _) = next(self.groups(np.array([row], np.int64)))
        stats, position = segment.file_stats, int(positions[0])
        path = None if segment.paths is None else segment.paths[position] or None
        return path, -1 if stats is None or not path else int(stats.digests[position])

    def records(self, rows: Ints) -> list[tuple[str, str | None, dict[str, Value]]]:
        """Id, path and metadata of row numbers; a missing value is left out."""
        result: list[tuple[str, str | None, dict[str, Value]]] = [("", None, {})] * len(rows)
        for segment, positions, indices in self.groups(rows):
            names = segment.ids.take(positions)
            paths = [""] * len(names) if segment.paths is None else segment.paths.take(positions)
            columns = [(key, segment.items(key, positions)) for key in self.manifest.columns]
            for number, index in enumerate(indices.tolist()):
                values: dict[str, Value] = {
                    key: value for key, column in columns if (value := column[number]) is not None
                }
                result[index] = names[number], paths[number] or None, values
        return result

    def metadata(self, rows: Ints) -> list[dict[str, Value]]:
        """Metadata of row numbers; a missing value is left out."""
        return [values for _, _, values in self.records(rows)]

    def live_rows(self) -> Ints:
        """Row numbers of all rows that are not deleted, ascending."""
        numbers = [np.empty(0, np.int64)]
        for segment in self.segments:
            live = self.live(segment)
            numbers.append(segment.rows if live is None else segment.rows[live])
        return np.concatenate(numbers)
