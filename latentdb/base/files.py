"""Durable files: written whole and synced, or absent; checked before they are read.

Every write of a store goes through this module, so that its promises about
crashes and full disks rest on these few calls.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import xxhash

from latentdb.base.errors import (
    CorruptStoreError,
    InvalidInputError,
    LatentDBError,
    NotFoundError,
    StoreError,
)


def as_path(path: str | os.PathLike[str]) -> Path:
    """A path that the system can be asked for.

    Raises
    ------
    InvalidInputError
        If it has a null character.
    """
    if "\0" in os.fspath(path):
        raise InvalidInputError(f"path {os.fspath(path)!r} has a null character")
    return Path(path)


def checksum(data: bytes | memoryview | mmap.mmap) -> str:
    """The 128-bit xxh3 of some bytes, in hex.

    It guards against damage, not against forgery: who can change a segment
    can change its manifest too.
    """
    return xxhash.xxh3_128_hexdigest(data)


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
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreError(f"{folder} cannot be synced: {os_reason(error)}") from error


def make_folder(folder: Path) -> None:
    """Make a folder that may be there.

    Raises
    ------
    StoreError
        If the system cannot.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def write_new(path: Path, data: bytes | memoryview) -> None:
    """Write a file that does not exist yet, and sync it; its folder is not synced.

    Raises
    ------
    StoreError
        If it cannot be written whole; nothing is left of it then.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        remove(path)
        raise _unwritable(path, error) from error


def replace(path: Path, data: bytes) -> None:
    """Put a file in the place of another at once: readers see the one or the other.

    Raises
    ------
    StoreError
        If it cannot be done; the old file is as it was then, unless the last
        sync failed, where either may be found after a power cut.
    """
    temporary = _temporary(path)
    remove(temporary)
    write_new(temporary, data)
    try:
        os.rename(temporary, path)
    except OSError as error:
        remove(temporary)
        raise _unwritable(path, error) from error
    sync_folder(path.parent)


def write_output(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file a user asked for, whole or not at all, making its folder.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    replace(_output(path), data)


@contextmanager
def open_output(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Write a file a user asked for piece by piece: `write_output` for what is too large for it.

    Raises
    ------
    StoreError
        If it cannot be written; an old file is as it was then.
    """
    target = _output(path)
    temporary = _temporary(target)
    remove(temporary)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, target)
    except LatentDBError:
        remove(temporary)
        raise
    except OSError as error:
        remove(temporary)
        raise _unwritable(target, error) from error
    except BaseException:
        remove(temporary)
        raise
    sync_folder(target.parent)


def write_unsynced(path: str, data: bytes) -> None:
    """Write one file of very many into a folder that is there.

    Whoever looks sees it whole or not at all, but it is not synced: a sync
    takes longer than to make the file again.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o644)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except OSError as error:
        remove(Path(temporary))
        raise _unwritable(Path(path), error) from error


def make_output_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder a user asked for, with those above it; it may be there.

    Raises
    ------
    StoreError
        If the system cannot.
    """
    _make_for(Path(path).absolute(), Path(path).absolute())


def _output(path: str | os.PathLike[str]) -> Path:
    """Where a file a user asked for goes, after its folder was made."""
    target = Path(path).absolute()
    _make_for(target, target.parent)
    return target


def _make_for(target: Path, folder: Path) -> None:
    if "\0" in str(target):
        raise StoreError(f"{str(target)!r} cannot be written: it has a null character")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(target, error) from error


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove(path: Path) -> None:
    """Delete a file that may be there; a file that cannot be deleted stays."""
    try:
        os.unlink(path)
    except OSError:
        return


def read_whole(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes, following no link.

    Raises
    ------
    NotFoundError
        If it is not there.
    CorruptStoreError
        If it is a link, no regular file, or larger.
    StoreError
        If the system cannot read it.
    """
    descriptor = _open(path)
    try:
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(data) > limit:
        raise CorruptStoreError(f"{path} has over {limit} bytes: more than it can have")
    return data


def map_sized(path: Path, size: int) -> mmap.mmap:
    """Map a file of a certain size, whose parts are checked when they are used.

    Raises
    ------
    NotFoundError
        If it is not there.
    CorruptStoreError
        If its size is not the one stated.
    StoreError
        If the system cannot read it.
    """
    descriptor = _open(path)
    try:
        found = os.fstat(descriptor).st_size
        view = mmap.mmap(descriptor, found, access=mmap.ACCESS_READ) if found == size else None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)
    if view is None:
        raise CorruptStoreError(f"{path} is damaged: it has {found} bytes, expected {size}")
    return view


def map_checked(path: Path, size: int, expected: str) -> mmap.mmap:
    """Map a file after its size and checksum held.

    Raises
    ------
    NotFoundError, StoreError
        As `map_sized`.
    CorruptStoreError
        If its size or checksum is not the one stated.
    """
    view = map_sized(path, size)
    actual = checksum(view)
    if actual != expected:
        raise CorruptStoreError(
            f"{path} is damaged: its checksum is {actual}, the manifest says {expected}"
        )
    return view


def os_reason(error: OSError) -> str:
    """What the system said, in a few words."""
    return (error.strerror or str(error) or type(error).__name__).lower()


def _open(path: Path) -> int:
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


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path} cannot be written: {os_reason(error)}")


def _unreadable(path: Path, error: OSError | ValueError) -> StoreError:
    reason = os_reason(error) if isinstance(error, OSError) else str(error)
    return StoreError(f"{path} cannot be read: {reason}")
