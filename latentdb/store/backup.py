"""Copies of one version of a store: made while a writer works, and put back."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from latentdb.base.errors import (
    AlreadyExistsError,
    CorruptStoreError,
    LatentDBError,
    NotFoundError,
    StoreError,
    StoreNotFoundError,
)
from latentdb.base.files import check_file, link_or_copy, make_folder, sync_folder
from latentdb.store import manifest as manifests
from latentdb.store import recipes, versions
from latentdb.store.creation import check_absent
from latentdb.store.garbage import start_grace
from latentdb.store.lock import writer_lock
from latentdb.store.manifest import FOLDERS, MANIFEST, PREVIOUS, Manifest
from latentdb.store.quarantine import quarantine


def backup(source: Path, manifest: Manifest, out: Path) -> None:
    """Copy a version, and the saved recipes, into a new folder, durably; the manifest is last.

    Parameters
    ----------
    source, manifest
        Folder of the store, and the version.
    out
        A folder that does not exist, is empty, or was left by a killed backup.

    Raises
    ------
    AlreadyExistsError
        If something is there.
    StoreError
        If a file cannot be read or written; the backup does not open then.
    """
    check_absent(out)
    make_folder(out)
    with writer_lock(out):
        check_absent(out)  # another process may have made it meanwhile
        try:
            _copy_files(source, manifest, out)
            recipes.copy_all(source, out)
        except LatentDBError as error:
            raise StoreError(f"{out} is no complete backup ({error}): run it again") from error
        manifests.commit(out, manifest)
        sync_folder(out.absolute().parent)


def _copy_files(source: Path, manifest: Manifest, out: Path) -> None:
    for name in FOLDERS:
        make_folder(out / name)
    for entry in manifest.files():
        link_or_copy(source / entry.name, out / entry.name, entry.bytes, entry.checksum)
    for name in FOLDERS:
        sync_folder(out / name)


def restore(source: Path, target: Path, *, overwrite: bool = False) -> Manifest:
    """Make the version of a backup the current one of its store, or make the store again.

    Every file of the backup is verified first.  The version that it replaces, and the files
    of that, are kept as those of any commit; a manifest that cannot be read is moved to
    quarantine.

    Parameters
    ----------
    source
        Folder of the backup.
    target
        Folder of the store from which it was made, or one in which none is.
    overwrite
        Replace the version that is there.

    Returns
    -------
    Manifest
        The version that was committed.

    Raises
    ------
    AlreadyExistsError
        If there is a store, and `overwrite` is not given; or something else.
    StoreError
        If another store is there, or a file cannot be read or written; the target is as
        it was then.
    LockedError
        If another process is writing.
    """
    manifest = manifests.read(source)
    for entry in manifest.files():
        check_file(source / entry.name, entry.bytes, entry.checksum)
    if not any(os.path.lexists(target / name) for name in (MANIFEST, PREVIOUS)):
        backup(source, manifest, target)
        return manifest
    with writer_lock(target) as lock:
        current, whole = _there(target)
        if current is not None and current.uuid != manifest.uuid:
            raise StoreError(f"{source} is no backup of {target}, but of another store")
        if not overwrite:
            there = _told(current) if current and whole else "whose manifest is damaged"
            raise AlreadyExistsError(
                f"{target} is a store, {there}: --overwrite (overwrite=True) puts the backup, "
                f"{_told(manifest)}, in its place"
            )
        _copy_files(source, manifest, target)
        recipes.copy_all(source, target)
        next_row = max(manifest.next_row, 0 if current is None else current.next_row)
        number = versions.next_version(target, manifest.version, lock.committed)
        # Row numbers are never given twice.
        made, data = manifests.serialize(
            target, replace(manifest, version=number, next_row=next_row)
        )
        if current is not None and whole:
            versions.publish(target, data, current.version)
        else:
            quarantine(target, (), "damaged")
            manifests.publish(target, data)
        lock.record(number)
        if current is not None:
            start_grace(target, current.file_names() - made.file_names())
    return made


def _there(folder: Path) -> tuple[Manifest | None, bool]:
    """The current version and True; else the previous one, or None, and False."""
    try:
        return manifests.read(folder), True
    except (CorruptStoreError, StoreNotFoundError):
        with suppress(CorruptStoreError, NotFoundError):
            return versions.read_previous(folder), False
        return None, False


def _told(manifest: Manifest) -> str:
    return f"at version {manifest.version} with {manifest.rows:,} rows"
