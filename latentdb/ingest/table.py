"""Metadata of images, as a table with a row for each, and which row is that of which image."""

from __future__ import annotations

import os
import posixpath
import threading
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from latentdb.images.formats import SUFFIXES
from latentdb.store.columns import Column, Value

EXAMPLES = 3  # names without a partner that are kept


@dataclass(frozen=True, eq=False)
class Table:
    """Metadata by the names of images.

    Attributes
    ----------
    source
        The file, for messages.
    names
        Ids or paths of the images, a row each, all different.
    columns
        Typed columns over those rows.
    notes
        What a reader of the table should know, a sentence each.
    """

    source: str
    names: Sequence[str]
    columns: Mapping[str, Column]
    notes: tuple[str, ...] = ()

    @property
    def types(self) -> dict[str, str]:
        """Type of every column."""
        return {key: column.type for key, column in self.columns.items()}

    def row(self, number: int) -> dict[str, Value]:
        """The values of a row; None where one is missing."""
        return {key: column.item(number) for key, column in self.columns.items()}


@dataclass(frozen=True)
class Unmatched:
    """Rows of a table without an image in a run, and images without a row.

    Attributes
    ----------
    rows, images
        How many there are.
    row_examples, image_examples
        Names of the first ones.
    """

    rows: int = 0
    images: int = 0
    row_examples: tuple[str, ...] = ()
    image_examples: tuple[str, ...] = ()


class RowMatcher:
    """Finds the rows of images in a table; threads may share it.

    An image has the row of its id or absolute path.  Otherwise both sides are normalised:
    Unicode in composed form (NFC), ``/`` for ``\\\\``, no ``./``; a name may begin with any of
    the folders above the image, and may lack the ending of an image file.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        names = table.names
        self._rows = {name: number for number, name in enumerate(names)}
        self._normal: dict[str, int] = {}
        ambiguous = set()
        for number, name in enumerate(names):
            normal = _normal(name)
            if self._normal.setdefault(normal, number) != number:
                ambiguous.add(normal)
        for normal in ambiguous:
            del self._normal[normal]
        self._matched = bytearray(len(names))
        self._lock = threading.Lock()
        self._images = 0
        self._examples: list[str] = []

    def find(self, name: str, path: str, below: str = "") -> dict[str, Value] | None:
        """The values of an image, by its id and absolute path; None if it has no row.

        Parameters
        ----------
        below
            Its path below its root, where that may differ from the id.
        """
        number = self._number(name, path)
        if number is None and below not in ("", name):
            number = self._number(below, path)
        if number is None:
            with self._lock:
                self._images += 1
                if len(self._examples) < EXAMPLES:
                    self._examples.append(name)
            return None
        self._matched[number] = 1
        return self.table.row(number)

    def _number(self, name: str, path: str) -> int | None:
        number = self._rows.get(name, self._rows.get(path))
        if number is not None:
            return number
        forms = list(_forms(name, path))
        for form in forms:
            if form in self._normal:
                return self._normal[form]
        for form in forms:
            stem = _without_ending(form)
            if stem in self._normal:
                return self._normal[stem]
        return None

    def unmatched(self) -> Unmatched:
        """What has found no partner so far."""
        rows = self._matched.count(0)
        examples: list[str] = []
        start = self._matched.find(0)
        while start >= 0 and len(examples) < EXAMPLES:
            examples.append(self.table.names[start])
            start = self._matched.find(0, start + 1)
        return Unmatched(rows, self._images, tuple(examples), tuple(self._examples))


def _normal(name: str) -> str:
    text = unicodedata.normalize("NFC", name).strip().replace("\\", "/")
    text = posixpath.normpath(text)
    while text.startswith("../"):
        text = text[3:]
    return text


def _forms(name: str, path: str) -> Iterator[str]:
    """The id, then the id after ever more of the folders above it, up to the absolute path."""
    form = _normal(name)
    yield form
    whole = _normal(path.replace(os.sep, "/"))
    if not whole.endswith("/" + form):
        yield whole
        return
    above = whole[: -len(form) - 1]
    while "/" in above:
        above, _, folder = above.rpartition("/")
        form = f"{folder}/{form}"
        yield form
    yield whole


def _without_ending(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return stem if dot and f".{ending.lower()}" in SUFFIXES else name
