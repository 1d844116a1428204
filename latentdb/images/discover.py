"""Find image files in folders, in sorted order and in little memory.

While a large folder is walked, its names are held as packed text: ten million
names take as many bytes as they have characters, not ten million objects.
"""

from __future__ import annotations

import heapq
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.base.files import os_reason
from latentdb.images.formats import HEAD_BYTES, SUFFIXES, ending, passed_over_text, sniff

_RUN_LENGTH = 100_000  # names of one folder that are sorted, then packed, at a time
_FOLDER_MARK = "\0"  # appended to the name of a folder; sorts before any character of a name


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image file found under a source.

    Attributes
    ----------
    id
        Path relative to the source folder, with ``/``; of a source that is a
        file, its name.
    path
        Absolute path.
    size, mtime_ns
        Size in bytes and modification time when it was found.
    """

    id: str
    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that was skipped, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that is an image by its name, before `os.stat`.

    Attributes
    ----------
    id, path
        As in `ImageFile`.
    source
        Number of the source it is in.
    """

    id: str
    path: str
    source: int


def discover(sources: Sequence[str | os.PathLike[str]]) -> Iterator[ImageFile | BadFile]:
    """Find image files: folders recursively in sorted order, files as given.

    In a folder, only files with an image suffix count, and those without any
    ending whose first bytes are those of an image; hidden files and folders do
    not.  Links are followed, except back to a folder that contains them.

    Parameters
    ----------
    sources
        Folders and files.

    Yields
    ------
    ImageFile or BadFile
        A `BadFile` for a folder that cannot be listed, and for a file that is
        missing or not a regular file.

    Raises
    ------
    NotFoundError
        If a source does not exist; before anything is yielded.
    """
    found = find_candidates(sources)
    return (item if isinstance(item, BadFile) else stat_image(item.id, item.path) for item in found)


def find_candidates(
    sources: Sequence[str | os.PathLike[str]], passed_over: Counter[str] | None = None
) -> Iterator[Candidate | BadFile]:
    """Find the files of `discover`, in the same order, without `os.stat`.

    Parameters
    ----------
    passed_over
        Gets the number of files in folders that are no images, by their ending.

    Yields
    ------
    Candidate or BadFile
        A `BadFile` for a folder that cannot be listed and a name that is not UTF-8.

    Raises
    ------
    NotFoundError
        If a source does not exist; before anything is yielded.
    """
    return _find(check_sources(sources), Counter() if passed_over is None else passed_over)


