"""The image files of rows, where they are still those that were indexed."""

from __future__ import annotations

import os

import numpy as np
import xxhash
from numpy.typing import NDArray

from latentdb.images.sources import image_exists, read_members, split_member_path
from latentdb.store.rows import Ints
from latentdb.store.snapshot import Snapshot

_PIECE = 1 << 20


def intact_paths(snapshot: Snapshot, rows: Ints) -> list[str | None]:
    """Paths of the files of rows; None where the file is gone, or has other content now.

    A file whose size and time are those of its row is not read, nor is an image in an
    archive of the time that it had; those in another archive are, in one pass.
    """
    paths = snapshot.paths(rows)
    members: dict[str, dict[str, list[int]]] = {}  # of archives of another time, by name
    digests: dict[int, int] = {}
    for segment, positions, indices in snapshot.groups(rows):
        stats = segment.file_stats
        for position, index in zip(positions.tolist(), indices.tolist(), strict=True):
            path = paths[index]
            if path is None:
                continue
            if stats is None or not stats.sizes[position] > 0:  # nothing is known but the path
                paths[index] = path if image_exists(path) else None
                continue
            size, time = int(stats.sizes[position]), int(stats.mtimes_ns[position])
            digests[index] = int(stats.digests[position])
            intact = _is_intact(path, size, time, digests[index])
            if intact is None:
                archive, name = split_member_path(path) or ("", "")
                members.setdefault(archive, {}).setdefault(name, []).append(index)
            if not intact:
                paths[index] = None
    for archive, names in members.items():
        for name, data in read_members(archive, names):
            digest = xxhash.xxh3_64_intdigest(data)
            for index in names[name]:
                paths[index] = f"{archive}!{name}" if digests[index] == digest else None
    return paths


def _is_intact(path: str, size: int, mtime_ns: int, digest: int) -> bool | None:
    """Whether a file is the one of its row; None for a member of an archive of another time."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return _is_intact_member(path, mtime_ns)
    if found.st_size != size:
        return False
    return found.st_mtime_ns == mtime_ns or file_digest(path) == digest


def _is_intact_member(path: str, mtime_ns: int) -> bool | None:
    parts = split_member_path(path)
    if parts is None:
        return False
    try:
        return os.stat(parts[0]).st_mtime_ns == mtime_ns or None
    except (OSError, ValueError):
        return False


def file_digest(path: str) -> int | None:
    """xxh3 of the content of a file; None if it cannot be read, or is no regular file."""
    digest = xxhash.xxh3_64()
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    except OSError:
        return None
    return digest.intdigest()


def rows_of_content(snapshot: Snapshot, digest: int) -> Ints:
    """Rows, deleted ones too, whose files had a content, by its xxh3."""
    found: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    for segment in snapshot.segments:
        stats = segment.file_stats
        if stats is not None:
            equal = (stats.digests == np.uint64(digest)) & (stats.sizes > 0)
            found.append(segment.rows[np.flatnonzero(equal)])
    return np.concatenate(found)
