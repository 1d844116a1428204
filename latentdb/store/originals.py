"""The image files of rows, where they are still those that were indexed."""

from __future__ import annotations

import os

import numpy as np
import xxhash
from numpy.typing import NDArray

from latentdb.store.rows import Ints
from latentdb.store.snapshot import Snapshot

_PIECE = 1 << 20


def intact_paths(snapshot: Snapshot, rows: Ints) -> list[str | None]:
    """Paths of the files of rows; None where the file is gone, or has other content now.

    A file whose size and time are those of its row is not read.
    """
    paths = snapshot.paths(rows)
    for segment, positions, indices in snapshot.groups(rows):
        stats = segment.file_stats
        for position, index in zip(positions.tolist(), indices.tolist(), strict=True):
            path = paths[index]
            if path is None:
                continue
            try:
                found = os.stat(path)
            except (OSError, ValueError):
                paths[index] = None
                continue
            if stats is None or not stats.sizes[position]:
                continue  # of a row of which nothing is known but the path
            if found.st_size != stats.sizes[position] or (
                found.st_mtime_ns != stats.mtimes_ns[position]
                and file_digest(path) != int(stats.digests[position])
            ):
                paths[index] = None
    return paths


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
