"""Files that a user asked for: written whole, and replacing no other unless that is asked for."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TextIO

from latentdb.base.errors import AlreadyExistsError, LatentDBError, StoreError
from latentdb.base.files import (
    sweep,
    sync,
    sync_folder,
    temporary_path,
    try_remove,
    unwritable,
    write_all,
    write_new,
)

STDOUT = "-"  # the path that stands for it
_stdout: list[TextIO] = []  # while text goes elsewhere


@dataclass(frozen=True)
class Output(os.PathLike[str]):
    """A path that a user asked to be written, and what may be replaced there.

    A path that is given without one replaces nothing.

    Attributes
    ----------
    path
        Where to write.
    overwrite
        Whether a file that exists is replaced.
    find_protected
        The first of some paths that is never replaced, or None: an image of the user's.
    """

    path: str
    overwrite: bool = False
    find_protected: Callable[[Sequence[str]], str | None] | None = None

    def __fspath__(self) -> str:
        return self.path

    def check(self, paths: Sequence[str] | None = None) -> None:
        """Refuse what would be replaced and may not be; of the path, or of paths below it.

        Raises
        ------
        AlreadyExistsError, StoreError
            Names the first such path.
        """
        paths = [self.path] if paths is None else paths
        if list(paths) == [STDOUT]:
            return
        protected = None if self.find_protected is None else self.find_protected(paths)
        if protected is not None:
            raise AlreadyExistsError(
                f"{protected} is part of the store or the image of one of its rows, "
                "which no output replaces: give another path"
            )
        for path in paths:
            _check_replaceable(path, overwrite=self.overwrite)


def as_output(path: str | os.PathLike[str]) -> Output:
    """A path as an output, which replaces nothing unless it is one that says otherwise."""
    return path if isinstance(path, Output) else Output(os.fspath(path))


def _check_replaceable(path: str, *, overwrite: bool) -> None:
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return  # it does not exist; or writing to it fails, and says why
    if stat.S_ISDIR(mode):
        raise unwritable(Path(path), IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise StoreError(f"{path} cannot be written: it is a device or a pipe")
    if not overwrite:
        raise _exists(path)


def _exists(path: str | os.PathLike[str]) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"{os.fspath(path)} exists: give another path, or replace it with --force (overwrite=True)"
    )


def _move(temporary: Path | str, path: Path | str, *, overwrite: bool) -> None:
    """Give a file that was written whole its name; a file that has it is not replaced unasked."""
    if overwrite:
        os.rename(temporary, path)
        return
    try:
        os.link(temporary, path)  # a rename would replace a file that was made meanwhile
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError:  # a file system without hard links
        _check_replaceable(os.fspath(path), overwrite=False)
        os.rename(temporary, path)
    else:
        os.unlink(temporary)


def write_output(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file atomically, and sync it; its folder is made.

    Raises
    ------
    AlreadyExistsError
        If the file exists, unless `path` is an `Output` that says otherwise.
    StoreError
        If it cannot be written.
    """
    with open_output(path) as file:
        file.write(data)


@contextmanager
def open_stdout() -> Iterator[IO[bytes]]:
    """A temporary file that may be read back; leaving the context copies it to stdout."""
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        stdout = _stdout[-1] if _stdout else sys.stdout
        shutil.copyfileobj(file, stdout.buffer)
        stdout.buffer.flush()


@contextmanager
def text_beside_stdout() -> Iterator[None]:
    """In the context text goes to stderr, so that stdout holds nothing but an output."""
    _stdout.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _stdout.pop()


