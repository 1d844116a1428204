"""Quarantine: where a repair keeps the files that its version drops."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from latentdb.base.errors import NotFoundError, StoreNotFoundError
from latentdb.base.files import (
    checksum,
    make_folder,
    open_folder,
    read_limited,
    replace_atomically,
    sync_folder,
    write_new,
)
from latentdb.store.manifest import QUARANTINE, read_bytes, unique_name


def quarantine(root: Path, names: Iterable[str], version: int | str) -> None:
    """Hard-link damaged files into ``quarantine``, and copy the manifest that names them, durably.

    Called before the commit that drops them, so that no kill in between loses one.

    Parameters
    ----------
    root
        Folder of the store, whose lock is held.
    names
        Files, by name under `root`; those that are missing are passed over.
    version
        Of the manifest; ``"damaged"`` where that cannot be read, or is missing.

    Raises
    ------
    StoreError
        If the folder is a link, or a file cannot be kept.
    """
    folder = root / QUARANTINE
    make_folder(folder)
    with open_folder(folder) as target:
        with suppress(StoreNotFoundError):
            data = read_bytes(root)
            replace_atomically(folder / f"MANIFEST.{version}.{checksum(data)[:8]}.json", data)
        for name in sorted(names):
            path = root / name
            with suppress(FileNotFoundError, NotFoundError), open_folder(path.parent) as source:
                kept = path.name
                with suppress(FileNotFoundError):
                    here = os.stat(kept, dir_fd=source, follow_symlinks=False)
                    there = os.stat(kept, dir_fd=target, follow_symlinks=False)
                    if os.path.samestat(here, there):
                        continue  # linked by a repair that was killed
                    kept = f"{unique_name()[:8]}.{kept}"
                try:
                    os.link(
                        path.name,
                        kept,
                        src_dir_fd=source,
                        dst_dir_fd=target,
                        follow_symlinks=False,
                    )
                except FileNotFoundError:
                    raise
                except OSError:  # the file system has no hard links
                    write_new(folder / kept, read_limited(path, path.lstat().st_size))
    sync_folder(folder)
    sync_folder(root)
