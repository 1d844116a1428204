"""The store: a folder of segments under one manifest.

Readers work on a `Snapshot`, one committed version, and take no lock.  One
`Writer` at a time appends rows; a commit is a new manifest.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentdb import manifest as manifests
from latentdb.errors import (
    AlreadyExistsError,
    CorruptStoreError,
    InvalidInputError,
    NotFoundError,
    StoreError,
)
from latentdb.files import checksum, map_checked, remove, sync_folder, told, write_new
from latentdb.manifest import (
    DeletionsEntry,
    FileEntry,
    IndexEntry,
    Manifest,
    ModelEntry,
    SegmentEntry,
    Settings,
)
from latentdb.metadata import Value
from latentdb.segment import Floats, Ints, Rows, Segment, dump, hash_ids

SEGMENT_BYTES = 64 << 20  # of vectors: what one append holds in memory at a time
GRACE_SECONDS = 600  # how long a file that no version names is kept for readers
_RETRIES = 10


class Snapshot:
    """One committed version of a store, opened for reading."""

    def __init__(self, folder: Path, manifest: Manifest, cache: dict[str, Segment]) -> None:
        self.folder = folder
        self.manifest = manifest
        self._cache = cache

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
        """Row numbers that are deleted and still in a segment, ascending."""
        entry = self.manifest.deletions
        if entry is None:
            return np.empty(0, np.int64)
        path = self.folder / entry.file.name
        view = map_checked(path, entry.file.bytes, entry.file.checksum)
        if len(view) != 8 * entry.rows:
            raise CorruptStoreError(f"{path} holds {len(view)} bytes for {entry.rows} deletions")
        return np.frombuffer(view, "<i8")

    def file(self, entry: FileEntry) -> bytes:
        """The content of the index or a model file, after its checksum held."""
        return bytes(map_checked(self.folder / entry.name, entry.bytes, entry.checksum))

    def live(self, segment: Segment) -> NDArray[np.bool_] | None:
        """bool ``[n]``: which rows of a segment are not deleted; None for all."""
        entry = segment.entry
        bounds = np.searchsorted(self.deleted, (entry.first_row, entry.last_row + 1))
        gone = self.deleted[bounds[0] : bounds[1]]
        if not len(gone):
            return None
        keep = np.ones(len(segment), bool)
        keep[segment.positions(gone)] = False
        return keep

    def is_deleted(self, rows: Ints) -> NDArray[np.bool_]:
        """Which row numbers are deleted."""
        if not len(self.deleted):
            return np.zeros(len(rows), bool)
        places = np.minimum(np.searchsorted(self.deleted, rows), len(self.deleted) - 1)
        return np.asarray(self.deleted[places] == rows)

    def locate(self, ids: Sequence[str]) -> Ints:
        """Row numbers of ids; -1 where an id is not in the store."""
        hashes = hash_ids(ids)
        rows = np.full(len(ids), -1, np.int64)
        for segment in reversed(self.segments):
            positions = segment.find(ids, hashes)
            found = np.flatnonzero((positions >= 0) & (rows < 0))
            numbers = segment.rows[positions[found]]
            alive = ~self.is_deleted(numbers)
            rows[found[alive]] = numbers[alive]
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
        firsts = np.array([segment.entry.first_row for segment in self.segments], np.int64)
        numbers = np.searchsorted(firsts, rows, side="right") - 1
        for number in np.unique(numbers):
            if number < 0:
                raise CorruptStoreError(f"{self.folder}: a row number before the first segment")
            places = np.flatnonzero(numbers == number)
            segment = self.segments[number]
            yield segment, segment.positions(rows[places]), places

    def vectors(self, rows: Ints) -> Floats:
        """z_mean of row numbers: float32 ``[n, d]``."""
        result = np.empty((len(rows), self.dim), np.float32)
        for segment, positions, places in self.groups(rows):
            result[places] = segment.z_mean[positions]
        return result

    def log_vars(self, rows: Ints) -> Floats | None:
        """z_log_var of row numbers, float32 ``[n, d]``; None if one of them has none."""
        result = np.empty((len(rows), self.dim), np.float32)
        for segment, positions, places in self.groups(rows):
            if segment.z_log_var is None:
                return None
            result[places] = segment.z_log_var[positions]
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

    def metadata(self, rows: Ints) -> list[dict[str, Value]]:
        """Metadata of row numbers; a missing value is left out."""
        result: list[dict[str, Value]] = [{} for _ in rows]
        for segment, positions, places in self.groups(rows):
            for key in self.manifest.columns:
                column = segment.column(key)
                for position, place in zip(positions, places, strict=True):
                    value = column.item(int(position))
                    if value is not None:
                        result[place][key] = value
        return result

    def live_rows(self) -> Ints:
        """Every row number that is alive, ascending."""
        parts = [np.empty(0, np.int64)]
        for segment in self.segments:
            keep = self.live(segment)
            parts.append(segment.rows if keep is None else segment.rows[keep])
        return np.concatenate(parts)


class Writer:
    """The one writer of a store, while its lock is held.

    Every method is one commit: it returns when the new version is durable.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.snapshot = store.snapshot()

    def append(self, rows: Rows, replaced: Ints | None = None) -> Ints:
        """Add rows, and delete those they replace, in one commit.

        Parameters
        ----------
        rows
            With ids that no remaining row has.
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
        kinds = dict(old.columns)
        columns = {}
        for key, column in rows.columns.items():
            kind = kinds.setdefault(key, column.kind)
            columns[key] = column.cast(kind, key)
        rows = replace(rows, columns=columns)
        numbers = np.arange(old.next_row, old.next_row + len(rows), dtype=np.int64)
        step = max(1, SEGMENT_BYTES // (4 * old.dim * (1 if rows.z_log_var is None else 2)))
        written: list[FileEntry] = []
        entries = []
        try:
            for start in range(0, len(rows), step):
                part = rows.slice(start, start + step)
                own = numbers[start : start + step]
                file = self._write("segments", ".h5", dump(part, own))
                written.append(file)
                entries.append(SegmentEntry(file, len(part), int(own[0]), int(own[-1])))
            deletions = old.deletions
            if replaced is not None and len(replaced):
                deletions = self._deletions(replaced)
                written.append(deletions.file)
            self._commit(
                replace(
                    old,
                    next_row=old.next_row + len(rows),
                    segments=(*old.segments, *entries),
                    deletions=deletions,
                    columns=kinds,
                )
            )
        except StoreError:
            self._withdraw(written)
            raise
        return numbers

    def set_index(self, data: bytes | memoryview, entry: IndexEntry, settings: Settings) -> None:
        """Make a search index the current one; `entry.file` is filled in here."""
        file = self._write("index", ".faiss", data)
        manifest = self.snapshot.manifest
        try:
            self._commit(replace(manifest, index=replace(entry, file=file), settings=settings))
        except StoreError:
            self._withdraw([file])
            raise

    def drop_index(self, settings: Settings) -> None:
        """Go without an index; keep `settings` for the next."""
        self._commit(replace(self.snapshot.manifest, index=None, settings=settings))

    def _write(self, folder: str, suffix: str, data: bytes | memoryview) -> FileEntry:
        name = f"{folder}/{uuid.uuid4().hex}{suffix}"
        path = self._store.path / name
        write_new(path, data)
        try:
            sync_folder(path.parent)
        except StoreError:
            remove(path)
            raise
        return FileEntry(name, len(data), checksum(data))

    def _deletions(self, rows: Ints) -> DeletionsEntry:
        union = np.union1d(self.snapshot.deleted, rows).astype("<i8")
        return DeletionsEntry(self._write("segments", ".deleted", union.tobytes()), len(union))

    def _commit(self, manifest: Manifest) -> None:
        manifests.commit(self._store.path, replace(manifest, version=manifest.version + 1))
        old = self.snapshot.manifest.file_names()
        self.snapshot = self._store.snapshot()
        for name in old - self.snapshot.manifest.file_names():
            try:
                os.utime(self._store.path / name)  # the grace of readers starts now
            except OSError:
                continue

    def _withdraw(self, files: Iterable[FileEntry]) -> None:
        """Delete what a failed commit wrote, unless the commit took hold after all."""
        named = manifests.read(self._store.path).file_names()
        for file in files:
            if file.name not in named:
                remove(self._store.path / file.name)

    def sweep(self) -> int:
        """Delete files no version names: left by a killed writer, or replaced and past grace."""
        named = self.snapshot.manifest.file_names()
        limit = time.time() - GRACE_SECONDS
        swept = 0
        for folder in manifests.FOLDERS:
            for path in sorted((self._store.path / folder).glob("*")):
                if f"{folder}/{path.name}" in named:
                    continue
                try:
                    if path.lstat().st_mtime < limit:
                        path.unlink()
                        swept += 1
                except OSError:
                    continue
        return swept


class Store:
    """A store on disk.

    Attributes
    ----------
    path
        Its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._segments: dict[str, Segment] = {}
        self._snapshot: Snapshot | None = None
        self._seen: tuple[int, int, int] | None = None

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        dim: int,
        model: tuple[str, str | None, Mapping[str, bytes]] | None = None,
        settings: Settings | None = None,
    ) -> Store:
        """Make an empty store.

        Parameters
        ----------
        path
            A folder that does not exist or is empty (or was left by a creation
            that was killed).
        dim
            Dimensions of z_mean.
        model
            Fingerprints of encoder and decoder, and the model's files.
        settings
            To keep with it.

        Raises
        ------
        AlreadyExistsError
            If something is there.
        """
        if type(dim) is not int or not 1 <= dim <= manifests.MAX_DIM:
            raise InvalidInputError(f"dim {dim!r} cannot be used: give 1 to {manifests.MAX_DIM}")
        folder = Path(path)
        leftover = {*manifests.FOLDERS, manifests.LOCK}
        if folder.exists():
            if (folder / manifests.MANIFEST).exists():
                raise AlreadyExistsError(f"{folder} is a store already: open it")
            if not folder.is_dir() or any(entry.name not in leftover and not entry.name.startswith(
                f".{manifests.MANIFEST}") for entry in folder.iterdir()):  # fmt: skip
                raise AlreadyExistsError(f"{folder} exists and is not a store: give another path")
        try:
            for name in manifests.FOLDERS:
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder} cannot be made: {told(error)}") from error
        with manifests.writer_lock(folder):
            if (folder / manifests.MANIFEST).exists():
                raise AlreadyExistsError(f"{folder} was made by another process: open it")
            entry = None
            if model is not None:
                files = []
                for name, data in model[2].items():
                    remove(folder / "model" / name)
                    write_new(folder / "model" / name, data)
                    files.append(FileEntry(f"model/{name}", len(data), checksum(data)))
                entry = ModelEntry(model[0], model[1], tuple(files))
            for name in manifests.FOLDERS:
                sync_folder(folder / name)
            manifests.commit(
                folder,
                Manifest(uuid.uuid4().hex, 1, dim, model=entry, settings=settings or Settings()),
            )
            sync_folder(folder.absolute().parent)
        return cls(folder)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Store:
        """Open a store.

        Raises
        ------
        NotFoundError, CorruptStoreError, StoreError
            If there is none, or its manifest cannot be read.
        """
        store = cls(Path(path))
        store.snapshot()
        return store

    def snapshot(self) -> Snapshot:
        """The version that is committed now; the same object while nothing changed."""
        for _ in range(_RETRIES):
            seen = self._stamp()
            if self._snapshot is not None and seen is not None and seen == self._seen:
                return self._snapshot
            manifest = manifests.read(self.path)
            snapshot = Snapshot(self.path, manifest, self._segments)
            try:
                # Opened at once: a file may go when a later version drops it.
                _ = snapshot.segments, snapshot.deleted
            except NotFoundError as error:
                if manifests.read(self.path).version != manifest.version:
                    continue  # a file went because a later version had dropped it
                raise CorruptStoreError(
                    f"{error}, and the manifest names it: restore it from a backup"
                ) from error
            names = {entry.file.name for entry in manifest.segments}
            for name in set(self._segments) - names:
                del self._segments[name]
            self._snapshot, self._seen = snapshot, seen
            return snapshot
        raise StoreError(f"{self.path} changes faster than it can be opened: try again")

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self.path / manifests.MANIFEST)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        """Be the one writer.

        Raises
        ------
        LockedError
            If another process is; says which.
        """
        with manifests.writer_lock(self.path):
            yield Writer(self)
