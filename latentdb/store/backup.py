"""A copy of one version of a store, made while a writer works."""

from __future__ import annotations

from pathlib import Path

from latentdb.base.errors import LatentDBError, StoreError
from latentdb.base.files import link_or_copy, make_folder, sync_folder
from latentdb.store import manifest as manifests
from latentdb.store import recipes
from latentdb.store.creation import check_absent
from latentdb.store.lock import writer_lock
from latentdb.store.manifest import FOLDERS, Manifest


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
    for name in FOLDERS:
        make_folder(out / name)
    with writer_lock(out):
        check_absent(out)  # another process may have made it meanwhile
        try:
            for entry in manifest.files():
                link_or_copy(source / entry.name, out / entry.name, entry.bytes, entry.checksum)
            recipes.copy_all(source, out)
        except LatentDBError as error:
            raise StoreError(f"{out} is no complete backup ({error}): run it again") from error
        for name in FOLDERS:
            sync_folder(out / name)
        manifests.commit(out, manifest)
        sync_folder(out.absolute().parent)
