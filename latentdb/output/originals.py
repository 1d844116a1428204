"""The image files of the rows of a store, which no output replaces."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from latentdb.base.errors import InvalidInputError
from latentdb.search.text_tests import mask_texts
from latentdb.store.roots import known_roots
from latentdb.store.snapshot import Snapshot

_FEW = 16  # paths that are looked up one by one; for more, all paths of the store are read


class Originals:
    """The paths that belong to a store: its image files, and its own folder.

    Files are told by their folders, links followed, and their names: an output that
    replaces a link, or another name of the same file, leaves the file as it is.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._folders: dict[str, str] = {}

    def find(self, paths: Sequence[str]) -> str | None:
        """The first of some paths that belongs to the store, or None."""
        own = os.path.join(os.path.realpath(self._snapshot.folder), "")
        for path in paths:
            resolved = self._resolve(path)
            if resolved.startswith(own):
                return path
            known = self._named(os.path.basename(resolved)) if len(paths) <= _FEW else self._all
            if resolved in known:
                return path
        return None

    def check_folder(self, path: str) -> None:
        """Refuse to fill a folder that images are indexed from.

        Raises
        ------
        InvalidInputError
            If it is one, or lies below one: the next index would take what is written for images.
        """
        folder = os.path.realpath(path)
        for root in known_roots(self._snapshot).all:
            if replace(root, path=os.path.realpath(root.path)).holds(folder):
                raise InvalidInputError(
                    f"{path} is in {root.path}, whose images are indexed: the next index would "
                    "take these for more of them; give another folder, or --force (overwrite=True)"
                )

    def _named(self, name: str) -> set[str]:
        """The files with a name."""
        found: set[str] = set()
        for segment in self._snapshot.segments:
            if segment.paths is not None:
                mask = mask_texts(
                    *segment.paths.utf8(),
                    lambda texts: texts.endswith("/" + name) | texts.is_in([name]),
                )
                rows = segment.numbers(np.flatnonzero(mask))
                rows = rows[~self._snapshot.is_deleted(rows)]
                found.update(map(self._resolve, filter(None, self._snapshot.paths(rows))))
        return found

    @cached_property
    def _all(self) -> set[str]:
        paths = self._snapshot.paths(self._snapshot.live_rows())
        return set(map(self._resolve, filter(None, paths)))

    def _resolve(self, path: str) -> str:
        folder, name = os.path.split(os.path.abspath(path))
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return os.path.join(self._folders[folder], name)
