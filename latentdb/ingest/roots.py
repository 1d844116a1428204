"""The ids of the images of a run: relative to the roots of the store, whatever folder was typed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from latentdb.images.discover import Candidate, Search, Source
from latentdb.images.selection import Selection
from latentdb.store.originals import file_digest
from latentdb.store.roots import Root, Roots, known_roots
from latentdb.store.snapshot import Snapshot

_SAMPLE = 16  # files by which a folder that was moved is recognised
_ANCESTORS = 4  # folders above it that may be the one that was moved


@dataclass(frozen=True)
class RootPlan:
    """Where the ids of a run come from.

    Attributes
    ----------
    recorded
        Roots of the store from now on.
    roots
        These, and the copies of them that this run indexes.
    search
        The sources, with ids.
    tops
        The root of each source: labels are the names of folders below it.
    moved
        Folders before and after a move that was found.
    notes
        What the caller should be told, a line each.
    """

    recorded: Roots
    roots: Roots
    search: Search
    tops: tuple[Root, ...]
    moved: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def plan_roots(snapshot: Snapshot, paths: Sequence[str], selection: Selection) -> RootPlan:
    """Find the root of each source; one below none of the store's gets a new one.

    A folder whose images are those of a root, by ids and content, is that root after a
    move, or a copy of it: its images keep their ids.

    Parameters
    ----------
    paths
        Absolute paths of sources, all of which exist.
    """
    planner = _Planner(snapshot, selection)
    paths = [planner.spelled(path) for path in paths]
    unknown = [path for path in paths if planner.roots.find(path) is None]
    for base, members in _bases(unknown):
        planner.add(base, members)
    roots = planner.roots
    sources, nested, tops = [], {}, []
    for path in dict.fromkeys(paths):
        root = roots.find(path) or Root(os.path.dirname(path))
        tops.append(root)
        name = root.name(path) if path != root.path else root.prefix
        boundary = os.path.realpath(root.path)
        if os.path.isdir(path):
            if path != root.path:
                name += "/"
                if os.path.islink(path):
                    boundary = os.path.realpath(path)  # it was named, wherever it leads
            nested.update({inner.path: inner.prefix for inner in roots.below(path)})
        sources.append(Source(path, name, boundary))
    search = Search(sources, nested=nested, selection=selection)
    copies = {id(root) for root in planner.copies}
    recorded = Roots(root for root in roots.all if id(root) not in copies)
    return RootPlan(
        recorded, roots, search, tuple(tops), tuple(planner.moved), tuple(planner.notes)
    )


def _bases(paths: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Folders that ids are to be relative to, and the sources in each.

    One folder is its own; several sources have that in which all of them are, unless it is
    the file system's.
    """
    if not paths:
        return []
    folders = [path if os.path.isdir(path) else os.path.dirname(path) for path in paths]
    common = os.path.commonpath(folders)
    if common not in folders:
        common = os.path.commonpath([os.path.dirname(folder) for folder in folders])
    if common != "/" or len(set(folders)) == 1:
        return [(common, list(paths))]
    bases: dict[str, list[str]] = {}
    for path, folder in zip(paths, folders, strict=True):
        bases.setdefault(folder, []).append(path)
    return list(bases.items())


