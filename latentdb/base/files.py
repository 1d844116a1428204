"""Durable files: written whole and synced, or not at all; verified before they are read.

Every write of a store goes through this module, so its behaviour in a crash or
on a full disk is decided here.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import resource
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from latentdb.base.errors import (
    CorruptStoreError,
    InvalidInputError,
    LatentDBError,
    NotFoundError,
    StoreError,
)

_TEMPORARY = r"\.([0-9]+)(?:-[0-9a-f]{8})?\.tmp"  # ending of a temporary name, with the process
_MAX_WRITING_SECONDS = 86_400  # since the last write to a temporary file: its process has ended
_TICK_NS = 50_000_000  # clocks of file systems tick every 1 to 10 ms
_READ_BYTES = 4 << 20  # at a time, of a file that is read whole


# fsync of macOS leaves data in the cache of the drive, which a power cut empties.
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
_NO_FULL_SYNC = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY}  # file systems say
# A smaller file is read: mapped, it would keep a descriptor.  Reading 100 files of this size takes
# 3 ms longer than mapping them, of 1 MiB 46 ms.
READ_BELOW = 1 << 16

_FREE_DESCRIPTORS = 32  # how near to the limit of open files it is raised
_MOST_DESCRIPTORS = 10_240  # macOS says unlimited, and refuses more


def as_path(path: str | os.PathLike[str]) -> Path:
    """A path without a null character.

    Raises
    ------
    InvalidInputError
        If it has one.
    """
    if "\0" in os.fspath(path):
        raise InvalidInputError(f"path {os.fspath(path)!r} has a null character")
    return Path(path)


def checksum(data: bytes | memoryview | mmap.mmap) -> str:
    """The 128-bit xxh3 of some bytes, in hex.

    It detects damage, not tampering: whoever can change a segment can change
    the checksum in the manifest too.
    """
    return xxhash.xxh3_128_hexdigest(data)


# --- writing a store -------------------------------------------------------------------


def sync(descriptor: int) -> None:
    """Make what was written to a file, or the names in a folder, survive a power cut."""
    if _FULL_SYNC is not None:
        try:
            fcntl.fcntl(descriptor, _FULL_SYNC)
            return
        except OSError as error:
            if error.errno not in _NO_FULL_SYNC:
                raise
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable.

    Raises
    ------
    StoreError
        If the system cannot.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreError(f"{folder} cannot be synced: {os_reason(error)}") from error


@contextmanager
def open_folder(folder: Path, *, follow: bool = False) -> Iterator[int]:
    """A descriptor of a folder, for `dir_fd`; a link is refused unless it is to be followed.

    Raises
    ------
    NotFoundError
        If it does not exist.
    StoreError
        If it is a link, or the system cannot open it.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(folder, flags)
    except FileNotFoundError as error:
        raise NotFoundError(f"{folder} is missing") from error
    except OSError as error:
        if not follow and folder.is_symlink():
            raise StoreError(
                f"{folder} is a link, to which nothing is written: "
                "put the folder itself in its place"
            ) from error
        raise StoreError(f"{folder} cannot be opened: {os_reason(error)}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, unless it exists.

    Raises
    ------
    StoreError
        If the system cannot.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def write_new(path: Path, data: bytes | memoryview) -> None:
    """Write a file that does not exist yet, and sync it; its folder is not synced.

    Raises
    ------
    StoreError
        If it exists, its folder is a link, or it cannot be written whole; no part of it
        is left then.
    """
    _write_new(path, data, follow=False)


def _write_new(path: Path, data: bytes | memoryview, *, follow: bool) -> None:
    try:
        with open_folder(path.parent, follow=follow) as folder:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(path.name, flags, 0o644, dir_fd=folder)
            try:
                try:
                    write_all(descriptor, data)
                    sync(descriptor)
                finally:
                    os.close(descriptor)
            except OSError:
                with suppress(OSError):
                    os.unlink(path.name, dir_fd=folder)
                raise
    except NotFoundError:
        missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        raise unwritable(path, missing) from missing
    except StoreError:
        raise
    except OSError as error:
        raise unwritable(path, error) from error


def replace_atomically(path: Path, data: bytes, before: Callable[[], None] | None = None) -> None:
    """Write a file and sync it; readers see the old content or the new, never a mixture.

    Its folder may be a link, as the path of a store may be.

    Parameters
    ----------
    path, data
        The file, and its new content.
    before
        Called when the new content is safe, before it replaces the old one.

    Raises
    ------
    StoreError
        If it cannot be written.  The old file is unchanged then, unless only the
        sync of the folder failed: after a power cut either may be found.
    """
    sweep(path.parent, re.escape(path.name))
    temporary = temporary_path(path)
    _write_new(temporary, data, follow=True)
    try:
        if before is not None:
            before()
        os.rename(temporary, path)
    except StoreError:
        try_remove(temporary)
        raise
    except OSError as error:
        try_remove(temporary)
        raise unwritable(path, error) from error
    sync_folder(path.parent)


def link_or_copy(source: Path, target: Path, size: int, expected: str) -> None:
    """Give an immutable file a second name, in place of what has it; else a verified copy.

    Raises
    ------
    NotFoundError, CorruptStoreError, StoreError
        If it cannot be read, is damaged where it is copied, or cannot be written.
    """
    link_over(source, target, lambda: map_checked(source, size, expected))


def link_over(source: Path, target: Path, read: Callable[[], bytes | mmap.mmap]) -> None:
    """Give a file a second name, atomically in place of what has it; not synced.

    Where the file system has no links, or the two are on different ones, what `read` gives
    is written.

    Raises
    ------
    StoreError
        If it cannot be written, and what `read` raises.
    """
    temporary = temporary_path(target)
    try:
        try:
            os.link(source, temporary, follow_symlinks=False)
        except OSError:
            _write_new(temporary, memoryview(read()), follow=True)
        os.rename(temporary, target)
    except StoreError:
        raise
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        try_remove(temporary)  # rename does nothing where both are names of one file already


def try_remove(path: Path) -> None:
    """Delete a file; one that is missing or cannot be deleted is no error."""
    try:
        os.unlink(path)
    except OSError:
        return


# --- temporary names ---------------------------------------------------------------------


def is_temporary(path: Path) -> bool:
    """Whether a file or folder has the name of one that was not written whole."""
    return re.fullmatch(rf"\..+{_TEMPORARY}", path.name) is not None


def temporary_path(path: Path) -> Path:
    """A new name beside a file; no other thread or process has it."""
    return path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")


def sweep(folder: Path, names: str) -> None:
    """Delete the temporary files, of names that match a pattern, that killed processes left."""
    form = re.compile(rf"\.{names}{_TEMPORARY}")
    try:
        found = [match for name in os.listdir(folder) if (match := form.fullmatch(name))]
    except OSError:
        return
    for match in found:
        path = folder / match[0]
        if _is_abandoned(path, int(match[1])):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                try_remove(path)


def _is_abandoned(path: Path, process: int) -> bool:
    """Whether a process has ended that was writing a temporary file, or must have."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass  # it runs, as another user; or it is no process number
    try:
        return time.time() - path.lstat().st_mtime > _MAX_WRITING_SECONDS
    except OSError:
        return False


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all bytes to a descriptor."""
    rest = memoryview(data)
    while rest:  # a write may be short
        rest = rest[os.write(descriptor, rest) :]


# --- reading ---------------------------------------------------------------------------


def read_limited(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes; links are not followed.

    Raises
    ------
    NotFoundError
        If it does not exist.
    CorruptStoreError
        If it is a link, not a regular file, or larger.
    StoreError
        If the system cannot read it.
    """
    descriptor = _open(path)
    try:
        with os.fdopen(descriptor, "rb") as file:
            # Python allocates what is asked for, and a forged manifest may allow any size.
            data = file.read(min(limit, os.fstat(descriptor).st_size) + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(data) > limit:
        raise CorruptStoreError(f"{path} has over {limit} bytes: more than it can have")
    return data


def map_sized(path: Path, size: int) -> mmap.mmap:
    """Map a file whose size is known, without a checksum: its blocks are checked when used.

    Raises
    ------
    NotFoundError
        If it does not exist.
    CorruptStoreError
        If it has another size.
    StoreError
        If the system cannot read it.
    """
    descriptor = _open(path)
    try:
        actual = os.fstat(descriptor).st_size
        _keep_descriptors_free(descriptor)
        view = mmap.mmap(descriptor, actual, access=mmap.ACCESS_READ) if actual == size else None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)
    if view is None:
        raise CorruptStoreError(f"{path} is damaged: it has {actual} bytes, expected {size}")
    return view


def read_or_map(path: Path, size: int) -> bytes | mmap.mmap:
    """The content of a file whose size is known: read if it is small, else mapped.

    Raises
    ------
    NotFoundError, CorruptStoreError, StoreError
        As `map_sized`.
    """
    if size >= READ_BELOW:
        return map_sized(path, size)
    descriptor = _open(path)
    try:
        with os.fdopen(descriptor, "rb") as file:
            actual = os.fstat(descriptor).st_size
            data = file.read(size) if actual == size else b""
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(data) != size:
        raise CorruptStoreError(f"{path} is damaged: it has {actual} bytes, expected {size}")
    return data


def map_checked(path: Path, size: int, expected: str) -> mmap.mmap:
    """Map a file after its size and its checksum were verified.

    Raises
    ------
    NotFoundError, StoreError
        As `map_sized`.
    CorruptStoreError
        If it has another size or checksum.
    """
    view = map_sized(path, size)
    compare_checksum(path, checksum(view), expected)
    return view


def check_file(path: Path, size: int, expected: str) -> None:
    """Read a whole file, and compare its size and its checksum.

    It is read, not mapped: where the disk fails under a mapped page, SIGBUS ends the process.

    Raises
    ------
    NotFoundError, CorruptStoreError, StoreError
        As `map_checked`.
    """
    digest, actual = xxhash.xxh3_128(), 0
    try:
        with os.fdopen(_open(path), "rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
                actual += len(block)
    except OSError as error:
        if isinstance(error, LatentDBError):
            raise
        raise _unreadable(path, error) from error
    if actual != size:
        raise CorruptStoreError(f"{path} is damaged: it has {actual} bytes, expected {size}")
    compare_checksum(path, digest.hexdigest(), expected)


def compare_checksum(path: Path, actual: str, expected: str) -> None:
    """Refuse a file whose checksum is not the one in the manifest.

    Raises
    ------
    CorruptStoreError
        If it differs.
    """
    if actual != expected:
        raise CorruptStoreError(
            f"{path} is damaged: its checksum is {actual}, the manifest says {expected}"
        )


def os_reason(error: OSError) -> str:
    """The reason the system gave, in lower case."""
    return (error.strerror or str(error) or type(error).__name__).lower()


def _open(path: Path) -> int:
    # O_NONBLOCK: opening a pipe must not wait for a writer.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is missing") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise CorruptStoreError(f"{path} cannot be read: it is a link") from error
        raise _unreadable(path, error) from error
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError as error:
        os.close(descriptor)
        raise _unreadable(path, error) from error
    if not regular:
        os.close(descriptor)
        raise CorruptStoreError(f"{path} is not a regular file")
    return descriptor


def _keep_descriptors_free(descriptor: int) -> None:
    """Raise the soft limit of open files before it is reached: each mapped file takes one.

    By default it is 1,024 on Linux and 256 on macOS, and far below the hard limit.
    """
    next_free = os.dup(descriptor)
    os.close(next_free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or next_free < soft - _FREE_DESCRIPTORS:
        return
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if most > soft:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def unwritable(path: Path, error: OSError) -> StoreError:
    """The error of a path that the system cannot write."""
    return StoreError(f"{path} cannot be written: {os_reason(error)}")


def _unreadable(path: Path, error: OSError | ValueError) -> StoreError:
    reason = os_reason(error) if isinstance(error, OSError) else str(error)
    return StoreError(f"{path} cannot be read: {reason}")


def stamp(file: str) -> tuple[int, int, int] | None:
    """Inode, time and size of a file; None where they cannot identify what it holds."""
    try:
        status = os.stat(file)  # a Path would take microseconds
    except OSError:
        return None
    if time.time_ns() - status.st_mtime_ns < _TICK_NS:
        return None  # within a tick of the clock an inode can be reused with the same time
    return status.st_ino, status.st_mtime_ns, status.st_size
