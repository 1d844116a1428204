"""Merge small segments and drop deleted rows, while readers keep reading.

A merged segment is written beside the old ones and named by a new manifest.  The
old files are kept for readers of earlier versions until their grace ends.
Row numbers do not change, so the search index stays as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentdb.base.errors import StoreError
from latentdb.store.rows import Rows
from latentdb.store.snapshot import Snapshot
from latentdb.store.writer import SEGMENT_BYTES, Writer

MOST_SEGMENTS = 100  # small segments; they are merged when there are more
MOST_DELETED = 0.3  # share of the rows on disk; they are dropped when there are more
_LEAST_ROWS = 1000  # on disk; in a smaller store deleted rows cost readers nothing


@dataclass(frozen=True)
class CompactReport:
    """What a compaction did.

    Attributes
    ----------
    merged, written
        Segments replaced, and segments written in their place.
    dropped
        Deleted rows removed from disk.
    segments
        Segments after it.
    """

    merged: int
    written: int
    dropped: int
    segments: int


def compact(writer: Writer, *, everything: bool = True) -> CompactReport:
    """Merge segments, one commit a merged segment.

    Parameters
    ----------
    writer
        The writer of the store.
    everything
        Merge every segment that is small or has deleted rows; otherwise only the
        last ones, so that many small commits stay cheap.

    Returns
    -------
    CompactReport
        With zeros where there was nothing to do.
    """
    merged = written = dropped = 0
    for names in _groups(writer.snapshot, everything=everything):
        snapshot = writer.snapshot
        group = [segment for segment in snapshot.segments if segment.entry.file.name in names]
        live = [snapshot.live_positions(segment) for segment in group]
        pairs = list(zip(group, live, strict=True))
        rows = Rows.concat([segment.read(positions) for segment, positions in pairs])
        numbers = np.concatenate([segment.rows[positions] for segment, positions in pairs])
        try:
            writer.replace_segments([segment.entry for segment in group], rows, numbers)
        except StoreError as error:
            if everything:
                raise
            # Nobody asked for it: the rows are committed, and the next writer tries again.
            warnings.warn(
                f"segments were not merged ({error}); latentdb compact merges them",
                RuntimeWarning,
                stacklevel=3,
            )
            break
        dropped += sum(map(len, group)) - len(rows)
        merged += len(group)
        written += len(rows) > 0
    return CompactReport(merged, written, dropped, len(writer.snapshot.segments))


def compact_if_due(writer: Writer) -> None:
    """Merge the last segments where there are too many, or drop deleted rows."""
    if _is_due(writer.snapshot):
        compact(writer, everything=False)


def _is_due(snapshot: Snapshot) -> bool:
    """Whether there are so many small segments or deleted rows that reads become slower."""
    manifest = snapshot.manifest
    on_disk = manifest.rows + manifest.deleted_rows
    if on_disk >= _LEAST_ROWS and manifest.deleted_rows > MOST_DELETED * on_disk:
        return True
    small = sum(segment.file.bytes < SEGMENT_BYTES // 2 for segment in manifest.segments)
    return small > MOST_SEGMENTS


def _groups(snapshot: Snapshot, *, everything: bool) -> list[set[str]]:
    """Runs of neighbouring segments to merge, by file name, each at most about a full segment."""
    sizes = []
    for segment in snapshot.segments:
        alive = snapshot.live(segment)
        share = 1.0 if alive is None else float(alive.mean())
        sizes.append((segment.entry.file.name, share * segment.entry.file.bytes, share))
    start = 0
    if not everything and sum(size for _, size, share in sizes if share < 1) == 0:
        start = _first_of_last_run(sizes)
    groups: list[set[str]] = []
    run: list[tuple[str, float, float]] = []

    def close() -> None:
        if len(run) > 1 or any(share < 1 for _, _, share in run):
            groups.append({name for name, _, _ in run})
        run.clear()

    for item in sizes[start:]:
        if run and sum(size for _, size, _ in run) + item[1] > SEGMENT_BYTES:
            close()
        run.append(item)
    close()
    return groups


def _first_of_last_run(sizes: Sequence[tuple[str, float, float]]) -> int:
    """Index of the first segment of the last run that is worth merging.

    A segment joins the run while it is at most twice as large as all that follow
    it, so a row is rewritten only when its segment grows by half or more.
    """
    start = len(sizes)
    after = 0.0
    while start and (after == 0 or sizes[start - 1][1] <= 2 * after):
        start -= 1
        after += sizes[start][1]
    return start
