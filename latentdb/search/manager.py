"""When the search index is built or extended, and the searchers that use the open one."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from latentdb.ann import plan as plans
from latentdb.ann.index import VectorIndex
from latentdb.ann.metrics import CENTERED_COSINE, INDEXED_METRICS, KL, Space
from latentdb.ann.plan import HNSW
from latentdb.base.errors import (
    CorruptStoreError,
    InvalidInputError,
    LockedError,
    NotFoundError,
    StoreError,
)
from latentdb.base.progress import Progress, Report
from latentdb.search.embedded_rows import EmbeddedRows
from latentdb.search.searcher import Searcher
from latentdb.search.selection import sum_rows
from latentdb.store.manifest import FileEntry, IndexEntry, Settings
from latentdb.store.snapshot import Snapshot
from latentdb.store.store import Store

# A process that only searches does not import what builds.
if TYPE_CHECKING:
    from latentdb.ann.tuning import Tuning

MAX_DELETED = 0.1  # share of the indexed rows; deleted ones cost probes and match nothing
_PASSES = 3  # at most, of a process that goes on building for what others add meanwhile
_BUILD, _EXTEND = "build", "extend"
_MAX_GROWTH = 2  # factor on the rows the index was trained on; beyond, its lists are too long


def _count_indexed_live(snapshot: Snapshot, entry: IndexEntry) -> int:
    """Number of live rows that the index covers.

    The other rows in it were deleted after it was built.  Counting all deleted
    rows below its limit instead would rebuild it at every commit: those deleted
    before it was built are not in it.
    """
    count = 0
    for segment in snapshot.segments:
        below = int(np.searchsorted(segment.rows, entry.rows_below))
        live = snapshot.live(segment)
        count += below if live is None else int(live[:below].sum())
    return count


def _is_truncated(index: VectorIndex | None) -> bool:
    return index is not None and not index.is_intact()


class IndexManager:
    """Opens the index of a store, hands out searchers, and builds the index when it is due."""

    def __init__(self, *, auto_index: bool = True) -> None:
        self._auto_index = auto_index
        self._opened: tuple[str, VectorIndex | None] | None = None
        self._searchers: dict[str, Searcher] = {}

    def open(self, snapshot: Snapshot) -> VectorIndex | None:
        """The index of a snapshot; None if there is none, or with a warning if it is damaged."""
        entry = snapshot.manifest.index
        if entry is None:
            return None
        opened = self._opened
        if opened is None or opened[0] != entry.file.name or _is_truncated(opened[1]):
            index: VectorIndex | None = None
            try:
                data = snapshot.file(entry.file)
                dim = Space(entry.metric).dim(snapshot.dim)
                index = VectorIndex.load(data, entry.parameters, rows=entry.rows, dim=dim)
            except (CorruptStoreError, NotFoundError) as error:
                warnings.warn(
                    f"{error}; every row is scanned instead, latentdb optimize rebuilds it",
                    RuntimeWarning,
                    stacklevel=4,
                )
            opened = self._opened = entry.file.name, index
        return opened[1]

    def searcher(self, snapshot: Snapshot, metric: str) -> Searcher:
        """A searcher of a snapshot under a metric; the same object while nothing changed."""
        found = self._searchers.get(metric)
        if found is None or found.snapshot is not snapshot or _is_truncated(found.index):
            entry = snapshot.manifest.index
            usable = entry is not None and entry.metric == metric
            index = self.open(snapshot) if usable else None
            found = self._searchers[metric] = Searcher(snapshot, index, metric=metric)
        return found

    def update(self, store: Store, report: Report | None) -> None:
        """Build or extend the index where that is due after a commit; others write meanwhile.

        Without `auto_index` it is left to `latentdb optimize`; while another process builds,
        to that one, which looks again when it has ended.
        """
        if not self._auto_index:
            return
        try:
            for _ in range(_PASSES):
                if not self._is_due(store.snapshot()):
                    return
                with ExitStack() as lock:
                    try:
                        lock.enter_context(store.index_lock(0))
                    except LockedError:
                        return
                    self._update(store, report)
        except (StoreError, InvalidInputError) as error:
            # The rows are committed: the call succeeded.
            warnings.warn(
                f"the search index was not built ({error}); latentdb optimize builds it",
                RuntimeWarning,
                stacklevel=5,  # of the caller of the method that wrote
            )

    def _is_due(self, snapshot: Snapshot) -> str:
        """``"extend"`` or ``"build"`` where one is due; else empty."""
        manifest = snapshot.manifest
        entry = manifest.index
        if entry is None:
            settings = manifest.settings
            dim = Space(settings.metric).dim(snapshot.dim)
            limit = plans.exact_rows(dim, prefer=settings.prefer)
            return _BUILD if manifest.rows > max(limit, settings.exact_rows) else ""
        indexed_live = _count_indexed_live(snapshot, entry)
        # Live rows only: a row that is replaced repeatedly is scanned once.
        unindexed, deleted = manifest.rows - indexed_live, entry.rows - indexed_live
        dim = Space(entry.metric).dim(snapshot.dim)
        too_many = unindexed > plans.unindexed_rows(entry.rows, dim)
        outgrown = manifest.rows > _MAX_GROWTH * max(entry.trained_rows, 1)
        index = self.open(snapshot)
        if index is None or deleted > MAX_DELETED * entry.rows or (too_many and outgrown):
            return _BUILD
        return _EXTEND if too_many else ""

    def _update(self, store: Store, report: Report | None) -> None:
        snapshot = store.snapshot()  # another process may have built it before the lock was taken
        due = self._is_due(snapshot)
        if due == _EXTEND and self._extend(store, snapshot, report):
            return
        if due:
            self.build(store, snapshot.manifest.settings, report)

    def _extend(self, store: Store, snapshot: Snapshot, report: Report | None) -> bool:
        """Add the unindexed rows to a copy of the index, in a tenth of the time of a build.

        Returns
        -------
        bool
            Whether the copy reaches the recall, and was committed.
        """
        from latentdb.ann.builder import extend

        index, entry = self.open(snapshot), snapshot.manifest.index
        if index is None or entry is None:
            return False
        _report(report, f"adding {len(snapshot) - entry.rows} rows to the search index")
        rows = EmbeddedRows(snapshot, entry.metric)
        settings = snapshot.manifest.settings
        extended = extend(
            index.copy(),
            rows.blocks,
            rows.dim,
            rows.fetch,
            recall=settings.recall,
            deleted=snapshot.deleted,
        )
        if extended is None:
            return False
        _commit(store, rows, *extended, settings, entry.trained_rows, extended=True)
        return True

    def build(self, store: Store, settings: Settings, report: Report | None) -> str:
        """Build the index, or drop it where an exact scan is better.

        It is built from the version of now, and committed if the settings are still those
        of that version; the lock of the writer is held for the commit alone.

        Parameters
        ----------
        store
            Whose index lock is held.
        settings
            To build it with, and to store.
        report
            Called with the progress.

        Returns
        -------
        str
            Why there is no index, or not the one preferred; empty otherwise.

        Raises
        ------
        InvalidInputError
            If the metric has no index, or needs a z_log_var that the store lacks.
        LockedError
            If another process writes at the end, for longer than the lock is waited for.
        StoreError
            If the settings were changed meanwhile.
        """
        from latentdb.ann.builder import build as build_index

        snapshot = store.snapshot()
        if settings.metric == KL:
            raise InvalidInputError(f"metric 'kl' has no index: use {', '.join(INDEXED_METRICS)}")
        if Space(settings.metric).posterior and not all(
            segment.has_log_var for segment in snapshot.segments
        ):
            raise InvalidInputError(
                f"metric {settings.metric!r} compares posteriors, and this store has no z_log_var: "
                "use l2, cosine or centered_cosine"
            )
        if settings.metric == CENTERED_COSINE and not settings.centre and len(snapshot):
            total, count = sum_rows(snapshot, None)
            settings = replace(settings, centre=tuple((total / count).tolist()))
        rows = EmbeddedRows(snapshot, settings.metric, settings.centre)
        chosen = plans.plan(
            len(snapshot), rows.dim, settings.memory or None, prefer=settings.prefer
        )
        if not chosen.kinds:
            unindexed = replace(settings, exact_rows=0)
            manifest = snapshot.manifest
            if manifest.index is not None or manifest.settings != unindexed:
                _drop(store, snapshot, unindexed)
            return chosen.why
        _report(report, f"building the search index over {len(snapshot)} rows")
        built = build_index(
            rows.blocks,
            rows.dim,
            rows.fetch,
            chosen,
            recall=settings.recall,
            report=lambda stage, done, total: _report(report, stage, done, total),
        )
        if built is None:
            # Try again when the store has doubled.
            _drop(store, snapshot, replace(settings, exact_rows=2 * len(snapshot)))
            return f"no index reaches recall {settings.recall} with less work than a scan"
        _commit(store, rows, *built, settings, len(snapshot))
        if not chosen.why and HNSW in chosen.kinds and built[1].kind != HNSW:
            return f"{built[1].kind} was measured to be as fast as {HNSW}"
        return chosen.why


def _commit(
    store: Store,
    rows: EmbeddedRows,
    index: VectorIndex,
    tuning: Tuning,
    settings: Settings,
    trained_rows: int,
    *,
    extended: bool = False,
) -> None:
    built_from = rows.snapshot
    entry = IndexEntry(
        file=FileEntry("", 0, ""),
        kind=tuning.kind,
        rows_below=built_from.manifest.next_row,
        rows=index.rows,
        parameters=tuning.parameters,
        recall_target=settings.recall,
        recall_measured=tuning.recall,
        recall_k=tuning.k,
        queries=tuning.queries,
        build_seconds=round(tuning.seconds, 3),
        metric=rows.metric,
        trained_rows=trained_rows,
        milliseconds=round(tuning.milliseconds, 4),
    )
    with store.index_file(index.dump()) as file, store.writer() as writer:
        writer.set_index(file, entry, settings, built_from=built_from, extended=extended)


def _drop(store: Store, snapshot: Snapshot, settings: Settings) -> None:
    """Commit that there is no index, unless the settings of `snapshot` were changed meanwhile."""
    with store.writer() as writer:
        if writer.snapshot.manifest.settings == snapshot.manifest.settings:
            writer.drop_index(settings)


def _report(report: Report | None, stage: str, done: int = 0, total: int | None = None) -> None:
    if report is not None:
        report(Progress(stage, done, total))
