"""A store whose name is nearly that of one that is not there."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

_MAX_BESIDE = 1_000  # entries of a folder that are looked at


def similar_store(folder: Path, manifest: str) -> str:
    """A store beside a folder with nearly its name, as a hint; empty where there is none.

    Parameters
    ----------
    manifest
        Name of the file by which a store is known.
    """
    from difflib import get_close_matches

    try:
        with os.scandir(folder.parent) as entries:
            beside = [entry.name for entry in islice(entries, _MAX_BESIDE) if entry.is_dir()]
    except OSError:
        return ""
    stores = [name for name in beside if os.path.exists(folder.parent / name / manifest)]
    close = get_close_matches(folder.name, stores, n=1)
    return f"did you mean {folder.parent / close[0]}? Or " if close else ""
