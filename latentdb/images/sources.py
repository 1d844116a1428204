"""The sources of images that are no folders: which file is one, and an image in it read back.

The path of such an image is that of its archive, ``!`` and its name in there, as in
``shards/0.tar!cat/1.jpg``.  It is read back as a file is.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from itertools import islice

from latentdb.base.errors import ImageError
from latentdb.images.archives import TAR_ENDINGS, TarSource, ZipSource
from latentdb.images.arrays import IdxSource, NpySource, NpzSource
from latentdb.images.discover import BadFile, Search, check_sources
from latentdb.images.members import ImageSource, Member, reading
from latentdb.images.parquet import ParquetSource
from latentdb.images.selection import EVERYTHING, Selection

_MOST_ENTRIES = 100_000  # of a folder that may hold shards
_BESIDE_SHARDS = (".json", ".txt", ".md", ".idx", ".csv")

PathLike = str | os.PathLike[str]


def split_member_path(path: str) -> tuple[str, str] | None:
    """Archive and name of the path of a member; None for other paths."""
    place = path.find("!")
    while place >= 0:
        archive, name = path[:place], path[place + 1 :]
        if name and source_type(archive) is not None:
            return archive, name
        place = path.find("!", place + 1)
    return None


def source_type(path: str) -> Callable[[str], ImageSource] | None:
    """What reads a file of this name as an archive of images; None for other names."""
    name = os.path.basename(path).lower()
    if name.endswith(TAR_ENDINGS):
        return TarSource
    if name.removesuffix(".gz").endswith(("-idx3-ubyte", ".idx3-ubyte", "-idx4-ubyte")):
        return IdxSource
    endings: dict[str, Callable[[str], ImageSource]] = {
        ".zip": ZipSource,
        ".npz": NpzSource,
        ".npy": NpySource,
        ".parquet": ParquetSource,
    }
    return endings.get(os.path.splitext(name)[1])


def image_exists(path: str) -> bool:
    """Whether there is a file at a path, or the archive that it names a member of."""
    if os.path.exists(path):
        return True
    parts = split_member_path(path)
    return parts is not None and os.path.exists(parts[0])


def read_member(path: str) -> bytes:
    """The content of an image in an archive.

    Raises
    ------
    ImageError
        If there is no such archive, or no such image in it.
    """
    parts = split_member_path(path)
    if parts is None:
        raise ImageError(path, "no such file or directory")
    archive, name = parts
    make = source_type(archive)
    with reading(path):
        for _, read in () if make is None else make(archive).find([name]):
            return read()
    raise ImageError(path, f"{os.path.basename(archive)} has no such image")


def read_members(archive: str, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Names and contents of images in an archive, in one pass; without those not to be read."""
    make = source_type(archive)
    if make is None:
        return
    with suppress(ImageError), reading(archive):
        for name, read in make(archive).find(names):
            with suppress(ImageError), reading(archive):
                data = read()
                yield name, data


def split_sources(sources: Sequence[PathLike]) -> tuple[list[str], list[str]]:
    """Absolute paths of folders and image files, and of archives, of which patterns are found.

    A folder with nothing but archives in it stands for these, in the order of their names.

    Raises
    ------
    NotFoundError, InvalidInputError
        As `latentdb.images.discover.check_sources`.
    """
    found: list[PathLike] = []
    for source in sources:
        text = os.fspath(source)
        matches = [] if os.path.exists(text) else sorted(glob.glob(text))
        found += matches or [source]
    files: list[str] = []
    archives: list[str] = []
    for path in check_sources(found):
        if os.path.isdir(path):
            shards = _shards(path)
            archives += shards
            files += [] if shards else [path]
        else:
            (files if source_type(path) is None else archives).append(path)
    return files, list(dict.fromkeys(archives))


def require_images(
    sources: Sequence[PathLike], selection: Selection = EVERYTHING
) -> tuple[list[str], list[str]]:
    """Check that there are image files or archives; as `split_sources`.

    Raises
    ------
    NotFoundError, InvalidInputError
        If a source does not exist, or there is no image in them.
    """
    files, archives = split_sources(sources)
    if not archives:
        Search.of(files, selection).require_images()
    return files, archives


def members_of(archive: str) -> Iterator[Member | BadFile | None]:
    """The images in an archive: see `latentdb.images.members.ImageSource`."""
    make = source_type(archive)
    return iter(()) if make is None else make(archive).members()


def _shards(folder: str) -> list[str]:
    """The archives in a folder that has nothing else; empty for another folder."""
    shards = []
    try:
        with os.scandir(folder) as scan:
            # The first image ends it: a folder may be large, and is listed by the search.
            for entry in islice(scan, _MOST_ENTRIES):
                if entry.name.startswith(".") or entry.name.lower().endswith(_BESIDE_SHARDS):
                    continue
                if source_type(entry.path) is None or not entry.is_file():
                    return []
                shards.append(entry.path)
    except OSError:
        return []
    return sorted(shards)