def check_sources(sources: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Absolute paths of sources, all of which exist.

    Raises
    ------
    NotFoundError
        If one does not exist.
    InvalidInputError
        If there are none, or one is the empty text.
    """
    if not all(os.fspath(source) for source in sources):
        raise InvalidInputError("a source is an empty text: give a folder or image files")
    paths = [os.path.abspath(source) for source in sources]
    if not paths:
        raise InvalidInputError("no images were given: give a folder or image files")
    for path in paths:
        if not os.path.exists(path):
            raise NotFoundError(f"{path} does not exist: give a folder or image files")
    return paths


def require_images(sources: Sequence[str | os.PathLike[str]]) -> None:
    """Check that there is at least one image file, before anything is made for it.

    Raises
    ------
    NotFoundError
        If a source does not exist.
    InvalidInputError
        If there is no image file in any of them.
    """
    others: Counter[str] = Counter()
    for path in check_sources(sources):
        # Unordered: sorting would list a large folder to its end for one file.
        if not os.path.isdir(path) or any(True for _ in _walk_unordered(path, others)):
            return
    folders = ", ".join(os.fspath(source) for source in sources)
    endings = ", ".join(sorted(SUFFIXES))
    found = f", only other files ({passed_over_text(others)})" if others else ""
    raise InvalidInputError(f"no images in {folders}{found}: expected files ending in {endings}")


def count_candidates(
    sources: Sequence[str | os.PathLike[str]], stopped: Callable[[], bool] = lambda: False
) -> int:
    """The number of items that `find_candidates` yields, without sorting.

    Parameters
    ----------
    stopped
        Called after each item; True ends the count.
    """
    total = 0
    for path in check_sources(sources):
        if not os.path.isdir(path):
            total += 1
            continue
        for _ in _walk_unordered(path, Counter()):
            total += 1
            if stopped():
                return total
    return total


def stat_image(id: str, path: str) -> ImageFile | BadFile:
    """A candidate with its size and modification time."""
    try:
        status = os.stat(path)
    except OSError as error:
        return BadFile(path, os_reason(error))
    if not stat.S_ISREG(status.st_mode):
        return BadFile(path, "not a regular file")
    return ImageFile(id, path, status.st_size, status.st_mtime_ns)


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image in a folder."""
    # Without a dot rfind gives -1: the last character, which is not a suffix.
    return not name.startswith(".") and name[name.rfind(".") :].lower() in SUFFIXES


def is_image_file(path: str) -> bool:
    """Whether a file in a folder counts as an image: by its ending, or without one by content."""
    name = os.path.basename(path)
    if is_image_name(name):
        return True
    if name.startswith(".") or ending(name) or not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return sniff(file.read(HEAD_BYTES)) is not None
    except (OSError, ValueError):
        return False


def _find(paths: Sequence[str], passed_over: Counter[str]) -> Iterator[Candidate | BadFile]:
    for number, path in enumerate(paths):
        if os.path.isdir(path):
            yield from _walk(path, number, passed_over)
        else:
            yield _candidate(Path(path).name, path, number)


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder that is being walked.

    Attributes
    ----------
    path, id
        What the paths and ids in it begin with.
    parents
        Real paths of the folders above it.
    names
        Those still to come.
    """

    path: str
    id: str
    parents: tuple[str, ...]
    names: Iterator[str]


def _walk(top: str, source: int, passed_over: Counter[str]) -> Iterator[Candidate | BadFile]:
    # An explicit stack: folders may be nested deeper than Python's recursion limit.
    todo = [_Folder(top, "", (), iter((_FOLDER_MARK,)))]
    while todo:
        folder = todo[-1]
        entry = next(folder.names, None)
        if entry is None:
            todo.pop()
            continue
        name = entry.rstrip(_FOLDER_MARK)
        path = folder.path + name
        if name == entry:
            yield _candidate(folder.id + name, path, source)
            continue
        real = os.path.realpath(path)
        if real in folder.parents:
            continue
        try:
            with os.scandir(path) as scan:
                names = _sorted_entries(scan, passed_over)
        except OSError as error:
            yield BadFile(_printable(path), os_reason(error))
            continue
        inner = f"{folder.id}{name}/" if name else ""
        todo.append(_Folder(os.path.join(path, ""), inner, (*folder.parents, real), names))


def _walk_unordered(top: str, passed_over: Counter[str]) -> Iterator[None]:
    """Yield once for every item of `_walk`: nothing is held or sorted."""
    todo: list[tuple[str, tuple[str, ...]]] = [(top, ())]
    while todo:
        path, parents = todo.pop()
        real = os.path.realpath(path)
        if real in parents:
            continue
        try:
            with os.scandir(path) as scan:
                for name in _entries(scan, passed_over):
                    if name.endswith(_FOLDER_MARK):
                        inner = os.path.join(path, name.rstrip(_FOLDER_MARK))
                        todo.append((inner, (*parents, real)))
                    else:
                        yield None
        except OSError:
            yield None  # `_walk` yields a BadFile


def _entries(scan: Iterable[os.DirEntry[str]], passed_over: Counter[str]) -> Iterator[str]:
    """The names in a folder that count: images, and folders with a mark appended."""
    for entry in scan:
        name = entry.name
        if name.startswith("."):
            continue
        if _is_folder(entry):
            yield name + _FOLDER_MARK
        elif is_image_name(name) or (not ending(name) and is_image_file(entry.path)):
            yield name
        else:
            passed_over[ending(name)] += 1


def _sorted_entries(scan: Iterable[os.DirEntry[str]], passed_over: Counter[str]) -> Iterator[str]:
    """The names in a folder in sorted order; those of a large folder are held as packed runs."""
    runs: list[str] = []
    names: list[str] = []
    for name in _entries(scan, passed_over):
        names.append(name)
        if len(names) == _RUN_LENGTH:
            runs.append("/".join(sorted(names)))  # no name contains a slash
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
        return False  # `stat_image` gives the reason


def _candidate(name: str, path: str, source: int) -> Candidate | BadFile:
    try:
        path.encode()
    except UnicodeEncodeError:
        return BadFile(_printable(path), "name is not valid UTF-8")
    return Candidate(name, path, source)


def _printable(path: str) -> str:
    return os.fsencode(path).decode(errors="replace")