@contextmanager
def open_output(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Write a file piece by piece; leaving the context gives it its name.

    ``-`` is stdout, which gets the whole of it at the end.  The file may be read back
    while it is written.

    Raises
    ------
    AlreadyExistsError
        As `write_output`.
    StoreError
        If it cannot be written; an old file is unchanged then.
    """
    output = as_output(path)
    if output.path == STDOUT:
        with open_stdout() as file:
            yield file
        return
    output.check()
    target = _output_path(path)
    sweep(target.parent, re.escape(target.name))
    temporary = temporary_path(target)
    try:
        with open(temporary, "x+b") as file:
            yield file
            file.flush()
            sync(file.fileno())
        _move(temporary, target, overwrite=output.overwrite)
    except BaseException as error:
        try_remove(temporary)
        if isinstance(error, OSError) and not isinstance(error, LatentDBError):
            raise unwritable(target, error) from error
        raise
    sync_folder(target.parent)


def write_folder(path: str | os.PathLike[str], files: Mapping[str, bytes]) -> None:
    """Write a folder of files and sync it; it appears whole, or not at all.

    Parameters
    ----------
    path
        Does not exist, or is an empty folder; the folder it is in is made.
    files
        By name.  A killed run leaves the first ones in a folder of another name
        (`is_temporary`), which the next run to the same path deletes.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    with output_folder(path) as folder:
        for name, data in files.items():
            write_new(folder / name, data)


@contextmanager
def output_folder(path: str | os.PathLike[str], *, merge: bool = False) -> Iterator[Path]:
    """Write a folder piece by piece; leaving the context gives it its name.

    Parameters
    ----------
    path
        As of `write_folder`.
    merge
        Put what was written into the folder that has the name, in the place of what has the
        same names there; other files stay.

    Raises
    ------
    StoreError
        If it cannot be written; nothing of it is left then.
    """
    target = _output_path(path)
    sweep(target.parent, re.escape(target.name))
    temporary = temporary_path(target)
    try:
        os.mkdir(temporary)
        yield temporary
        sync_folder(temporary)
        if merge and target.is_dir():
            _merge(temporary, target)
        else:
            os.rename(temporary, target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        cause = error.__cause__ if isinstance(error, StoreError) else error
        if isinstance(cause, OSError) and not isinstance(cause, LatentDBError):
            raise unwritable(target, cause) from error
        raise
    sync_folder(target.parent)


def _merge(folder: Path, target: Path) -> None:
    """Move what is in a folder into another, in the place of what has the same names."""
    for path in sorted(folder.iterdir()):
        other = target / path.name
        if other.is_dir() and not other.is_symlink():
            shutil.rmtree(other)
        os.replace(path, other)
    folder.rmdir()


def check_new_folder(path: str | os.PathLike[str]) -> None:
    """Refuse a path at which `write_folder` would fail, before the work is done.

    Raises
    ------
    AlreadyExistsError
        If it exists and is not an empty folder.
    StoreError
        If it cannot be written.
    """
    target = _output_path(path)
    try:
        if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
            raise AlreadyExistsError(f"{target} exists: give another path, or remove it first")
        temporary = temporary_path(target)
        os.mkdir(temporary)
        os.rmdir(temporary)
    except OSError as error:
        if isinstance(error, LatentDBError):
            raise
        raise unwritable(target, error) from error


def write_unsynced(path: str, data: bytes, *, overwrite: bool = False) -> None:
    """Write one of many files into an existing folder: atomically, but not synced.

    A sync takes longer than decoding the image again.

    Raises
    ------
    AlreadyExistsError
        If the file exists, unless it may be replaced.
    StoreError
        If it cannot be written.
    """
    temporary = temporary_path(Path(path))
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o644)
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)
        _move(temporary, path, overwrite=overwrite)
    except OSError as error:
        try_remove(temporary)
        if isinstance(error, LatentDBError):
            raise
        raise unwritable(Path(path), error) from error


def make_output_folder(path: str | os.PathLike[str], suffix: str, names: Sequence[str]) -> None:
    """Make a folder, whose parent exists, and the folders in it of files to be written there.

    Temporary files that a killed run left there are deleted.

    Parameters
    ----------
    path
        Of the folder, which may exist, and be a link.
    suffix
        Of the files.
    names
        Their relative paths, with ``/``.

    Raises
    ------
    StoreError
        If the system cannot, or a folder in it is a link, which would lead out of it.
    """
    root = Path(path).absolute()
    _make_output_folder(root, root)
    inner = {parent for name in names for parent in Path(name).parents} - {Path()}
    for folder in (root, *(root / part for part in sorted(inner))):
        if folder != root and folder.is_symlink():
            raise StoreError(f"{folder} is a link, to which nothing is written: remove it first")
        _make_output_folder(folder, folder)
        sweep(folder, ".*" + re.escape(suffix))


def _output_path(path: str | os.PathLike[str]) -> Path:
    """The absolute path of an output file, whose folder is made."""
    target = Path(path).absolute()
    _make_output_folder(target, target.parent)
    return target


def _make_output_folder(target: Path, folder: Path) -> None:
    """Make the folder of an output: one, as a path of many missing ones is a typing error."""
    if "\0" in str(target):
        raise StoreError(f"{str(target)!r} cannot be written: it has a null character")
    try:
        folder.mkdir(exist_ok=True)
    except FileNotFoundError as error:
        raise StoreError(
            f"{target} cannot be written: there is no folder {folder.parent}: make it first, "
            "or give another path"
        ) from error
    except OSError as error:
        raise unwritable(target, error) from error
