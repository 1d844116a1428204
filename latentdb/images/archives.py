"""Images in tar and zip archives, read where they are: nothing is unpacked to disk."""

from __future__ import annotations

import json
import os
import posixpath
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

from latentdb.base.errors import ImageError
from latentdb.images.discover import BadFile, is_image_name
from latentdb.images.members import Found, Member, Values, check_size, member_path, reading, scalars

_MAX_NOTE_BYTES = 1 << 20  # of a file with metadata beside an image
_KEPT_MEMBERS = 1_000  # headers that tarfile keeps before they are forgotten
_NOTES = (".json", ".cls", ".txt")
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def _clean_name(name: str) -> str | None:
    """The name of a member as an id; None for one that is hidden or leads out of the archive."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return None
    clean = posixpath.normpath(name.replace("\\", "/"))
    parts = clean.split("/")
    if clean.startswith("/") or any(part.startswith(".") or not part for part in parts):
        return None
    return clean


def _key(name: str) -> tuple[str, str]:
    """What the names of a sample of WebDataset share, and the ending of this one."""
    folder, base = posixpath.split(name)
    stem, dot, ending = base.partition(".")
    return posixpath.join(folder, stem), (dot + ending).lower()


def _note_values(ending: str, data: bytes) -> Values:
    """Metadata in a file beside an image: JSON, a class, a text."""
    try:
        text = data.decode("utf-8-sig").strip()
        if ending == ".cls":
            return {"label": text}
        if ending == ".txt":
            return {"text": text}
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return scalars(content) if isinstance(content, dict) else {}


class TarSource:
    """A tar file, compressed or not; a compressed one is read from its beginning."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._plain = path.lower().endswith(".tar")

    def members(self) -> Iterator[Member | BadFile | None]:
        """The images; metadata of the files with the same stem next to each (WebDataset)."""
        try:
            with reading(self._path):
                mtime = os.stat(self._path).st_mtime_ns
                with tarfile.open(self._path, "r:" if self._plain else "r:*") as tar:
                    yield from self._samples(tar, mtime)
                    yield None  # before the file is closed
                    rest = os.path.getsize(self._path) - tar.offset
                    if self._plain and 0 < rest < tarfile.BLOCKSIZE:  # which tarfile ignores
                        raise EOFError("unexpected end of data")
        except ImageError as error:
            yield BadFile(error.path, error.reason)

    def _samples(self, tar: tarfile.TarFile, mtime: int) -> Iterator[Member | BadFile]:
        sample: str | None = None
        images: list[Member | BadFile] = []
        values: Values = {}
        while (info := tar.next()) is not None:
            _forget(tar)
            name = _clean_name(info.name) if info.isreg() else None
            if name is None:
                continue
            key, ending = _key(name)
            if key != sample:
                yield from _with_values(images, values)
                sample, images, values = key, [], {}
            if is_image_name(name):
                images.append(self._member(tar, info, name, mtime))
            elif ending in _NOTES and info.size <= _MAX_NOTE_BYTES:
                values |= _note_values(ending, _extract(tar, info))
        yield from _with_values(images, values)

    def _member(
        self, tar: tarfile.TarFile, info: tarfile.TarInfo, name: str, mtime: int
    ) -> Member | BadFile:
        path = member_path(self._path, info.name)
        bad = check_size(path, info.size)
        if bad is not None:
            return bad
        if self._plain:
            return Member(name, path, info.size, mtime, lambda: _extract(tar, info))
        data = _extract(tar, info)  # now: to come back is to begin again
        return Member(name, path, info.size, mtime, lambda: data)

    def find(self, names: Collection[str]) -> Iterator[Found]:
        left = set(names)
        with tarfile.open(self._path, "r:" if self._plain else "r:*") as tar:
            while left and (info := tar.next()) is not None:
                if info.name in left and info.isreg():
                    left.discard(info.name)
                    if check_size(info.name, info.size) is None:
                        yield info.name, partial(_extract, tar, info)
                _forget(tar)


def _forget(tar: tarfile.TarFile) -> None:
    """Drop the headers that were read, which would grow with the archive."""
    members: list[tarfile.TarInfo] = tar.members  # type: ignore[attr-defined]
    if len(members) > _KEPT_MEMBERS:
        members.clear()


def _extract(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    data = b"" if file is None else file.read()
    if len(data) != info.size:
        raise EOFError("unexpected end of data")
    return data


def _with_values(images: Sequence[Member | BadFile], values: Values) -> Iterator[Member | BadFile]:
    for image in images:
        if isinstance(image, Member):
            image.metadata.update(values)
        yield image


class ZipSource:
    """A zip file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def members(self) -> Iterator[Member | BadFile | None]:
        """The images in the order of the archive, with metadata as in a tar file."""
        try:
            with reading(self._path):
                mtime = os.stat(self._path).st_mtime_ns
                with zipfile.ZipFile(self._path) as archive:
                    notes: dict[str, list[zipfile.ZipInfo]] = {}
                    infos = archive.infolist()
                    for info in infos:
                        key, ending = _key(info.filename)
                        if ending in _NOTES and info.file_size <= _MAX_NOTE_BYTES:
                            notes.setdefault(key, []).append(info)
                    for info in infos:
                        name = None if info.is_dir() else _clean_name(info.filename)
                        if name is not None and is_image_name(name):
                            yield self._member(archive, info, name, mtime, notes)
                    yield None  # before the file is closed
        except ImageError as error:
            yield BadFile(error.path, error.reason)

    def _member(
        self,
        archive: zipfile.ZipFile,
        info: zipfile.ZipInfo,
        name: str,
        mtime: int,
        notes: dict[str, list[zipfile.ZipInfo]],
    ) -> Member | BadFile:
        path = member_path(self._path, info.filename)
        bad = check_size(path, info.file_size)
        if bad is not None:
            return bad
        values: Values = {}
        for note in notes.get(_key(info.filename)[0], ()):
            values |= _note_values(_key(note.filename)[1], _unzip(archive, note))
        read: Callable[[], bytes] = lambda: _unzip(archive, info)  # noqa: E731
        return Member(name, path, info.file_size, mtime, read, values)

    def find(self, names: Collection[str]) -> Iterator[Found]:
        with zipfile.ZipFile(self._path) as archive:
            found = [archive.NameToInfo[name] for name in names if name in archive.NameToInfo]
            for info in sorted(found, key=lambda info: info.header_offset):
                if check_size(info.filename, info.file_size) is None:
                    yield info.filename, partial(_unzip, archive, info)


def _unzip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The content of an entry, of which no more is read than it declares."""
    with archive.open(info) as file:
        data = file.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise EOFError("its size is not the one it declares")
    return data
