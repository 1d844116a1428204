"""What killed processes leave in the folder of a store, and how it goes."""

from __future__ import annotations

import os
import time
from collections.abc import Set
from contextlib import suppress
from pathlib import Path

from latentdb.base.errors import AlreadyExistsError
from latentdb.base.files import sync_folder
from latentdb.store.manifest import FOLDERS, LOCK, MANIFEST

_TEMPORARY = f".{MANIFEST}."


def collect_garbage(root: Path, named: Set[str], grace: float) -> int:
    """Delete files that no version names; what cannot go now stays for the next writer.

    Parameters
    ----------
    root
        Of the store, whose lock is held.
    named
        Files of the current version, by name under `root`.
    grace
        Seconds for which the others are kept for readers.

    Returns
    -------
    int
        How many went.
    """
    limit = time.time() - grace
    found = [root / name for name in _listed(root) if name.startswith(_TEMPORARY)]
    for folder in FOLDERS:
        names = {f"{folder}/{name}" for name in _listed(root / folder)}
        found += [root / name for name in sorted(names - named)]
    swept = 0
    for path in found:
        with suppress(OSError):
            if path.lstat().st_mtime >= limit:
                continue
            if not swept:
                # The manifest a killed writer renamed may not be durable: a power cut
                # would bring back the one before, which needs these files.
                sync_folder(root)
            os.unlink(path)
            swept += 1
    return swept


def _listed(folder: Path) -> list[str]:
    """Names in a folder; none if it is lost."""
    with suppress(OSError):
        return sorted(os.listdir(folder))
    return []


def check_absent(folder: Path) -> None:
    """Refuse a folder in which a store cannot be made.

    Raises
    ------
    AlreadyExistsError
        If it is a store, or has anything else in it.
    """
    if not os.path.exists(folder):
        return
    if (folder / MANIFEST).exists():
        raise AlreadyExistsError(f"{folder} is a store already: open it")
    if not is_unfinished(folder):
        raise AlreadyExistsError(f"{folder} exists and is not a store: give another path")


def is_unfinished(folder: Path) -> bool:
    """Whether a folder is empty, or has nothing but what a killed creation leaves."""
    if not folder.is_dir():
        return False
    entries = list(folder.iterdir())
    known = {*FOLDERS, LOCK}
    if not all(item.name in known or item.name.startswith(_TEMPORARY) for item in entries):
        return False
    # Nothing is written into the folders before the lock is held.
    locked = (folder / LOCK).exists()
    return locked or not any(item.is_dir() and any(item.iterdir()) for item in entries)
