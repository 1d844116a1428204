"""Garbage collection: files in the folder of a store that no version names."""

from __future__ import annotations

import os
import time
from collections.abc import Set
from contextlib import suppress
from pathlib import Path

from latentdb.base.files import sync_folder
from latentdb.store.manifest import FOLDERS, TEMPORARY_MANIFEST


def collect_garbage(root: Path, named: Set[str], grace: float) -> int:
    """Delete files that no version names; one that cannot be deleted is left to the next writer.

    Parameters
    ----------
    root
        Folder of the store, whose lock is held.
    named
        Files of the current version, by name under `root`.
    grace
        Seconds that other files are kept for readers of earlier versions.

    Returns
    -------
    int
        Number of files deleted.
    """
    limit = time.time() - grace
    candidates = [root / name for name in _listed(root) if name.startswith(TEMPORARY_MANIFEST)]
    for folder in FOLDERS:
        names = {f"{folder}/{name}" for name in _listed(root / folder)}
        candidates += [root / name for name in sorted(names - named)]
    deleted = 0
    for path in candidates:
        with suppress(OSError):
            if path.lstat().st_mtime >= limit:
                continue
            if not deleted:
                # The manifest that a killed writer renamed may not be durable: a power cut
                # would bring back the one before, which needs these files.
                sync_folder(root)
            os.unlink(path)
            deleted += 1
    return deleted


def _listed(folder: Path) -> list[str]:
    """Names in a folder; none if the folder is missing."""
    with suppress(OSError):
        return sorted(os.listdir(folder))
    return []
