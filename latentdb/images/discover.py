"""Find image files in folders, in sorted order and in little memory.

While a large folder is walked, its names are held as packed text: ten million
names take as many bytes as they have characters, not ten million objects.
"""

from __future__ import annotations

import heapq
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.base.files import os_reason
from latentdb.base.wording import counted
from latentdb.images.formats import HEAD_BYTES, SUFFIXES, ending, passed_over_text, sniff
from latentdb.images.selection import EVERYTHING, Selection

_RUN_LENGTH = 100_000  # names of one folder that are sorted, then packed, at a time
_FOLDER_MARK = "\0"  # appended to the name of a folder; sorts before any character of a name


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image file found under a source.

    Attributes
    ----------
    id
        Path relative to the source folder, with ``/``; of a source that is a
        file, its name.  See `Source` for others.
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


@dataclass(frozen=True, slots=True)
class Source:
    """A folder or file to search, and the ids of the images in it.

    Attributes
    ----------
    path
        Absolute path.
    id
        Of a file, its id; of a folder, what ids in it begin with: empty, or with ``/`` at
        the end.
    boundary
        Real path of the folder that links may not lead out of.
    """

    path: str
    id: str
    boundary: str

    @staticmethod
    def of(path: str) -> Source:
        """A source whose ids are relative to itself."""
        if os.path.isdir(path):
            return Source(path, "", os.path.realpath(path))
        return Source(path, os.path.basename(path), os.path.realpath(os.path.dirname(path)))


@dataclass
class Tally:
    """What a search leaves out.

    Attributes
    ----------
    passed_over
        Files that are no images, by their ending ("" for none).
    excluded
        Images and folders that the selection excludes.
    links
        Links that lead out of their root.
    """

    passed_over: Counter[str] = field(default_factory=Counter)
    excluded: int = 0
    links: list[str] = field(default_factory=list)


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
    found = Search.of(sources).candidates()
    return (item if isinstance(item, BadFile) else stat_image(item.id, item.path) for item in found)


