"""The one writer of a store: each method is one commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latentdb.base.errors import (
    CorruptStoreError,
    InvalidInputError,
    NotFoundError,
    StoreError,
)
from latentdb.base.files import checksum, make_folder, sync_folder, try_remove, write_new
from latentdb.store import garbage, plan, versions
from latentdb.store import manifest as manifests
from latentdb.store.columns import Column, absent
from latentdb.store.lock import HeldLock
from latentdb.store.manifest import (
    DeletionsEntry,
    FileEntry,
    IndexEntry,
    Manifest,
    SegmentEntry,
    Settings,
    TombstonesEntry,
    unique_name,
)
from latentdb.store.roots import MAX_ROOTS, Root
from latentdb.store.rows import Ints, Rows
from latentdb.store.segment import MAX_COLUMNS, Segment, dump
from latentdb.store.tombstones import Tombstones

if TYPE_CHECKING:
    from latentdb.store.snapshot import Snapshot
    from latentdb.store.store import Store

SEGMENT_BYTES = 64 << 20  # of vectors in one segment: bounds the memory of an append
GRACE_SECONDS = 600  # how long a file that no version names is kept for readers


class Writer:
    """The one writer of a store, while its lock is held.

    Every method is one commit: it returns when the new version is durable.
    """

    def __init__(self, store: Store, lock: HeldLock) -> None:
        self._store = store
        self._lock = lock
        self.snapshot = store.snapshot()
        self.committed = False  # whether any method has committed

    def append(self, rows: Rows | Iterable[Rows], replaced: Ints | None = None) -> Ints:
        """Add rows, and delete those they replace, in one commit.

        Parameters
        ----------
        rows
            With ids that no remaining row has.  Several blocks are written one after
            the other and committed together.
        replaced
            Row numbers to delete.

        Returns
        -------
        ndarray
            int64 ``[n]``: the new row numbers.

        Raises
        ------
        InvalidInputError
            If a column does not fit the store's.
        StoreError
            If it cannot be written; the store is as before.
        """
        old = self.snapshot.manifest
        types = dict(old.columns)
        first = old.next_row
        with self._written() as written:
            entries: list[SegmentEntry] = []
            next_row = first
            for block in [rows] if isinstance(rows, Rows) else rows:
                if block.z_mean.shape[1] != old.dim:
                    raise InvalidInputError(
                        f"z_mean has {block.z_mean.shape[1]} dimensions: this store has {old.dim}"
                    )
                block = replace(block, columns=fit_columns(block.columns, types))
                numbers = np.arange(next_row, next_row + len(block), dtype=np.int64)
                entries += self._segments(block, numbers, written)
                next_row += len(block)
            deletions = old.deletions
            if replaced is not None and len(replaced):
                deletions = self._deletions(replaced, written)
            self._commit(
                replace(
                    old,
                    next_row=next_row,
                    segments=(*old.segments, *entries),
                    deletions=deletions,
                    columns=types,
                )
            )
        return np.arange(first, next_row, dtype=np.int64)

    def adopt(
        self, entries: Sequence[SegmentEntry], types: Mapping[str, str], replaced: Ints
    ) -> None:
        """Add segments that other processes have written, and delete rows, in one commit.

        Parameters
        ----------
        entries
            At least one, durable, with row numbers that ascend and that no row had yet; no
            remaining row has one of their ids.
        types
            Type of every metadata key in them.
        replaced
            Row numbers to delete.

        Raises
        ------
        InvalidInputError
            If a row number was given to another row already, or a type does not fit.
        StoreError
            If it cannot be written, or a segment cannot be read; the store is as before.
        """
        old = self.snapshot.manifest
        if entries[0].first_row < old.next_row:
            raise InvalidInputError(
                f"{entries[0].file.name} has row {entries[0].first_row}, and the store has given "
                f"rows up to {old.next_row - 1}: append its rows"
            )
        columns = dict(old.columns)
        merge_types(types, columns)
        with self._written() as written:
            deletions = self._deletions(replaced, written) if len(replaced) else old.deletions
            self._commit(
                replace(
                    old,
                    next_row=entries[-1].last_row + 1,
                    segments=(*old.segments, *entries),
                    deletions=deletions,
                    columns=columns,
                )
            )

    def delete(self, rows: Ints, *, bury: bool = False) -> None:
        """Delete rows by number, in one commit; compaction frees their space on disk.

        Parameters
        ----------
        bury
            Record their images as deleted: see `latentdb.store.tombstones`.
        """
        old = self.snapshot.manifest
        with self._written() as written:
            tombstones = old.tombstones
            if bury:
                buried = Tombstones.of(self.snapshot)
                more = buried.with_more(Tombstones.of_rows(self.snapshot, rows))
                tombstones = self._tombstones(more, written)
            deletions = self._deletions(rows, written)
            self._commit(replace(old, deletions=deletions, tombstones=tombstones))

    def unbury(self, names: Collection[int], digests: Collection[int]) -> None:
        """Forget that images were deleted: of some ids, by their hashes, or of some contents."""
        tombstones = Tombstones.of(self.snapshot)
        fewer = tombstones.without(names, digests)
        if len(fewer) < len(tombstones):
            with self._written() as written:
                entry = self._tombstones(fewer, written)
                self._commit(replace(self.snapshot.manifest, tombstones=entry))

    def set_roots(self, roots: Sequence[Root]) -> None:
        """Replace the folders that images come from.

        Raises
        ------
        InvalidInputError
            If they are too many.
        """
        if len(roots) > MAX_ROOTS:
            raise InvalidInputError(
                f"a store has at most {MAX_ROOTS:,} folders of images, these would be "
                f"{len(roots):,}: index a folder that holds several"
            )
        with self._written():
            self._commit(replace(self.snapshot.manifest, roots=tuple(roots)))

    def replace_segments(self, old: Sequence[SegmentEntry], rows: Rows, numbers: Ints) -> None:
        """Replace neighbouring segments by one with their live rows, in one commit.

        Parameters
        ----------
        old
            Neighbours, in order.
        rows, numbers
            All their live rows, and the row numbers, ascending; may be empty.
        """
        self._replace([(old, rows, numbers)], self.snapshot.manifest.columns)

    def rewrite(
        self,
        change: Callable[[Segment, Ints], Mapping[str, Column] | None],
        columns: Mapping[str, str],
    ) -> None:
        """Give rows other metadata under the same numbers, all of them in one commit.

        Parameters
        ----------
        change
            From a segment and the positions of its live rows, all columns that these are to
            have, in their order; None leaves the segment as it is.
        columns
            Type of every metadata key from then on.
        """
        snapshot = self.snapshot

        def changed() -> Iterator[tuple[Sequence[SegmentEntry], Rows, Ints]]:
            for segment in snapshot.segments:
                live = snapshot.live_positions(segment)
                made = change(segment, live)
                if made is not None:
                    rows = replace(segment.read(live), columns=made)
                    yield [segment.entry], rows, segment.rows[live]

        self._replace(changed(), columns)

    def _replace(
        self,
        changes: Iterable[tuple[Sequence[SegmentEntry], Rows, Ints]],
        columns: Mapping[str, str],
    ) -> None:
        """Replace runs of neighbouring segments by one each, as `replace_segments` does one."""
        manifest = self.snapshot.manifest
        made: dict[str, list[SegmentEntry]] = {}  # by the first segment that they replace
        replaced: set[str] = set()
        dropped = 0
        with self._written() as written:
            for old, rows, numbers in changes:
                entries = self._segments(rows, numbers, written, single=True) if len(rows) else []
                made[old[0].file.name] = entries
                replaced |= {entry.file.name for entry in old}
                dropped += sum(entry.rows for entry in old) - len(rows)
            segments: list[SegmentEntry] = []
            for entry in manifest.segments:
                if entry.file.name not in replaced:
                    segments.append(entry)
                else:
                    segments += made.get(entry.file.name, [])
            deletions = manifest.deletions
            if deletions is not None and dropped:
                in_segments = deletions.in_segments - dropped
                indexed_below = 0 if manifest.index is None else manifest.index.rows_below
                indexed = self.snapshot.deleted[self.snapshot.deleted < indexed_below]
                deleted = np.union1d(indexed, _deleted_in_segments(self.snapshot, replaced))
                deletions = self._deletions_file(deleted, in_segments, written)
            self._commit(
                replace(
                    manifest, segments=tuple(segments), deletions=deletions, columns=dict(columns)
                )
            )

    def set_index(
        self,
        file: FileEntry,
        entry: IndexEntry,
        settings: Settings,
        *,
        built_from: Snapshot,
        extended: bool = False,
    ) -> None:
        """Replace the search index by one that was built before the lock was taken.

        Rows that were added meanwhile are not in it, and are scanned.

        Parameters
        ----------
        file
            The index, written by `Store.index_file`.
        entry
            What the manifest says of it; its `file` is filled in here.
        settings
            To store with it.
        built_from
            The version whose rows it holds.
        extended
            It also still holds the deleted rows that the old one held.

        Raises
        ------
        StoreError
            If the settings, or the index that was extended, are not those of `built_from`.
        """
        manifest, base = self.snapshot.manifest, built_from.manifest
        if manifest.settings != base.settings or (extended and manifest.index != base.index):
            raise StoreError(
                f"the search index of {self._store.path} or its settings were changed by another "
                "process meanwhile: run it again"
            )
        if not (self._store.path / file.name).exists():  # it waited for the lock for too long
            raise StoreError(f"{self._store.path / file.name} is gone: run it again")
        with self._written() as written:
            deletions = self._indexed_deletions(built_from, written, extended=extended)
            entry = replace(entry, file=file)
            self._commit(replace(manifest, index=entry, settings=settings, deletions=deletions))

    def drop_index(self, settings: Settings) -> None:
        """Remove the search index; store `settings` for the next one."""
        with self._written() as written:
            deletions = self._without_compacted(written)
            manifest = self.snapshot.manifest
            self._commit(replace(manifest, index=None, settings=settings, deletions=deletions))

    def set_compiled(self, files: Mapping[str, bytes]) -> None:
        """Replace the compiled files of the model, given by name."""
        model = self.snapshot.manifest.model
        if model is not None:
            with self._written() as written:
                entries = [file for file in model.files if not file.name.endswith(tuple(files))]
                entries += [self._write("model", f".{key}", files[key], written) for key in files]
                new = replace(model, files=tuple(entries))
                self._commit(replace(self.snapshot.manifest, model=new))

    @contextmanager
    def _written(self) -> Iterator[list[FileEntry]]:
        """Collects the files of a commit; they are deleted if it fails."""
        written: list[FileEntry] = []
        try:
            yield written
        except BaseException:
            garbage.remove_unnamed(self._store.path, [file.name for file in written])
            # The next commit of this writer starts from what is on disk now.
            self.snapshot = self._store.snapshot()
            raise

    def _write(
        self, folder: str, suffix: str, data: bytes | memoryview, written: list[FileEntry]
    ) -> FileEntry:
        file = write_file(self._store.path, folder, suffix, data)
        written.append(file)
        return file

    def _segments(
        self, rows: Rows, numbers: Ints, written: list[FileEntry], *, single: bool = False
    ) -> list[SegmentEntry]:
        """Write rows as segments of at most `SEGMENT_BYTES`, or as a single one."""
        dtype = self.snapshot.manifest.dtype
        step = len(rows) if single else rows_of_segment(rows, dtype)
        entries = []
        for start in range(0, len(rows), step):
            block, taken = rows.take(slice(start, start + step)), numbers[start : start + step]
            entries.append(write_segment(self._store.path, unique_name(), block, taken, dtype))
            written.append(entries[-1].file)
        return entries

    def _deletions(self, rows: Ints, written: list[FileEntry]) -> DeletionsEntry | None:
        """The deletions of the current version and more rows, none of which is deleted yet."""
        deleted = self.snapshot.deleted
        union = np.union1d(deleted, rows)
        new = len(union) - len(deleted)
        return self._deletions_file(union, self.snapshot.manifest.deleted_rows + new, written)

    def _deletions_file(
        self, rows: Ints, in_segments: int, written: list[FileEntry]
    ) -> DeletionsEntry | None:
        if not len(rows):
            return None
        data = rows.astype("<i8").tobytes()
        file = self._write("segments", ".deleted", data, written)
        return DeletionsEntry(file, len(rows), in_segments)

    def _indexed_deletions(
        self, built_from: Snapshot, written: list[FileEntry], *, extended: bool
    ) -> DeletionsEntry | None:
        """The deleted rows that a segment of this version holds, or an index of an earlier one.

        Parameters
        ----------
        built_from, extended
            As in `set_index`.
        """
        entry, snapshot = self.snapshot.manifest.deletions, self.snapshot
        present = {segment.entry.file.name for segment in snapshot.segments}
        rows = [snapshot.deleted if extended else _deleted_in_segments(snapshot)]
        for segment in built_from.segments:
            if segment.entry.file.name in present:
                continue
            # It was compacted meanwhile: what is in no segment any more, the index still holds.
            live = built_from.live(segment)
            numbers = segment.rows if live is None else segment.rows[live]
            kept = [part.holds(numbers) for part in snapshot.segments if part.overlaps(segment)]
            rows.append(numbers[~np.any(kept, axis=0)] if kept else numbers)
        union = np.unique(np.concatenate(rows))
        if np.array_equal(union, snapshot.deleted):
            return entry
        return self._deletions_file(union, snapshot.manifest.deleted_rows, written)

    def _tombstones(
        self, tombstones: Tombstones, written: list[FileEntry]
    ) -> TombstonesEntry | None:
        if not len(tombstones):
            return None
        file = self._write("segments", ".tombstones", tombstones.dump(), written)
        return TombstonesEntry(file, len(tombstones))

    def _without_compacted(self, written: list[FileEntry]) -> DeletionsEntry | None:
        """The deletions of the current version without rows that only the old index held."""
        entry = self.snapshot.manifest.deletions
        if entry is None or entry.rows == entry.in_segments:
            return entry
        rows = _deleted_in_segments(self.snapshot)
        return self._deletions_file(rows, len(rows), written)

    def _commit(self, manifest: Manifest) -> None:
        folder = self._store.path
        manifest, data = manifests.serialize(
            folder, replace(manifest, version=manifest.version + 1)
        )
        known = {segment.entry for segment in self.snapshot.segments}
        try:
            opened = self._store.open_version(manifest)
            for segment in opened.segments:
                if segment.entry not in known:
                    segment.check_layout()
        except (CorruptStoreError, NotFoundError) as error:
            raise StoreError(f"nothing was committed: what was written is bad ({error})") from error
        self._store.check_unchanged()
        versions.publish(folder, data, self.snapshot.manifest.version)
        self._lock.record(manifest.version)
        self.committed = True
        dropped = self.snapshot.manifest.file_names() - manifest.file_names()
        self.snapshot = opened
        self._store.switch_to(opened, data)
        garbage.start_grace(folder, dropped)

    def collect_garbage(self) -> int:
        """Delete files that no version names and whose grace is over; returns their number."""
        root, named = self._store.path, self.snapshot.manifest.file_names()
        versions.expire(root, time.time() - GRACE_SECONDS)
        return garbage.collect_garbage(
            root,
            named,
            GRACE_SECONDS,
            lambda: versions.names_of_previous(root) | plan.segment_names(root),
        )


def fit_columns(columns: Mapping[str, Column], types: dict[str, str]) -> dict[str, Column]:
    """Columns of the types that a store has, or has from now on.

    Parameters
    ----------
    types
        Type of every metadata key; new ones are added, and int becomes float for a column of
        floats.

    Raises
    ------
    InvalidInputError
        If a column is of another type, or there are too many keys then.
    """
    fitting = {}
    for key, column in columns.items():
        type_ = types.setdefault(key, column.type)
        if (type_, column.type) == ("int", "float"):
            type_ = types[key] = "float"  # older segments are read as float from now on
        fitting[key] = column.cast(type_, key)
    if len(types) > MAX_COLUMNS:
        raise InvalidInputError(
            f"{len(types)} metadata keys are too many: a store has at most {MAX_COLUMNS}"
        )
    return fitting


def merge_types(types: Mapping[str, str], into: dict[str, str]) -> None:
    """As `fit_columns`, for the types of columns that are in segments already."""
    fit_columns({key: absent(type_, 0) for key, type_ in types.items()}, into)


def rows_of_segment(rows: Rows, dtype: str) -> int:
    """How many rows a segment of at most `SEGMENT_BYTES` has, by their vectors."""
    each = np.dtype(dtype).itemsize * int(rows.z_mean.shape[1])
    row_bytes = each * (1 if rows.z_log_var is None else 2)
    return max(1, SEGMENT_BYTES // row_bytes)


def write_segment(root: Path, name: str, rows: Rows, numbers: Ints, dtype: str) -> SegmentEntry:
    """Write rows as a segment that no version names yet, durably.

    Parameters
    ----------
    root
        Folder of the store.
    name
        Of the file in `segments`, without its ending.
    rows, numbers
        The rows, and their row numbers, ascending.
    dtype
        Of the latents of the store.

    Raises
    ------
    StoreError
        If it cannot be written, or there is a file of that name.
    """
    made = dump(rows, numbers, dtype)
    file = write_file(root, "segments", ".h5", made.data, name=name)
    return SegmentEntry(file, len(rows), int(numbers[0]), int(numbers[-1]), made.layout)


def write_file(
    root: Path, folder: str, suffix: str, data: bytes | memoryview, *, name: str | None = None
) -> FileEntry:
    """Write a new file into a folder of a store, durably, under a name that no version names."""
    file = FileEntry(f"{folder}/{name or unique_name()}{suffix}", len(data), checksum(data))
    path = root / file.name
    make_folder(path.parent)  # the folder index/ may have been deleted: it can be rebuilt
    write_new(path, data)
    try:
        sync_folder(path.parent)
    except StoreError:
        try_remove(path)
        raise
    return file


def _deleted_in_segments(snapshot: Snapshot, left_out: Container[str] = ()) -> Ints:
    """Row numbers that are deleted and still in a segment, ascending.

    Parameters
    ----------
    left_out
        Segments that do not count, by the names of their files.
    """
    deleted = [
        segment.rows[~live]
        for segment in snapshot.segments
        if segment.entry.file.name not in left_out and (live := snapshot.live(segment)) is not None
    ]
    return np.concatenate([np.empty(0, np.int64), *deleted])
