"""The store: a folder of segments under one manifest.

Readers work on a `Snapshot`, one committed version, and take no lock.  One
`Writer` at a time appends rows; a commit is a new manifest.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from latentdb.base.errors import (
    CorruptStoreError,
    InvalidInputError,
    NotFoundError,
    StoreError,
)
from latentdb.base.files import (
    as_path,
    checksum,
    make_folder,
    os_reason,
    sync_folder,
    try_remove,
    write_new,
)
from latentdb.store import garbage as leftovers
from latentdb.store import manifest as manifests
from latentdb.store.id_filter import IdFilter
from latentdb.store.manifest import (
    DeletionsEntry,
    FileEntry,
    IndexEntry,
    Manifest,
    ModelEntry,
    SegmentEntry,
    Settings,
)
from latentdb.store.segment import MAX_COLUMNS, Ints, Rows, Segment, dump
from latentdb.store.snapshot import Snapshot

SEGMENT_BYTES = 64 << 20  # of vectors: what one append holds in memory at a time
GRACE_SECONDS = 600  # how long a file that no version names is kept for readers
_RETRIES = 10


def _new_name() -> str:
    return os.urandom(16).hex()


class Writer:
    """The one writer of a store, while its lock is held.

    Every method is one commit: it returns when the new version is durable.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.snapshot = store.snapshot()
        self.committed = False

    def append(self, rows: Rows | Iterable[Rows], replaced: Ints | None = None) -> Ints:
        """Add rows, and delete those they replace, in one commit.

        Parameters
        ----------
        rows
            With ids that no remaining row has; several parts are written one
            after the other and committed together.
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
        first = old.next_row
        with self._written() as written:
            entries: list[SegmentEntry] = []
            next_row = first
            for part in [rows] if isinstance(rows, Rows) else rows:
                columns = {}
                for key, column in part.columns.items():
                    kind = kinds.setdefault(key, column.kind)
                    if (kind, column.kind) == ("int", "float"):
                        kind = kinds[key] = "float"  # older segments are read as numbers now
                    columns[key] = column.cast(kind, key)
                if len(kinds) > MAX_COLUMNS:
                    raise InvalidInputError(
                        f"{len(kinds)} metadata keys are too many: "
                        f"a store has at most {MAX_COLUMNS}"
                    )
                part = replace(part, columns=columns)
                numbers = np.arange(next_row, next_row + len(part), dtype=np.int64)
                entries += self._segments(part, numbers, written)
                next_row += len(part)
            deletions = old.deletions
            if replaced is not None and len(replaced):
                deletions = self._deletions(replaced, written)
            self._commit(
                replace(
                    old,
                    next_row=next_row,
                    segments=(*old.segments, *entries),
                    deletions=deletions,
                    columns=kinds,
                )
            )
        return np.arange(first, next_row, dtype=np.int64)

    def delete(self, rows: Ints) -> None:
        """Delete rows by number, in one commit; their place on disk is freed by compaction."""
        with self._written() as written:
            deletions = self._deletions(rows, written)
            self._commit(replace(self.snapshot.manifest, deletions=deletions))

    def replace_segments(self, old: Sequence[SegmentEntry], rows: Rows, numbers: Ints) -> None:
        """Put live rows, as one segment, in the place of the neighbouring segments they are from.

        Parameters
        ----------
        old
            Neighbours, in order.
        rows, numbers
            Every live row of them, with its number, ascending; may be none.
        """
        manifest = self.snapshot.manifest
        gone = {entry.file.name for entry in old}
        with self._written() as written:
            entries = self._segments(rows, numbers, written, whole=True) if len(rows) else []
            segments: list[SegmentEntry] = []
            for entry in manifest.segments:
                if entry.file.name not in gone:
                    segments.append(entry)
                elif entry.file.name == old[0].file.name:
                    segments += entries
            dropped = sum(entry.rows for entry in old) - len(rows)
            deletions = manifest.deletions
            if deletions is not None and dropped:
                kept = deletions.in_segments - dropped
                covered = 0 if manifest.index is None else manifest.index.rows_below
                still = [
                    self.snapshot.deleted[self.snapshot.deleted < covered],
                    *(
                        segment.rows[~alive]
                        for segment in self.snapshot.segments
                        if segment.entry.file.name not in gone
                        and (alive := self.snapshot.live(segment)) is not None
                    ),
                ]
                deletions = self._deletions_file(np.unique(np.concatenate(still)), kept, written)
            self._commit(replace(manifest, segments=tuple(segments), deletions=deletions))

    def set_index(
        self,
        data: bytes | memoryview,
        entry: IndexEntry,
        settings: Settings,
        *,
        extended: bool = False,
    ) -> None:
        """Make a search index the current one; `entry.file` is filled in here.

        One that was `extended` holds the deleted rows that the old one held.
        """
        manifest = self.snapshot.manifest
        with self._written() as written:
            file = self._write("index", ".faiss", data, written)
            self._commit(
                replace(
                    manifest,
                    index=replace(entry, file=file),
                    settings=settings,
                    deletions=manifest.deletions if extended else self._without_compacted(written),
                )
            )

    def drop_index(self, settings: Settings) -> None:
        """Go without an index; keep `settings` for the next."""
        with self._written() as written:
            deletions = self._without_compacted(written)
            manifest = self.snapshot.manifest
            self._commit(replace(manifest, index=None, settings=settings, deletions=deletions))

    def set_compiled(self, files: Mapping[str, bytes]) -> None:
        """Keep compiled forms of the model, by name, in the place of those there were."""
        model = self.snapshot.manifest.model
        if model is not None:
            with self._written() as written:
                kept = [file for file in model.files if not file.name.endswith(tuple(files))]
                kept += [self._write("model", f".{key}", files[key], written) for key in files]
                new = replace(model, files=tuple(kept))
                self._commit(replace(self.snapshot.manifest, model=new))

    @contextmanager
    def _written(self) -> Iterator[list[FileEntry]]:
        """Collect the files of a commit, and withdraw them if it fails."""
        written: list[FileEntry] = []
        try:
            yield written
        except BaseException:
            # The manifest may have been replaced before the failure.
            named = manifests.read(self._store.path).file_names()
            for file in written:
                if file.name not in named:
                    try_remove(self._store.path / file.name)
            # A next commit by this writer goes on from what is on disk now.
            self.snapshot = self._store.snapshot()
            raise

    def _write(
        self, folder: str, suffix: str, data: bytes | memoryview, written: list[FileEntry]
    ) -> FileEntry:
        name = f"{folder}/{_new_name()}{suffix}"
        path = self._store.path / name
        file = FileEntry(name, len(data), checksum(data))
        written.append(file)
        make_folder(path.parent)  # that of the index may be lost
        write_new(path, data)
        sync_folder(path.parent)
        return file

    def _segments(
        self, rows: Rows, numbers: Ints, written: list[FileEntry], *, whole: bool = False
    ) -> list[SegmentEntry]:
        """Write rows as segments of a size that fits in memory, or as one."""
        each = 4 * self.snapshot.dim * (1 if rows.z_log_var is None else 2)
        step = len(rows) if whole else max(1, SEGMENT_BYTES // each)
        entries = []
        for start in range(0, len(rows), step):
            part, own = rows.slice(start, start + step), numbers[start : start + step]
            made = dump(part, own)
            file = self._write("segments", ".h5", made.data, written)
            entries.append(SegmentEntry(file, len(part), int(own[0]), int(own[-1]), made.layout))
        return entries

    def _deletions(self, rows: Ints, written: list[FileEntry]) -> DeletionsEntry | None:
        """The deletions of now and some more, none of which is deleted yet."""
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

    def _without_compacted(self, written: list[FileEntry]) -> DeletionsEntry | None:
        """The deletions of now, less those that only the old index had."""
        entry = self.snapshot.manifest.deletions
        if entry is None or entry.rows == entry.in_segments:
            return entry
        still = [
            segment.rows[~alive]
            for segment in self.snapshot.segments
            if (alive := self.snapshot.live(segment)) is not None
        ]
        rows = np.concatenate([np.empty(0, np.int64), *still])
        return self._deletions_file(rows, len(rows), written)

    def _commit(self, manifest: Manifest) -> None:
        written = manifests.commit(
            self._store.path, replace(manifest, version=manifest.version + 1)
        )
        self.committed = True
        old = self.snapshot.manifest.file_names()
        self.snapshot = self._store.switch_to(*written)
        for name in old - self.snapshot.manifest.file_names():
            try:
                os.utime(self._store.path / name)  # the grace of readers starts now
            except OSError:
                continue

    def collect_garbage(self) -> int:
        """Delete files no version names: left by a killed writer, or replaced and past grace."""
        named = self.snapshot.manifest.file_names()
        return leftovers.collect_garbage(self._store.path, named, GRACE_SECONDS)


class Store:
    """A store on disk.

    Attributes
    ----------
    path
        Its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._manifest = os.path.join(path, manifests.MANIFEST)
        self._segments: dict[str, Segment] = {}
        self._snapshot: Snapshot | None = None
        self._seen: tuple[int, int, int] | None = None
        self._data = b""  # of the manifest of the snapshot
        self._lookup = IdFilter()

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
        folder = as_path(path)
        leftovers.check_absent(folder)
        try:
            for name in manifests.FOLDERS:
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder} cannot be made: {os_reason(error)}") from error
        with manifests.writer_lock(folder):
            leftovers.check_absent(folder)  # another process may have made it meanwhile
            entry = None
            if model is not None:
                files = []
                for name, data in model[2].items():
                    try_remove(folder / "model" / name)
                    write_new(folder / "model" / name, data)
                    files.append(FileEntry(f"model/{name}", len(data), checksum(data)))
                entry = ModelEntry(model[0], model[1], tuple(files))
            for name in manifests.FOLDERS:
                sync_folder(folder / name)
            manifests.commit(
                folder,
                Manifest(_new_name(), 1, dim, model=entry, settings=settings or Settings()),
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
        store = cls(as_path(path))
        store.snapshot()
        return store

    def snapshot(self) -> Snapshot:
        """The version that is committed now; the same object while nothing changed."""
        if self._snapshot and not all(map(Segment.is_intact, self._snapshot.segments)):
            self._snapshot, self._segments = None, {}  # opened anew, which says what is wrong
        for _ in range(_RETRIES):
            seen = manifests.stamp(self._manifest)
            if self._snapshot is not None and seen is not None and seen == self._seen:
                return self._snapshot
            data = manifests.read_bytes(self.path)
            if self._snapshot is not None and data == self._data:
                self._seen = seen
                return self._snapshot
            manifest = manifests.load(data, self._manifest)
            try:
                snapshot = self.switch_to(manifest, data)
            except NotFoundError as error:
                if manifests.read(self.path).version != manifest.version:
                    continue  # a file went because a later version had dropped it
                raise CorruptStoreError(
                    f"{error}, and the manifest names it: restore it from a backup"
                ) from error
            self._seen = seen
            return snapshot
        raise StoreError(f"{self.path} changes faster than it can be opened: try again")

    def switch_to(self, manifest: Manifest, data: bytes) -> Snapshot:
        """Take a committed version for the current one, and open its files.

        Parameters
        ----------
        manifest, data
            The version, and the bytes of its manifest file.

        Raises
        ------
        NotFoundError, CorruptStoreError, StoreError
            If a file cannot be opened; the version from before is kept then.
        """
        snapshot = Snapshot(self.path, manifest, self._segments, self._lookup)
        # Opened at once: a file may go when a later version drops it.
        _ = snapshot.segments, snapshot.deleted
        names = {entry.file.name for entry in manifest.segments}
        for name in set(self._segments) - names:
            del self._segments[name]
        self._snapshot, self._data, self._seen = snapshot, data, None
        return snapshot

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        """Be the one writer.

        Raises
        ------
        LockedError
            If another process is; says which.
        """
        with manifests.writer_lock(self.path):
            for name in manifests.FOLDERS:
                if (self.path / name).is_symlink():
                    raise StoreError(
                        f"{self.path / name} is a link, to which nothing is written: "
                        "put the folder itself in its place"
                    )
            writer = Writer(self)
            yield writer
            if not writer.committed:
                # What a killed writer renamed may not be durable, and what is acknowledged now
                # ("nothing to do") rests on it.  A commit syncs it besides.
                sync_folder(self.path)