class _Planner:
    """The roots so far, and how they came about."""

    def __init__(self, snapshot: Snapshot, selection: Selection) -> None:
        self.roots = known_roots(snapshot)
        self.copies: list[Root] = []
        self.moved: list[tuple[str, str]] = []
        self.notes: list[str] = []
        self._snapshot = snapshot
        self._selection = selection

    def spelled(self, path: str) -> str:
        """A path as its root has it, if only links tell them apart."""
        if self.roots.find(path) is None:
            real = os.path.realpath(path)
            for root in self.roots.all:
                folder = Root(os.path.realpath(root.path))
                if folder.holds(real):
                    return os.path.normpath(root.above + real[len(folder.above) :])
        return path

    def add(self, base: str, members: Sequence[str]) -> None:
        """Make a folder a root: a new one, one that was moved here, or a copy of one."""
        search = Search([Source.of(path) for path in members], selection=self._selection)
        found = (item.path for item in search.candidates() if isinstance(item, Candidate))
        sample = _Sample(self._snapshot, list(islice(found, _SAMPLE)))
        for root in self.roots.all:
            for folder in _ancestors(base):
                if folder != base and os.path.isdir(root.path):
                    break  # a part of a root that is still there was copied or moved
                match = sample.compare(Root(folder, root.prefix))
                if match is not None:
                    self._match(root, folder, copied=match)
                    return
        prefix = self._prefix(base)
        self.roots = Roots([*self.roots.all, Root(base, prefix)])
        if prefix:
            self.notes.append(
                f"ids of images in {base} begin with {prefix}: this store has images of other "
                "folders too"
            )
        elif list(members) != [base]:
            self.notes.append(f"ids are paths relative to {base}")

    def _match(self, root: Root, folder: str, *, copied: bool) -> None:
        if copied:
            copy = replace(root, path=folder)
            self.copies.append(copy)
            self.roots = Roots([*self.roots.all, copy])
            self.notes.append(f"{folder} has the images of {root.path}: they have the same ids")
        else:
            copies = [self.roots.all.index(copy) for copy in self.copies]
            self.roots = self.roots.moved(root.path, folder)
            self.copies = [self.roots.all[place] for place in copies]
            self.moved.append((root.path, folder))
            self.notes.append(f"{root.path} was moved to {folder}: its images keep their ids")

    def _prefix(self, base: str) -> str:
        """What tells the ids of a new root from those of the others."""
        others = self.roots.all
        if not others:
            return ""
        name = os.path.basename(base) or "root"
        number = 1
        while True:
            prefix = f"{name}/" if number == 1 else f"{name}-{number}/"
            if not any(
                other.prefix.startswith(prefix)
                or (
                    prefix.startswith(other.prefix)
                    and os.path.lexists(other.above + prefix[len(other.prefix) :].rstrip("/"))
                )
                for other in others
            ):
                return prefix
            number += 1


def _ancestors(folder: str) -> list[str]:
    """A folder and those above it, but the file system's own."""
    folders = [folder]
    while len(folders) <= _ANCESTORS and os.path.dirname(folders[-1]) != "/":
        folders.append(os.path.dirname(folders[-1]))
    return folders


class _Sample:
    """Some image files of a folder, which are compared with the rows of the store."""

    def __init__(self, snapshot: Snapshot, paths: Sequence[str]) -> None:
        self._snapshot = snapshot
        self._paths = paths
        self._digests: dict[str, int | None] = {}

    def compare(self, root: Root) -> bool | None:
        """Whether most files have the ids and contents of rows, if they were below a root.

        Returns
        -------
        bool or None
            None if not; False if no row's own file is there any more; True for copies.
        """
        if not self._paths:
            return None
        rows = self._snapshot.locate([root.name(path) for path in self._paths])
        if 2 * int((rows >= 0).sum()) < len(rows):
            return None
        equal, copied = 0, False
        for path, row in zip(self._paths, rows.tolist(), strict=True):
            if row >= 0:
                old, digest = self._snapshot.content(row)
                if digest == self._digest(path):
                    equal += 1
                    copied |= old is not None and self._digest(old) == digest
        return copied if 2 * equal >= len(rows) else None

    def _digest(self, path: str) -> int | None:
        if path not in self._digests:
            self._digests[path] = file_digest(path)
        return self._digests[path]


class Rivals:
    """Files of other roots that would have the same ids."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._others: dict[Root, list[Root]] = {}

    def find(self, root: Root, path: str, name: str) -> str | None:
        """Another file with the id of one, of a root that is older; None for none."""
        if root not in self._others:
            self._others[root] = self._overlapping(root)
        for other in self._others[root]:
            if name.startswith(other.prefix):
                rival = other.above + name[len(other.prefix) :]
                if rival != path and os.path.isfile(rival) and self._roots.find(rival) == other:
                    return rival
        return None

    def _overlapping(self, root: Root) -> list[Root]:
        """Older roots that have a folder where the ids of this one would be, or the reverse."""
        found = []
        for other in self._roots.all:
            if other == root:
                break
            if root.prefix.startswith(other.prefix):
                folder = other.above + root.prefix[len(other.prefix) :]
            elif other.prefix.startswith(root.prefix):
                folder = root.above + other.prefix[len(root.prefix) :]
            else:
                continue
            if os.path.isdir(folder):
                found.append(other)
        return found
