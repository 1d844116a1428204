"""Versions of a store: the manifests that commits replaced, for as long as their files are kept.

A commit gives the manifest that it replaces two more names, by hard links that cost no copy
and no sync: ``MANIFEST.previous``, and its number in ``history``.  The files of the previous
version are never garbage; those of older ones are, ten minutes after they were dropped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from latentdb.base.errors import (
    CorruptStoreError,
    LatentDBError,
    NotFoundError,
    StoreError,
)
from latentdb.base.files import link_over, make_folder, open_folder, read_limited
from latentdb.store import manifest as manifests
from latentdb.store.manifest import FOLDERS, HISTORY, MANIFEST, MAX_BYTES, PREVIOUS, Manifest

MOST_KEPT = 100  # versions in `history`, whatever their age
_NUMBERED = re.compile(r"([0-9]{1,19})\.json\Z")


@dataclass(frozen=True)
class Version:
    """A version of a store that can be opened.

    Attributes
    ----------
    version
        Number of the commit that made it.
    committed
        When, in seconds since 1970.
    rows, segments, indexed
        Rows, segments, and rows in the search index.
    current
        Whether it is the one that is opened by default.
    """

    version: int
    committed: float
    rows: int
    segments: int
    indexed: int
    current: bool


def publish(folder: Path, data: bytes, replaced: int) -> None:
    """Replace the manifest file by one that was serialized, and keep the one of version `replaced`.

    Raises as `manifest.commit`.
    """
    manifests.publish(folder, data, lambda: _keep(folder, replaced))


def _keep(folder: Path, version: int) -> None:
    current = folder / MANIFEST

    def read() -> bytes:
        return read_limited(current, MAX_BYTES)

    link_over(current, folder / PREVIOUS, read)
    with suppress(StoreError):  # nothing relies on it: readers may want it for ten minutes
        make_folder(folder / HISTORY)
        link_over(current, folder / HISTORY / f"{version}.json", read)


def read_previous(folder: Path) -> Manifest:
    """The version before the current one.

    Raises
    ------
    NotFoundError
        If there is none.
    CorruptStoreError, StoreError
        If its manifest cannot be read.
    """
    return manifests.load(read_limited(folder / PREVIOUS, MAX_BYTES), str(folder / PREVIOUS))


def read_version(folder: Path, version: int) -> Manifest:
    """A version of a store, by its number.

    Raises
    ------
    NotFoundError
        If it is not kept; names those that are.
    StoreNotFoundError, CorruptStoreError, StoreError
        If the store cannot be read.
    """
    for manifest, _ in _kept(folder):
        if manifest.version == version:
            return manifest
    there = ", ".join(str(item.version) for item in versions(folder)) or "none"
    raise NotFoundError(
        f"version {version} of {folder} is not kept; these are: {there}. The files of a version "
        "are kept for ten minutes after it was replaced, those of the previous one for longer"
    )


def versions(folder: Path) -> tuple[Version, ...]:
    """The versions all of whose files are there, the current one first.

    Raises
    ------
    StoreNotFoundError, CorruptStoreError, StoreError
        If the store cannot be read.
    """
    present = {
        f"{name}/{file}"
        for name in FOLDERS
        if (folder / name).is_dir()
        for file in os.listdir(folder / name)
    }
    found: dict[int, Version] = {}
    for manifest, committed in _kept(folder):
        if manifest.version not in found and manifest.file_names() <= present:
            indexed = 0 if manifest.index is None else manifest.index.rows
            found[manifest.version] = Version(
                manifest.version,
                committed,
                manifest.rows,
                len(manifest.segments),
                indexed,
                current=not found,
            )
    newest_first = sorted(found.values(), key=lambda item: -item.version)
    return tuple(sorted(newest_first, key=lambda item: not item.current))


def _kept(folder: Path) -> Iterator[tuple[Manifest, float]]:
    """Manifests and their times: the current one, the previous one, and those of `history`."""
    current = manifests.read(folder)
    yield current, (folder / MANIFEST).stat().st_mtime
    paths = [folder / PREVIOUS]
    with suppress(NotFoundError, OSError), open_folder(folder / HISTORY) as at:  # not of a link
        paths += [folder / HISTORY / name for name in os.listdir(at)]
    for path in paths:
        with suppress(LatentDBError, OSError):  # one that is damaged, or expires now, is not kept
            manifest = manifests.load(read_limited(path, MAX_BYTES), str(path))
            if manifest.uuid == current.uuid:
                yield manifest, path.stat().st_mtime


def names_of_previous(folder: Path) -> set[str]:
    """Names of the files of the previous version; none where its manifest cannot be read."""
    with suppress(CorruptStoreError, NotFoundError):
        return read_previous(folder).file_names()
    return set()


def expire(folder: Path, limit: float) -> None:
    """Delete manifests of `history` whose version was replaced before `limit`, a time.

    The time of a manifest is that of its commit, so it was replaced at the time of the next one.
    """
    with suppress(NotFoundError, OSError), open_folder(folder / HISTORY) as at:
        times: dict[int, float] = {}
        for name in os.listdir(at):
            found = _NUMBERED.match(name)
            modified = os.stat(name, dir_fd=at, follow_symlinks=False).st_mtime
            if found is not None:
                times[int(found[1])] = modified
            elif modified < limit:  # left by a killed writer
                os.unlink(name, dir_fd=at)
        numbers = sorted(times)
        times[numbers[-1] + 1 if numbers else 0] = (folder / MANIFEST).stat().st_mtime
        for place, number in enumerate(reversed(numbers)):
            if times.get(number + 1, times[number]) < limit or place >= MOST_KEPT:
                os.unlink(f"{number}.json", dir_fd=at)


def next_version(folder: Path, *numbers: int) -> int:
    """A version number above some, and above those of the manifests that can be read."""
    known = list(numbers)
    for read in (manifests.read, read_previous):
        with suppress(CorruptStoreError, NotFoundError):
            known.append(read(folder).version)
    return max(known) + 1
