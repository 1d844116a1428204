"""Making the folder of a store, and removing it again.

A store is made in place and comes into being with its manifest, the last file
that is written.  It is not made beside and renamed: an empty folder may be a
mount point, a link, the working directory, or in a folder that is not writable,
and none of these can be replaced by a rename.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from latentdb.base.errors import AlreadyExistsError, LatentDBError, StoreError
from latentdb.base.files import checksum, os_reason, sync_folder, try_remove, write_new
from latentdb.store import manifest as manifests
from latentdb.store.lock import INDEX_LOCK, LOCK, writer_lock
from latentdb.store.manifest import (
    FLOAT32,
    FOLDERS,
    HISTORY,
    MANIFEST,
    PLAN,
    PREVIOUS,
    RECIPES,
    TEMPORARY_MANIFEST,
    FileEntry,
    Manifest,
    ModelEntry,
    Settings,
)

LAYOUTS = "map"  # folder of what `latentdb.insight.map` derives from the rows
Model = tuple[str, str | None, Mapping[str, bytes]]  # fingerprints of encoder and decoder; files


def check_absent(folder: Path) -> None:
    """Refuse a folder in which a store cannot be made.

    Raises
    ------
    AlreadyExistsError
        If it is a store, or holds anything else.
    """
    if not os.path.exists(folder):
        return
    if (folder / MANIFEST).exists():
        raise AlreadyExistsError(f"{folder} is a store already: open it, or give another path")
    if not is_unfinished(folder):
        raise AlreadyExistsError(f"{folder} exists and is not a store: give another path")


def is_unfinished(folder: Path) -> bool:
    """Whether a folder is empty, or holds nothing but what a killed creation leaves."""
    if not folder.is_dir():
        return False
    items = list(folder.iterdir())
    known = {*FOLDERS, RECIPES, LOCK}
    if not all(item.name in known or item.name.startswith(TEMPORARY_MANIFEST) for item in items):
        return False
    # No file is written into the folders before the lock is held.
    locked = (folder / LOCK).exists()
    return locked or not any(item.is_dir() and any(item.iterdir()) for item in items)


def create_files(
    folder: Path, *, dim: int, model: Model | None, settings: Settings, dtype: str = FLOAT32
) -> str:
    """Make the folder of an empty store, durably, and give its uuid.

    Raises
    ------
    AlreadyExistsError
        If something is there.
    LockedError
        If another process is making it.
    StoreError
        If it cannot be written.
    """
    check_absent(folder)
    try:
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made: {os_reason(error)}") from error
    with writer_lock(folder):
        check_absent(folder)  # another process may have made it meanwhile
        entry = None
        if model is not None:
            entry = ModelEntry(model[0], model[1], _write_model(folder, model[2]))
        for name in FOLDERS:
            sync_folder(folder / name)
        first = Manifest(
            manifests.unique_name(), 1, dim, model=entry, settings=settings, dtype=dtype
        )
        manifests.commit(folder, first)
        sync_folder(folder.absolute().parent)
    return first.uuid


def _write_model(folder: Path, files: Mapping[str, bytes]) -> tuple[FileEntry, ...]:
    entries = []
    for key, data in files.items():
        name = f"model/{key}"
        try_remove(folder / name)  # that of a killed creation
        write_new(folder / name, data)
        entries.append(FileEntry(name, len(data), checksum(data)))
    return tuple(entries)


def undo_creation(folder: Path, *, existed: bool) -> None:
    """Remove a store that was made a moment ago, unless rows were committed to it.

    A store that cannot be removed is left as it is: the caller raises the error
    because of which it is removed.

    Parameters
    ----------
    folder
        Folder of the store.
    existed
        Whether the folder was there, empty, before; it is kept then.
    """
    try:
        with writer_lock(folder):
            if manifests.read(folder).next_row:
                return
            _take_apart(folder)
        if not existed:
            folder.rmdir()
    except (LatentDBError, OSError):
        return


def remove_empty(folder: Path) -> None:
    """Remove a store without rows, and all that is in its folder but the folder.

    Raises
    ------
    StoreError
        If it has rows, or its folder holds what no store needs, or cannot be removed.
    """
    with writer_lock(folder):
        rows = manifests.read(folder).rows
        known = {MANIFEST, PREVIOUS, *FOLDERS, HISTORY, PLAN, RECIPES, LOCK, INDEX_LOCK, LAYOUTS}
        others = sorted(
            name
            for name in os.listdir(folder)
            if name not in known and not name.startswith(TEMPORARY_MANIFEST)
        )
        if rows or others:
            reason = f"it has {rows:,} rows" if rows else f"{others[0]} is in its folder"
            raise StoreError(f"{folder} was not removed: {reason}")
        try:
            _take_apart(folder)
        except OSError as error:
            raise StoreError(f"{folder} cannot be removed: {os_reason(error)}") from error


def _take_apart(folder: Path) -> None:
    """Remove the files of a store, whose lock is held."""
    import shutil  # which no query needs

    # Without a manifest, the rest is what a killed creation leaves.
    (folder / MANIFEST).unlink()
    (folder / PREVIOUS).unlink(missing_ok=True)
    for name in (*FOLDERS, HISTORY, PLAN, RECIPES, LAYOUTS):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / INDEX_LOCK).unlink(missing_ok=True)
    (folder / LOCK).unlink()
