"""Image files in folders: found one after the other, however many there are.

Folders are searched in sorted order.  Of a folder with very many files the
names alone are kept, packed, while it is searched: ten million of them take
the bytes they are long, not ten million Python objects.
"""

from __future__ import annotations

import heapq
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.base.files import os_reason

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
)
_RUN = 100_000  # names of one folder that are sorted at a time
_FOLDER = "\0"  # after the name of a folder; sorts before all that a name may have


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image file found under a source.

    Attributes
    ----------
    id
        Path relative to the folder given, with ``/``; the name of a file given
        by itself.
    path
        Absolute path.
    size, mtime_ns
        Bytes and time of the last change when it was found.
    """

    id: str
    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that was skipped, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Name:
    """A file that a search met and nobody has looked at yet.

    Attributes
    ----------
    id, path
        As of an `ImageFile`.
    source
        Number of the source it is from.
    """

    id: str
    path: str
    source: int


def discover(sources: Sequence[str | os.PathLike[str]]) -> Iterator[ImageFile | BadFile]:
    """Find image files: folders recursively in sorted order, files as given.

    In folders only names with an image suffix count, and hidden names do not.
    Links are followed, except back to a folder that is being searched.

    Parameters
    ----------
    sources
        Folders and files.

    Yields
    ------
    ImageFile or BadFile
        A `BadFile` where a folder or a file cannot be looked at.

    Raises
    ------
    NotFoundError
        If a source does not exist; before anything is yielded.
    """
    found = search(sources)
    return (item if isinstance(item, BadFile) else look(item.id, item.path) for item in found)


def search(sources: Sequence[str | os.PathLike[str]]) -> Iterator[Name | BadFile]:
    """Find the names that `discover` would look at, in the same order.

    Yields
    ------
    Name or BadFile
        A `BadFile` where a folder cannot be read or a name is no text.

    Raises
    ------
    NotFoundError
        If a source does not exist; before anything is yielded.
    """
    return _search(check_sources(sources))


def check_sources(sources: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Absolute paths of sources, all of which must be there.

    Raises
    ------
    NotFoundError
        If one does not exist.
    InvalidInputError
        If there is none, or one is the empty text.
    """
    if not all(os.fspath(source) for source in sources):
        raise InvalidInputError("a source is the empty text: give a folder or image files")
    paths = [os.path.abspath(source) for source in sources]
    if not paths:
        raise InvalidInputError("no images were named: give a folder or image files")
    for path in paths:
        if not os.path.exists(path):
            raise NotFoundError(f"{path} does not exist: give a folder or image files")
    return paths


def require_images(sources: Sequence[str | os.PathLike[str]]) -> None:
    """Make sure that there is something to read, before anything is made for it.

    Raises
    ------
    NotFoundError
        If a source does not exist.
    InvalidInputError
        If there is no image file in any.
    """
    for path in check_sources(sources):
        # In no order, so that a large folder is not read to its end for its first file.
        if not os.path.isdir(path) or any(True for _ in _tally(path)):
            return
    named = ", ".join(os.fspath(source) for source in sources)
    endings = ", ".join(sorted(SUFFIXES))
    raise InvalidInputError(f"no images in {named}: expected files ending in {endings}")


def count(
    sources: Sequence[str | os.PathLike[str]], stopped: Callable[[], bool] = lambda: False
) -> int:
    """How many items `search` yields; cheaper, and given up when `stopped` says so."""
    total = 0
    for path in check_sources(sources):
        if not os.path.isdir(path):
            total += 1
            continue
        for _ in _tally(path):
            total += 1
            if stopped():
                return total
    return total


def look(name: str, path: str) -> ImageFile | BadFile:
    """The size and time of a file that was found.

    Parameters
    ----------
    name
        Its id.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        return BadFile(path, os_reason(error))
    if not stat.S_ISREG(status.st_mode):
        return BadFile(path, "not a regular file")
    return ImageFile(name, path, status.st_size, status.st_mtime_ns)


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts in a folder."""
    # What has no dot, or ends in one, is left with a text that is no suffix.
    return not name.startswith(".") and name[name.rfind(".") :].lower() in SUFFIXES


def _search(paths: Sequence[str]) -> Iterator[Name | BadFile]:
    for number, path in enumerate(paths):
        if os.path.isdir(path):
            yield from _walk(path, number)
        else:
            yield _named(Path(path).name, path, number)


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder that is being searched: what its paths and ids begin with, and those above it."""

    path: str
    id: str
    parents: tuple[str, ...]
    names: Iterator[str]


def _walk(top: str, source: int) -> Iterator[Name | BadFile]:
    # A stack of its own: folders may lie deeper than Python's goes.
    todo = [_Folder(top, "", (), iter((_FOLDER,)))]
    while todo:
        folder = todo[-1]
        marked = next(folder.names, None)
        if marked is None:
            todo.pop()
            continue
        name = marked.rstrip(_FOLDER)
        path = folder.path + name
        if name == marked:
            yield _named(folder.id + name, path, source)
            continue
        real = os.path.realpath(path)
        if real in folder.parents:
            continue
        try:
            with os.scandir(path) as scan:
                names = _sorted(scan)
        except OSError as error:
            yield BadFile(_readable(path), os_reason(error))
            continue
        inner = f"{folder.id}{name}/" if name else ""
        todo.append(_Folder(os.path.join(path, ""), inner, (*folder.parents, real), names))


def _tally(top: str) -> Iterator[None]:
    """Yield once for every item below a folder, in no order: nothing is kept or sorted."""
    todo: list[tuple[str, tuple[str, ...]]] = [(top, ())]
    while todo:
        path, parents = todo.pop()
        real = os.path.realpath(path)
        if real in parents:
            continue
        try:
            with os.scandir(path) as scan:
                for name in _entries(scan):
                    if name.endswith(_FOLDER):
                        inner = os.path.join(path, name.rstrip(_FOLDER))
                        todo.append((inner, (*parents, real)))
                    else:
                        yield None
        except OSError:
            yield None  # `search` names it


def _entries(scan: Iterable[os.DirEntry[str]]) -> Iterator[str]:
    """What counts in a folder: images, and folders with their mark."""
    for entry in scan:
        name = entry.name
        if name.startswith("."):
            continue
        if _is_folder(entry):
            yield name + _FOLDER
        elif is_image_name(name):
            yield name


def _sorted(scan: Iterable[os.DirEntry[str]]) -> Iterator[str]:
    """The whole of a folder in order: small ones as they are, large ones as packed runs."""
    runs: list[str] = []
    names: list[str] = []
    for name in _entries(scan):
        names.append(name)
        if len(names) == _RUN:
            runs.append("/".join(sorted(names)))  # the one sign, besides null, no name has
            names = []
    names.sort()
    return heapq.merge(*map(_unpacked, runs), names) if runs else iter(names)


def _unpacked(run: str) -> Iterator[str]:
    start = 0
    while (end := run.find("/", start)) >= 0:
        yield run[start:end]
        start = end + 1
    yield run[start:]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # said of it as of a file


def _named(name: str, path: str, source: int) -> Name | BadFile:
    try:
        path.encode()
    except UnicodeEncodeError:
        return BadFile(_readable(path), "name is not valid UTF-8")
    return Name(name, path, source)


def _readable(path: str) -> str:
    return os.fsencode(path).decode(errors="replace")
