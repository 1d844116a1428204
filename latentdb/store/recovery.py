"""Going back to an earlier version: the manifest is damaged, or an older one lies in its place."""

from __future__ import annotations

import os
import stat
from collections.abc import Set
from dataclasses import dataclass, replace
from pathlib import Path

from latentdb.base.errors import CorruptStoreError, NotFoundError, StoreNotFoundError
from latentdb.store import manifest as manifests
from latentdb.store import versions
from latentdb.store.manifest import MANIFEST, PREVIOUS, QUARANTINE, Manifest
from latentdb.store.quarantine import quarantine


@dataclass(frozen=True)
class Setback:
    """Why a store goes back to an earlier version, and to which.

    Attributes
    ----------
    manifest
        The version.
    unread
        Whether it is that of `PREVIOUS`, because the manifest cannot be read.
    what, advice, done
        What is wrong with the manifest, what a repair would do, and what it did.
    """

    manifest: Manifest
    unread: bool
    what: str
    advice: str
    done: str

    def told(self, folder: Path) -> str:
        """What is wrong, and what to do, in one line."""
        return f"{folder / MANIFEST} {self.what}; {self.advice}"


def put_back(manifest: Manifest, committed: int) -> Setback:
    """That an older manifest lies where version `committed` was."""
    kept = f"(files that only belong to later versions are kept in {QUARANTINE})"
    return Setback(
        manifest,
        False,
        f"is version {manifest.version}, but version {committed} was committed: an older one was "
        "put back",
        f"it can be read; before the next write, latentdb verify --repair accepts it {kept}",
        f"accepted {kept}",
    )


def find_setback(folder: Path, committed: int) -> tuple[Manifest, Setback | None]:
    """The version that a repair begins with, and why it is not the last one.

    Parameters
    ----------
    folder
        Of the store, whose lock is held.
    committed
        The last version that was committed, as far as that is known.

    Raises
    ------
    StoreNotFoundError, CorruptStoreError, StoreError
        If neither the manifest nor the previous one can be read.
    """
    try:
        manifest = manifests.read(folder)
    except (CorruptStoreError, StoreNotFoundError) as error:
        path = folder / MANIFEST
        if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            raise  # a link, or a pipe, may lead to one that is whole
        try:
            previous = versions.read_previous(folder)
        except (CorruptStoreError, NotFoundError):
            raise error from None
        what = "is missing"
        if isinstance(error, CorruptStoreError):
            what = str(error).removeprefix(str(path)).partition(": latentdb")[0].strip()
        first = previous.version + 1
        lost = f"versions {first} to {committed} are" if committed > first else "the one after is"
        done = (
            f"version {previous.version}, of {PREVIOUS}, was put in its place; {lost} lost "
            f"(files that only belong to later versions are kept in {QUARANTINE})"
        )
        return previous, Setback(previous, True, what, done, done)
    return manifest, put_back(manifest, committed) if committed > manifest.version else None


def check_whole(folder: Path, setback: Setback, damaged: Set[str]) -> None:
    """Refuse to go back to a previous version of which rows or deletions are damaged, too.

    Raises
    ------
    CorruptStoreError
        If one of the `damaged` files of the version has such.
    """
    bad = sorted(name for name in damaged if name.startswith("segments"))
    if setback.unread and bad:
        raise CorruptStoreError(
            f"{folder / MANIFEST} is damaged, and so is {bad[0]} of version "
            f"{setback.manifest.version} in {PREVIOUS}: latentdb restore puts a backup in their "
            "place"
        )


def go_back(folder: Path, setback: Setback, committed: int) -> Manifest:
    """Commit the earlier version under a new number; files of later ones go into quarantine first.

    Parameters
    ----------
    folder, committed
        As in `find_setback`.
    setback
        What that found.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    manifest = setback.manifest
    named = manifest.file_names()
    present = [f"segments/{name}" for name in os.listdir(folder / "segments")]
    label = "damaged" if setback.unread else manifest.version
    quarantine(folder, [name for name in present if name not in named], label)
    number = versions.next_version(folder, manifest.version, committed)
    made, data = manifests.serialize(folder, replace(manifest, version=number))
    if setback.unread:
        manifests.publish(folder, data)
    else:
        versions.publish(folder, data, manifest.version)
    return made
