"""When to build the search index, and the one that is open."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from latentdb import query
from latentdb.compaction import compact, is_due
from latentdb.errors import CorruptStoreError, NotFoundError, StoreError
from latentdb.index import EXACT_ROWS, KIND, Fetch, VectorIndex
from latentdb.index import build as build_index
from latentdb.ingest import Progress, Report
from latentdb.manifest import FileEntry, IndexEntry, Settings
from latentdb.store import Snapshot, Writer

MOST_DELETED = 0.1  # of the rows in the index: they cost probes and find nothing


def _deleted_since(snapshot: Snapshot, entry: IndexEntry) -> int:
    """Rows that the index holds and that were deleted after it was built.

    Not all deleted rows below its coverage: those deleted before are not in it,
    and counting them would have every commit build it again.
    """
    alive = 0
    for segment in snapshot.segments:
        below = int(np.searchsorted(segment.rows, entry.rows_below))
        keep = snapshot.live(segment)
        alive += below if keep is None else int(keep[:below].sum())
    return entry.rows - alive


class IndexKeeper:
    """Opens the index of a store, and builds it where it is due."""

    def __init__(self) -> None:
        self._opened: tuple[str, VectorIndex | None] | None = None

    def open(self, snapshot: Snapshot) -> VectorIndex | None:
        """The index of a version; None where there is none, or it is damaged."""
        entry = snapshot.manifest.index
        if entry is None:
            return None
        if self._opened is None or self._opened[0] != entry.file.name:
            try:
                data = snapshot.file(entry.file)
                index = VectorIndex.load(data, entry.parameters, rows=entry.rows, dim=snapshot.dim)
                self._opened = entry.file.name, index
            except (CorruptStoreError, NotFoundError) as error:
                warnings.warn(
                    f"{error}; every row is scanned instead, latentdb optimize rebuilds it",
                    RuntimeWarning,
                    stacklevel=4,
                )
                self._opened = entry.file.name, None
        return self._opened[1]

    def maintain(self, writer: Writer, report: Report | None) -> None:
        """Merge segments and build the index where reading has become slow without."""
        if is_due(writer.snapshot):
            compact(writer, everything=False)
        manifest = writer.snapshot.manifest
        entry = manifest.index
        if entry is None:
            due = manifest.rows > max(EXACT_ROWS, manifest.settings.exact_rows)
        else:
            tail = manifest.next_row - entry.rows_below
            gone = _deleted_since(writer.snapshot, entry)
            due = gone > MOST_DELETED * entry.rows or tail > max(EXACT_ROWS, entry.rows // 2)
            due = due or self.open(writer.snapshot) is None
        if due:
            try:
                self.build(writer, manifest.settings, report)
            except StoreError as error:
                # The rows are committed: what was asked for is done.
                warnings.warn(
                    f"the search index was not built ({error}); latentdb optimize builds it",
                    RuntimeWarning,
                    stacklevel=3,
                )

    def build(self, writer: Writer, settings: Settings, report: Report | None) -> None:
        snapshot = writer.snapshot
        if len(snapshot) <= EXACT_ROWS:
            writer.drop_index(settings)
            return
        if report is not None:
            report(Progress(f"building the search index over {len(snapshot)} rows", 0, None))
        fetch: Fetch = snapshot.vectors
        made = build_index(
            list(query.blocks(snapshot)), snapshot.dim, fetch, recall=settings.recall
        )
        if made is None:
            # Tried again when the store has doubled.
            writer.drop_index(replace(settings, exact_rows=2 * len(snapshot)))
            return
        index, tuning = made
        writer.set_index(
            index.dump(),
            IndexEntry(
                file=FileEntry("", 0, ""),
                kind=KIND,
                rows_below=snapshot.manifest.next_row,
                rows=index.rows,
                parameters=tuning.parameters,
                recall_target=settings.recall,
                recall_measured=tuning.recall,
                recall_k=tuning.k,
                queries=tuning.queries,
                build_seconds=round(tuning.seconds, 3),
            ),
            settings,
        )
