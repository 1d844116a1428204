"""Garbage collection: files in the folder of a store that no version names."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from pathlib import Path

from latentdb.base.errors import NotFoundError
from latentdb.base.files import open_folder, sync_folder, try_remove
from latentdb.store import manifest as manifests
from latentdb.store.manifest import FOLDERS, TEMPORARY_MANIFEST


def start_grace(root: Path, names: Iterable[str]) -> None:
    """Begin the grace of files, by name under `root`, that the version just committed dropped."""
    for name in names:
        with suppress(OSError):
            os.utime(root / name, follow_symlinks=False)


def remove_unnamed(root: Path, names: Iterable[str]) -> None:
    """Delete files, by name under `root`, of a commit that failed.

    The manifest may have been replaced before the failure: what it names stays.
    """
    named = manifests.read(root).file_names()
    for name in names:
        if name not in named:
            try_remove(root / name)


def collect_garbage(
    root: Path, named: Set[str], grace: float, also_named: Callable[[], Set[str]] = frozenset
) -> int:
    """Delete files that no version names; one that cannot be deleted is left to the next writer.

    Parameters
    ----------
    root
        Folder of the store, whose lock is held.
    named
        Files of the current version, by name under `root`.
    grace
        Seconds that other files are kept for readers of earlier versions.
    also_named
        Gives further files to keep; called if there is one to be deleted.

    Returns
    -------
    int
        Number of files deleted.
    """
    limit = time.time() - grace
    deleted = 0
    kept: Set[str] | None = None
    for folder in ("", *FOLDERS):
        with suppress(NotFoundError, OSError), open_folder(root / folder, follow=not folder) as at:
            for name in sorted(os.listdir(at)):
                if f"{folder}/{name}" in named or not (
                    folder or name.startswith(TEMPORARY_MANIFEST)
                ):
                    continue
                with suppress(OSError):
                    if os.stat(name, dir_fd=at, follow_symlinks=False).st_mtime >= limit:
                        continue
                    kept = also_named() if kept is None else kept
                    if f"{folder}/{name}" in kept:
                        continue
                    if not deleted:
                        # The manifest that a killed writer renamed may not be durable: a power
                        # cut would bring back the one before, which needs these files.
                        sync_folder(root)
                    os.unlink(name, dir_fd=at)
                    deleted += 1
    return deleted
