"""File names for ids: the ids themselves, as far as a file system has such names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np
import xxhash

from latentdb.base.errors import InvalidInputError
from latentdb.base.outputs import STDOUT
from latentdb.images.formats import SUFFIXES

_UNSAFE = re.compile(r'[<>:"|?*\\]')  # in a name, on one file system or another
_NAME_BYTES = 200  # of a name without suffix and mark; file systems allow 255
_PATH_BYTES, _PARTS = 1_000, 100  # below the folder; programs fail in folders of any depth
_MARK_DIGITS = 10


class FileNames:
    """Relative paths of files, one for each id.

    An id is a path, and stays one; its image ending gives way to the suffix.  Ids of one
    collection that would get the same file on some file system (``a.png`` and ``a.jpg``,
    ``a.png`` and ``A.png``, composed and decomposed letters) are marked by a hash of the id,
    each of them: the name of a file does not depend on what else is written with it.

    Parameters
    ----------
    suffix
        Of the files, with its dot.
    collection
        All ids of the collection, those that are to be named among them.
    """

    def __init__(self, suffix: str, collection: Iterable[str]) -> None:
        self._suffix = suffix
        hashes = [self._hash(self._stem(name)) for name in collection]
        values, counts = np.unique(np.array(hashes, np.uint64), return_counts=True)
        self._shared = set(values[counts > 1].tolist())

    def paths(self, names: Sequence[str]) -> list[str]:
        """The path of each name, with ``/``; a name that is there again gets one more."""
        used: Counter[str] = Counter()
        found = []
        for name in names:
            used[name] += 1
            stem = self._stem(name)
            if used[name] > 1 or self._hash(stem) in self._shared:
                mark = xxhash.xxh3_64_hexdigest(f"{name}\0{used[name]}".encode(errors="replace"))
                stem = f"{stem}~{mark[:_MARK_DIGITS]}"
            found.append(stem + self._suffix)
        return found

    def _stem(self, name: str) -> str:
        """A safe relative path without an ending; it does not lead out of a folder."""
        stem, ending = os.path.splitext(name)
        *folders, last = (stem if ending.lower() in (*SUFFIXES, ".npy") else name).split("/")
        # A folder must not have the name of a file.
        parts = [f"{part}_" if self._is_file(part) else part for part in map(_safe, folders)]
        parts = [*filter(None, parts), _safe(last) or "image"]
        parts = parts[-_PARTS:]
        while sum(len(part.encode()) for part in parts) > _PATH_BYTES:
            del parts[0]
        return "/".join(parts)

    def _is_file(self, part: str) -> bool:
        return part.casefold().endswith((self._suffix, ".csv"))

    @staticmethod
    def _hash(stem: str) -> int:
        """Of what file systems compare that know no case, and one form of each letter."""
        folded = stem.casefold()
        if not stem.isascii():
            folded = normalize("NFC", normalize("NFC", stem).casefold())
        return xxhash.xxh3_64_intdigest(folded.encode())


def _safe(part: str) -> str:
    """A part of a path as a name; empty for one that is none, such as ``..``."""
    if not part.isprintable():  # control characters, and what reverses the text after it
        part = "".join(char if char.isprintable() else "_" for char in part)
    part = _UNSAFE.sub("_", part).strip(" .")
    encoded = part.encode()
    if len(encoded) > _NAME_BYTES:  # ids differ at their ends
        part = encoded[-_NAME_BYTES:].decode(errors="ignore").strip(" .")
    return part


def numbered(path: str, count: int) -> list[str]:
    """The path of a picture; or of several, whose numbers stand before its suffix.

    Raises
    ------
    InvalidInputError
        For several on stdout.
    """
    if count == 1:
        return [path]
    if path == STDOUT:
        raise InvalidInputError(f"{count:,} pictures do not go to stdout: give a file, not {path}")
    whole = Path(path)
    width = len(str(count))
    return [
        os.fspath(whole.with_name(f"{whole.stem}-{number:0{width}}{whole.suffix}"))
        for number in range(1, count + 1)
    ]
