"""Labels of images by the folders that they lie in."""

from __future__ import annotations

import os
from collections.abc import Sequence

SPLITS = frozenset(
    ("train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval")
)  # what folders are called that hold parts of a data set, and not a class
_SHOWN = 5  # labels that a note names
_MOST = 1_000  # labels that are kept for it


class FolderLabels:
    """Gives an image its topmost folder as label; where these are only splits, its nearest.

    Threads may share it.

    Parameters
    ----------
    sources
        Absolute paths of the folders and files of a run.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        tops = {name.casefold() for source in sources for name in _folders(source)}
        self._streamed = not any(map(os.path.isdir, sources))  # what is in archives shows later
        self.nearest = bool(tops) and tops <= SPLITS
        self._seen: set[str] = set()

    def label(self, name: str) -> str | None:
        """The label of an id; None for an image in no folder, or in none but that of a split."""
        folders = name.split("/")[:-1]
        if self._streamed and folders and folders[0].casefold() in SPLITS:
            self.nearest = True
        if self.nearest and len(folders) == 1 and folders[0].casefold() in SPLITS:
            return None
        if not folders:
            return None
        label = folders[-1 if self.nearest else 0]
        if len(self._seen) <= _MOST:
            self._seen.add(label)
        return label

    def note(self) -> str:
        """Which folders gave the labels, and what these are."""
        if not self._seen:
            return "no image got a label: none lies in a folder below the ones given"
        which = "nearest folder, as the topmost are splits" if self.nearest else "topmost folder"
        some = ", ".join(sorted(self._seen)[:_SHOWN]) + (
            ", ..." if len(self._seen) > _SHOWN else ""
        )
        count = f"more than {_MOST:,}" if len(self._seen) > _MOST else f"{len(self._seen):,}"
        return f"labels from the {which}: {count} ({some})"


def _folders(source: str) -> list[str]:
    """Names of the folders in a folder that are searched."""
    try:
        with os.scandir(source) as entries:
            return [each.name for each in entries if each.name[:1] != "." and each.is_dir()]
    except OSError:
        return []
