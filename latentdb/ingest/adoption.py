"""Segments that the processes of a run have written, committed by the one writer of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError
from latentdb.images.discover import BadFile
from latentdb.ingest.known_images import KnownImages
from latentdb.store import plan as plans
from latentdb.store.compaction import compact_if_due
from latentdb.store.plan import Receipt
from latentdb.store.rows import Ints
from latentdb.store.segment import Segment
from latentdb.store.snapshot import Snapshot
from latentdb.store.writer import Writer, merge_types


@dataclass(eq=False)
class _Finished:
    """A segment, opened: the hashes of its ids, and their rows in the store."""

    segment: Segment
    hashes: NDArray[np.uint64]
    stored: Ints


def settle(writer: Writer) -> None:
    """Commit what was finished of a run on a cluster that was killed, and drop its plan."""
    root = writer.snapshot.folder
    plan = plans.read(root)
    if plan is not None:
        receipts = plans.read_receipts(root, plans.next_epoch(root, plan))
        for _, receipt in sorted(receipts.items()):
            if fits(receipt.types, writer.snapshot):
                adopt(writer, plan.first_row, [receipt])
    plans.remove(root)


def fits(types: Mapping[str, str], snapshot: Snapshot) -> bool:
    """Whether metadata of these types can go into the columns of a store."""
    try:
        merge_types(types, dict(snapshot.manifest.columns))
    except InvalidInputError:
        return False
    return True


def adopt(writer: Writer, first_row: int, receipts: Sequence[Receipt]) -> list[BadFile]:
    """Commit the segments of finished tasks, in the order of their rows.

    They become part of the store as they are, if their row numbers are free and no row has
    one of their ids.  Otherwise another writer, or another task, came first: then only the
    rows of ids that are not in the store are appended, under new numbers.

    Parameters
    ----------
    first_row
        Rows from this number on are of the same run.
    receipts
        Of finished tasks, ascending; their types fit the store's.

    Returns
    -------
    list of BadFile
        Images that are left out, because another one of the run has their id.
    """
    entries = [entry for receipt in receipts for entry in receipt.segments]
    if not entries:
        return []
    snapshot = writer.snapshot
    next_row = snapshot.manifest.next_row
    replaced = np.array([row for each in receipts for row in each.replaced], np.int64)
    finished = [part for receipt in receipts for part in _opened(snapshot, receipt)]
    stored = np.concatenate([part.stored for part in finished])
    hashes = np.concatenate([part.hashes for part in finished])
    is_new = len(np.unique(hashes)) == len(hashes) and entries[0].first_row >= next_row
    if is_new and np.array_equal(np.sort(stored[stored >= 0]), np.sort(replaced)):
        types: dict[str, str] = {}
        for receipt in receipts:
            merge_types(receipt.types, types)
        writer.adopt(entries, types, replaced)
        conflicts = []
    elif len(receipts) > 1:
        conflicts = [bad for each in receipts for bad in adopt(writer, first_row, [each])]
    else:
        conflicts = _append(writer, first_row, finished, replaced)
    compact_if_due(writer)
    return conflicts


def _opened(snapshot: Snapshot, receipt: Receipt) -> list[_Finished]:
    found = []
    for entry in receipt.segments:
        dtype = snapshot.manifest.dtype
        segment = Segment(snapshot.folder, entry, snapshot.dim, receipt.types, dtype)
        hashes = segment.hashes_by_position()
        found.append(_Finished(segment, hashes, snapshot.locate(list(segment.ids), hashes)))
    return found


def _append(
    writer: Writer, first_row: int, finished: Sequence[_Finished], replaced: Ints
) -> list[BadFile]:
    """Append the rows whose ids are not in the store, and those that replace their own rows."""
    known = KnownImages(writer.snapshot)
    conflicts: list[BadFile] = []
    blocks, gone = [], []
    for part in finished:
        ids, paths = list(part.segment.ids), list(part.segment.paths or ())
        stats = part.segment.file_stats
        own = np.isin(part.stored, replaced)
        taken = np.flatnonzero((part.stored < 0) | own)
        if known.any_deleted and stats is not None:
            digests = stats.digests.tolist()
            taken = np.array(
                [
                    place
                    for place in taken.tolist()
                    if not known.was_content_deleted(
                        ids[place], digests[place], known.rows_of(digests[place])
                    )
                ],
                np.int64,
            )
        for place in np.flatnonzero((part.stored >= first_row) & ~own).tolist():
            path, _ = writer.snapshot.content(int(part.stored[place]))
            if path != paths[place]:
                reason = f"its id {ids[place]!r} is that of another image of this run"
                conflicts.append(BadFile(paths[place], reason))
        if len(taken):
            blocks.append(part.segment.read(taken))
            gone.append(part.stored[taken][part.stored[taken] >= 0])
    if blocks:
        writer.append(blocks, np.concatenate(gone))
    return conflicts