class Search:
    """A search of folders and files for images.

    Parameters
    ----------
    sources
        Each is searched by itself: one that lies in another is left out there.
    nested
        What ids below these folders begin with, wherever they are met.
    selection
        Which files are wanted.

    Attributes
    ----------
    tally
        What `candidates` left out so far.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        nested: Mapping[str, str] | None = None,
        selection: Selection = EVERYTHING,
    ) -> None:
        self.sources = tuple({source.path: source for source in sources}.values())
        self.tally = Tally()
        self._nested = nested or {}
        self._selection = selection
        self._given = {source.path for source in self.sources}

    @staticmethod
    def of(sources: Sequence[str | os.PathLike[str]], selection: Selection = EVERYTHING) -> Search:
        """A search of sources whose ids are relative to themselves.

        Raises
        ------
        NotFoundError
            If one does not exist.
        """
        return Search([Source.of(path) for path in check_sources(sources)], selection=selection)

    def candidates(self) -> Iterator[Candidate | BadFile]:
        """The files, in sorted order, without `os.stat`.

        Yields
        ------
        Candidate or BadFile
            A `BadFile` for a folder that cannot be listed and a name that is not UTF-8.
        """
        for number, source in enumerate(self.sources):
            if os.path.isdir(source.path):
                yield from self._walk(number)
            elif self._selection.takes(os.path.basename(source.path)):
                yield _candidate(source.id, source.path, number)
            else:
                self.tally.excluded += 1

    def count(self, stopped: Callable[[], bool] = lambda: False) -> int:
        """The number of items that `candidates` yields, without sorting.

        Parameters
        ----------
        stopped
            Called after each item; True ends the count.
        """
        total = 0
        for _ in self._unordered(Tally()):
            total += 1
            if stopped():
                break
        return total

    def require_images(self) -> None:
        """Check that there is at least one image file, before anything is made for it.

        Raises
        ------
        InvalidInputError
            If there is none.
        """
        # Unordered: sorting would list a large folder to its end for one file.
        tally = Tally()
        if any(True for _ in self._unordered(tally)):
            return
        folders = ", ".join(source.path for source in self.sources)
        endings = ", ".join(sorted(SUFFIXES))
        found = []
        if tally.passed_over:
            found.append(f"only other files ({passed_over_text(tally.passed_over)})")
        if tally.excluded:
            found.append(f"{tally.excluded:,} excluded")
        if tally.links:
            links = counted(len(tally.links), "link")
            found.append(f"{links} out of it, which --follow-links follows ({tally.links[0]})")
        raise InvalidInputError(
            f"no images in {', '.join([folders, *found])}: expected files ending in {endings}"
        )

    def _walk(self, number: int) -> Iterator[Candidate | BadFile]:
        source = self.sources[number]
        # An explicit stack: folders may be nested deeper than Python's recursion limit.
        todo = [_Folder(source.path, source.id, (), iter((_FOLDER_MARK,)))]
        while todo:
            folder = todo[-1]
            entry = next(folder.names, None)
            if entry is None:
                todo.pop()
                continue
            name = entry.rstrip(_FOLDER_MARK)
            path = folder.path + name
            if name == entry:
                yield _candidate(folder.id + name, path, number)
                continue
            real = os.path.realpath(path)
            if real in folder.parents:
                continue
            try:
                with os.scandir(path) as scan:
                    names = _sorted(self._entries(scan, source, self.tally))
            except OSError as error:
                if os.path.lexists(path):  # else it was deleted since its parent was listed
                    yield BadFile(_printable(path), os_reason(error))
                continue
            inner = self._nested.get(path, f"{folder.id}{name}/" if name else folder.id)
            todo.append(_Folder(os.path.join(path, ""), inner, (*folder.parents, real), names))

    def _unordered(self, tally: Tally) -> Iterator[None]:
        """Yield once for every item of `candidates`: nothing is held or sorted."""
        for source in self.sources:
            if not os.path.isdir(source.path):
                if self._selection.takes(os.path.basename(source.path)):
                    yield None
                else:
                    tally.excluded += 1
                continue
            todo: list[tuple[str, tuple[str, ...]]] = [(source.path, ())]
            while todo:
                path, parents = todo.pop()
                real = os.path.realpath(path)
                if real in parents:
                    continue
                try:
                    with os.scandir(path) as scan:
                        for name in self._entries(scan, source, tally):
                            if name.endswith(_FOLDER_MARK):
                                inner = os.path.join(path, name.rstrip(_FOLDER_MARK))
                                todo.append((inner, (*parents, real)))
                            else:
                                yield None
                except OSError:
                    yield None  # `_walk` yields a BadFile

    def _entries(
        self, scan: Iterable[os.DirEntry[str]], source: Source, tally: Tally
    ) -> Iterator[str]:
        """The names in a folder that count: images, and folders with a mark appended."""
        above = len(source.path.rstrip("/")) + 1
        for entry in scan:
            name = entry.name
            if name.startswith(".") or entry.path in self._given:
                continue
            is_folder = _is_folder(entry)
            if not is_folder and not is_image_file(entry.path):
                tally.passed_over[ending(name)] += 1
                continue
            if not self._selection.is_all:
                within = entry.path[above:]
                if not (self._selection.enters if is_folder else self._selection.takes)(within):
                    tally.excluded += 1
                    continue
                if self._leads_out(entry, source):
                    tally.links.append(_printable(entry.path))
                    continue
            yield name + _FOLDER_MARK if is_folder else name

    def _leads_out(self, entry: os.DirEntry[str], source: Source) -> bool:
        if self._selection.follow_links or not entry.is_symlink():
            return False
        real, top = os.path.realpath(entry.path), source.boundary
        return real != top and not real.startswith(os.path.join(top, ""))


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


def _sorted(entries: Iterable[str]) -> Iterator[str]:
    """Names in sorted order; those of a large folder are held as packed runs."""
    runs: list[str] = []
    names: list[str] = []
    for name in entries:
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
