"""The store: a folder of segments under one manifest.

Readers work on a `Snapshot`, one committed version, and take no lock.  One
`Writer` at a time appends rows; a commit is a new manifest.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from latentdb.base.errors import (
    CorruptStoreError,
    InvalidInputError,
    LatentDBError,
    NotFoundError,
    StoreError,
)
from latentdb.base.files import as_path, stamp, sync_folder
from latentdb.store import manifest as manifests
from latentdb.store import versions
from latentdb.store.creation import Model, create_files
from latentdb.store.garbage import remove_unnamed
from latentdb.store.id_filter import IdFilter
from latentdb.store.lock import committed_version, index_lock, writer_lock
from latentdb.store.manifest import DTYPES, FLOAT32, FileEntry, Manifest, Settings
from latentdb.store.recovery import put_back
from latentdb.store.segment import Segment
from latentdb.store.snapshot import Snapshot
from latentdb.store.writer import Writer, write_file

_RETRIES = 10


def check_dtype(dtype: str) -> None:
    """Raise `InvalidInputError` for a dtype that latents are not stored in."""
    if dtype not in DTYPES:
        raise InvalidInputError(f"dtype {dtype!r} is unknown: use {' or '.join(DTYPES)}")


class Store:
    """A store on disk.

    Attributes
    ----------
    path
        Its folder.
    lock_timeout
        Seconds that a writer waits while another process is writing.
    version
        The version that is read, whatever is committed; None for the current one.
    """

    def __init__(self, path: Path, version: int | None = None) -> None:
        self.path = path
        self.version = version
        self.lock_timeout = 0.0
        self._manifest = os.path.join(path, manifests.MANIFEST)
        self._segments: dict[str, Segment] = {}
        self._snapshot: Snapshot | None = None
        self._seen: tuple[int, int, int] | None = None
        self._data = b""  # of the manifest of the snapshot
        self._uuid = ""  # of the store that was opened; another may be made at its path
        self._id_filter = IdFilter()

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        dim: int,
        model: Model | None = None,
        settings: Settings | None = None,
        dtype: str = FLOAT32,
    ) -> Store:
        """Make an empty store.

        Parameters
        ----------
        path
            A folder that does not exist, is empty, or was left by a killed creation.
        dim
            Dimensions of z_mean.
        model
            Fingerprints of encoder and decoder, and the model's files.
        settings
            Search settings to store with it.
        dtype
            Of z_mean and z_log_var on disk: ``"float32"`` or ``"float16"``.

        Raises
        ------
        AlreadyExistsError
            If something is there.
        """
        if type(dim) is not int or not 1 <= dim <= manifests.MAX_DIM:
            raise InvalidInputError(f"dim {dim!r} cannot be used: give 1 to {manifests.MAX_DIM}")
        check_dtype(dtype)
        folder = as_path(path)
        store = cls(folder)
        first = settings or Settings()
        store._uuid = create_files(folder, dim=dim, model=model, settings=first, dtype=dtype)
        return store

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, version: int | None = None) -> Store:
        """Open a store.

        Parameters
        ----------
        path
            Its folder.
        version
            Open this version, to read it; by default the current one, whichever that is.

        Raises
        ------
        StoreNotFoundError, CorruptStoreError, StoreError
            If there is none, or its manifest cannot be read.
        NotFoundError
            If the version is not kept.
        """
        store = cls(as_path(path), version)
        store.snapshot()
        return store

    def snapshot(self) -> Snapshot:
        """The current version; the same object while nothing is committed.

        Raises
        ------
        StoreError
            If another store was made at the path since this one was opened.
        """
        if self._snapshot and not self._snapshot.is_intact():
            self._snapshot, self._segments = None, {}  # reopened, which names what is wrong
        if self.version is not None:
            return self._earlier(self.version)
        for _ in range(_RETRIES):
            seen = stamp(self._manifest)
            if self._snapshot is not None and seen is not None and seen == self._seen:
                return self._snapshot
            committed = committed_version(self.path)
            data = manifests.read_bytes(self.path)
            if self._snapshot is not None and data == self._data:
                self._seen = seen
                return self._snapshot
            manifest = manifests.load(data, self._manifest)
            self._check_uuid(manifest)
            try:
                snapshot = self.open_version(manifest)
            except NotFoundError as error:
                if manifests.read(self.path).version != manifest.version:
                    continue  # a later version dropped a file, which was then deleted
                raise CorruptStoreError(
                    f"{error}, and the manifest names it: restore it from a backup"
                ) from error
            if committed > manifest.version:
                text = put_back(manifest, committed).told(self.path)
                warnings.warn(text, RuntimeWarning, stacklevel=4)
            self.switch_to(snapshot, data)
            self._seen = seen
            return snapshot
        raise StoreError(f"{self.path} changes faster than it can be opened: try again")

    def _earlier(self, version: int) -> Snapshot:
        """The version that was asked for, as long as the store at the path is still its own."""
        seen = stamp(self._manifest)
        if self._uuid and (seen is None or seen != self._seen):
            try:
                current = manifests.read(self.path)
            except (StoreError, NotFoundError):
                pass  # a version can be read beside a current manifest that cannot
            else:
                self._check_uuid(current)
        if self._snapshot is None:
            self._snapshot = self.open_version(versions.read_version(self.path, version))
            self._check_uuid(self._snapshot.manifest)
        self._seen = seen
        return self._snapshot

    def _check_uuid(self, manifest: Manifest) -> None:
        self._uuid = self._uuid or manifest.uuid
        if manifest.uuid != self._uuid:
            raise StoreError(
                f"{self.path} was replaced by another store since it was opened: open it again"
            )

    def check_unchanged(self) -> None:
        """Refuse to commit over anything but the version of the current snapshot.

        The lock does not prevent it: with the folder of a store, its lock can be removed.

        Raises
        ------
        StoreError
            If another manifest is there.
        """
        if manifests.read_bytes(self.path) != self._data:
            raise StoreError(f"{self.path} was replaced while it was written: open it again")

    def switch_to(self, snapshot: Snapshot, data: bytes) -> None:
        """Make an opened version, which is committed, the current snapshot.

        Parameters
        ----------
        snapshot, data
            The version, and the bytes of its manifest file.
        """
        names = {entry.file.name for entry in snapshot.manifest.segments}
        for name in set(self._segments) - names:
            del self._segments[name]
        self._snapshot, self._data, self._seen = snapshot, data, None

    def open_version(self, manifest: Manifest) -> Snapshot:
        """A version with its files opened; it need not be committed yet.

        Raises
        ------
        NotFoundError, CorruptStoreError, StoreError
            If a file cannot be opened; the current snapshot stays as it was then.
        """
        snapshot = Snapshot(self.path, manifest, self._segments, self._id_filter)
        # Opened at once: a file may be deleted after a later version drops it.
        _ = snapshot.segments, snapshot.deleted
        return snapshot

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        """The one writer, while its lock is held.

        Raises
        ------
        LockedError
            If another process is still writing after `lock_timeout`; names it.
        StoreError
            If an earlier version was opened, or an older manifest was put back.
        """
        if self.version is not None:
            raise StoreError(
                f"version {self.version} of {self.path} can only be read: open the store without "
                "a version to write"
            )
        with writer_lock(self.path, self.lock_timeout) as lock:
            writer = Writer(self, lock)
            if lock.committed > writer.snapshot.manifest.version:
                raise StoreError(put_back(writer.snapshot.manifest, lock.committed).told(self.path))
            yield writer
            if not writer.committed:
                # The manifest that a killed writer renamed may not be durable, and "nothing to do"
                # relies on it.  A commit would sync the folder.
                sync_folder(self.path)

    def index_lock(self, timeout: float) -> AbstractContextManager[None]:
        """The lock of the one process that builds the search index: `lock.index_lock`."""
        return index_lock(self.path, timeout)

    @contextmanager
    def index_file(self, data: bytes | memoryview) -> Iterator[FileEntry]:
        """A new file of a search index; it is deleted again, unless a version names it then.

        It is written without the lock of the writer: it may be large, and the disk slow.
        """
        file = write_file(self.path, "index", ".faiss", data)
        try:
            yield file
        finally:
            with suppress(LatentDBError):
                remove_unnamed(self.path, [file.name])
