"""The folders that the images of a store come from; ids are paths relative to them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentdb.store.rows import Ints
    from latentdb.store.snapshot import Snapshot
    from latentdb.store.texts import Texts

MAX_ROOTS = 1_000  # every commit pays for the size of the manifest


@dataclass(frozen=True)
class Root:
    """A folder of images, and what their ids begin with.

    Attributes
    ----------
    path
        Absolute path.
    prefix
        Empty, or ends with ``/``: tells the ids of several roots apart.
    """

    path: str
    prefix: str = ""

    def holds(self, path: str) -> bool:
        """Whether a path is this folder or lies below it."""
        return path == self.path or path.startswith(self.above)

    @property
    def above(self) -> str:
        """What the paths below it begin with."""
        return self.path.rstrip("/") + "/"

    def name(self, path: str) -> str:
        """The id of an image at a path below it; of a folder, what ids in it begin with."""
        return self.prefix + path[len(self.above) :]


class Roots:
    """Some roots, in order; of nested ones the deepest has the ids."""

    def __init__(self, roots: Iterable[Root]) -> None:
        self.all = tuple(roots)
        self._by_path: dict[str, Root] = {}
        for root in self.all:
            self._by_path.setdefault(root.path, root)

    def find(self, path: str) -> Root | None:
        """The deepest root that holds a path; None for none."""
        while True:
            root = self._by_path.get(path)
            if root is not None:
                return root
            parent = os.path.dirname(path)
            if parent == path:
                return None
            path = parent

    def below(self, path: str) -> list[Root]:
        """The roots below a folder, without itself."""
        folder = Root(path)
        return [root for root in self.all if root.path != path and folder.holds(root.path)]

    def moved(self, old: str, new: str) -> Roots:
        """The roots after a folder was moved: itself, and those below it."""
        folder = Root(old)
        moved = (
            replace(root, path=os.path.normpath(new + root.path[len(old.rstrip("/")) :]))
            if folder.holds(root.path)
            else root
            for root in self.all
        )
        return Roots(moved)


def known_roots(snapshot: Snapshot) -> Roots:
    """The roots of a store; those of one that an older latentdb wrote by its paths and ids."""
    recorded = snapshot.manifest.roots
    return Roots(recorded if recorded else _inferred(snapshot))


def _inferred(snapshot: Snapshot) -> Sequence[Root]:
    """Folders relative to which the ids of rows are their paths."""
    rows = Counter(folder for folder, _ in _folders_of_rows(snapshot))
    roots = Roots(Root(path) for path, _ in rows.most_common(MAX_ROOTS))
    nested = {inner.path for outer in roots.all for inner in roots.below(outer.path)}
    if nested:
        doubled = _indexed_twice(snapshot, nested)
        roots = Roots(root for root in roots.all if root.path not in doubled)
    return roots.all


def _folders_of_rows(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """The folder relative to which the id of a live row is its path, and the path."""
    for segment in snapshot.segments:
        if segment.paths is None:
            continue
        positions = snapshot.live_positions(segment)
        names, paths = _taken(segment.ids, positions), _taken(segment.paths, positions)
        for name, path in zip(names, paths, strict=True):
            if path.endswith("/" + name):
                yield path[: -len(name) - 1] or "/", path


def _taken(texts: Texts, positions: Ints) -> Sequence[str]:
    """Texts at ascending positions; all at once are ten times faster than one by one."""
    every = list(texts)
    return every if len(every) == len(positions) else [every[p] for p in positions.tolist()]


def _indexed_twice(snapshot: Snapshot, folders: set[str]) -> set[str]:
    """Those of some folders whose images have ids relative to a folder above it, too."""
    found: set[str] = set()
    for root, path in _folders_of_rows(snapshot):
        while len(path := os.path.dirname(path)) > len(root):
            if path in folders:
                found.add(path)
    return found
