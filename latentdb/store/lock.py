"""The locks of a store: of its one writer, and of the one builder of its search index."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from latentdb.base.errors import LatentDBError, LockedError, StoreError
from latentdb.base.files import os_reason, read_limited
from latentdb.store.manifest import FOLDERS, HISTORY, PLAN, QUARANTINE, RECIPES

LOCK = "LOCK"
INDEX_LOCK = "INDEX.LOCK"
_POLL_SECONDS = 0.05
_MAX_BYTES = 500
_COMMITTED = re.compile(rb"[^\n]*\nversion ([0-9]{1,18})\n")

_held: set[int] = set()  # descriptors of the locks of this process


def _close_inherited() -> None:
    """Close the locks that a forked child inherited: they would outlive its parent."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_close_inherited)


class HeldLock:
    """A lock that is held, and the version that its last holder committed.

    The version is what shows that an older manifest was put back.  It is written after the
    manifest is durable, and not synced: after a power cut it may be lost, or that of an
    earlier version, and then it shows less.
    """

    def __init__(self, descriptor: int, holder: str, committed: int) -> None:
        self._descriptor = descriptor
        self._holder = holder
        self.committed = committed

    def record(self, version: int) -> None:
        """Say who holds the lock, and which version is committed; an error is no error."""
        with suppress(OSError):
            self.write(version)

    def write(self, version: int) -> None:
        """As `record`; raises OSError."""
        self.committed = version
        data = f"{self._holder}\nversion {version}\n".encode()
        os.pwrite(self._descriptor, data, 0)  # first: a kill must not lose the version
        os.ftruncate(self._descriptor, len(data))


def committed_version(folder: Path) -> int:
    """The version that the last writer recorded, 0 where that is not known.

    Read before the manifest, it is no later than that, unless an older manifest was put back.
    """
    try:
        return _committed(read_limited(folder / LOCK, _MAX_BYTES))
    except LatentDBError:
        return 0  # nothing but this check relies on it


def _committed(data: bytes) -> int:
    found = _COMMITTED.match(data)
    return int(found[1]) if found else 0


@contextmanager
def writer_lock(folder: Path, timeout: float = 0.0) -> Iterator[HeldLock]:
    """Hold the lock of the only writer; the system frees that of a killed process.

    It is not inherited: a process that was forked meanwhile does not keep it.

    Parameters
    ----------
    folder
        Folder of the store.
    timeout
        Seconds to wait while another process holds it.

    Raises
    ------
    LockedError
        If another process still holds it then; names that process.
    StoreError
        If a folder of the store is a link, or LOCK is no file of its own: writing would
        change files elsewhere.
    """
    with _lock(folder, LOCK, f"{folder} is being written by", timeout) as lock:
        yield lock


@contextmanager
def index_lock(folder: Path, timeout: float = 0.0) -> Iterator[None]:
    """Hold the lock of the only process that builds the search index; rows are written meanwhile.

    Raises as `writer_lock`.
    """
    with _lock(folder, INDEX_LOCK, f"the search index of {folder} is being built by", timeout):
        yield


@contextmanager
def _lock(folder: Path, name: str, busy: str, timeout: float) -> Iterator[HeldLock]:
    deadline = time.monotonic() + timeout
    while True:
        with ExitStack() as lock:
            try:
                held = lock.enter_context(_try_lock(folder, name, busy))
            except LockedError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_POLL_SECONDS)
                continue
            yield held
            return


@contextmanager
def _try_lock(folder: Path, file: str, busy: str) -> Iterator[HeldLock]:
    for name in (*FOLDERS, HISTORY, PLAN, QUARANTINE, RECIPES):
        if os.path.islink(folder / name):
            raise StoreError(
                f"{folder / name} is a link, to which nothing is written: "
                "put the folder itself in its place"
            )
    path = folder / file
    # O_NONBLOCK: opening a pipe must not wait for a reader.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        raise StoreError(f"{path} cannot be opened for writing: {os_reason(error)}") from error
    _held.add(descriptor)
    try:
        try:
            status = os.fstat(descriptor)
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {os_reason(error)}") from error
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise StoreError(
                f"{path} is no file of its own, but a link or a pipe, to which nothing is written: "
                "delete it, the next writer makes it again"
            )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            text = os.pread(descriptor, _MAX_BYTES, 0).decode(errors="replace")
            holder = text.partition("\n")[0].strip()
            raise LockedError(
                f"{busy} {holder or 'another process'}: "
                "wait for it to end, or stop it; reading is possible meanwhile"
            ) from error
        except OSError as error:
            raise StoreError(f"{path} cannot be locked: {os_reason(error)}") from error
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            committed = _committed(os.pread(descriptor, _MAX_BYTES, 0))
            text = f"process {os.getpid()} on {os.uname().nodename} since {since}"
            held = HeldLock(descriptor, text, committed)
            held.write(committed)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {os_reason(error)}") from error
        yield held
    finally:
        if descriptor in _held:  # not in a forked child, which closed it
            _held.discard(descriptor)
            try:
                # Closing is not enough: a copy of the descriptor would keep the lock.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            finally:
                os.close(descriptor)
