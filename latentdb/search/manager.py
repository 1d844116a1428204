"""When to build the search index, the one that is open, and what searches with it."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from latentdb.ann import plan as plans
from latentdb.ann.index import VectorIndex
from latentdb.ann.metrics import KL, Space
from latentdb.ann.plan import HNSW
from latentdb.base.errors import CorruptStoreError, InvalidInputError, NotFoundError, StoreError
from latentdb.base.progress import Progress, Report
from latentdb.search.searcher import Searcher
from latentdb.store.manifest import FileEntry, IndexEntry, Settings
from latentdb.store.snapshot import Snapshot
from latentdb.store.writer import Writer

# Whoever only searches does without what builds.
if TYPE_CHECKING:
    from latentdb.ann.tuning import Tuning

MOST_DELETED = 0.1  # of the rows in the index: they cost probes and find nothing
# The rows newer than the index may be so many, or one in fifty of it.  Fewer than a store without
# index may have: each query pays for them on top of the index.
_TAIL_ROWS, _TAIL = 20_000, 50
_GROWN = 2  # times the rows it was built for: its lists are too long, it is built anew


def _alive_below(snapshot: Snapshot, entry: IndexEntry) -> int:
    """Rows that the index covers and that are alive.

    What it holds beyond them was deleted after it was built.  Not all deleted
    rows below its coverage are: those deleted before are not in it, and
    counting them would have every commit build it again.
    """
    alive = 0
    for segment in snapshot.segments:
        below = int(np.searchsorted(segment.rows, entry.rows_below))
        keep = snapshot.live(segment)
        alive += below if keep is None else int(keep[:below].sum())
    return alive


def _is_cut(index: VectorIndex | None) -> bool:
    return index is not None and not index.is_intact()


class IndexManager:
    """Opens the index of a store, and builds it where it is due."""

    def __init__(self) -> None:
        self._opened: tuple[str, VectorIndex | None] | None = None
        self._searchers: dict[str, Searcher] = {}

    def open(self, snapshot: Snapshot) -> VectorIndex | None:
        """The index of a version; None where there is none, or it is damaged."""
        entry = snapshot.manifest.index
        if entry is None:
            return None
        opened = self._opened
        if opened is None or opened[0] != entry.file.name or _is_cut(opened[1]):
            index: VectorIndex | None = None
            try:
                data = snapshot.file(entry.file)
                dim = Searcher(snapshot, metric=entry.metric).space.dim(snapshot.dim)
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
        """What searches a version under a metric; the same object while nothing changed."""
        found = self._searchers.get(metric)
        if found is None or found.snapshot is not snapshot or _is_cut(found.index):
            entry = snapshot.manifest.index
            serves = entry is not None and entry.metric == metric
            index = self.open(snapshot) if serves else None
            found = self._searchers[metric] = Searcher(snapshot, index, metric=metric)
        return found

    def maintain(self, writer: Writer, report: Report | None) -> None:
        """Merge segments and build the index where reading has become slow without."""
        from latentdb.store.compaction import compact, is_due

        if is_due(writer.snapshot):
            compact(writer, everything=False)
        try:
            self._maintain(writer, report)
        except (StoreError, InvalidInputError) as error:
            # The rows are committed: what was asked for is done.
            warnings.warn(
                f"the search index was not built ({error}); latentdb optimize builds it",
                RuntimeWarning,
                stacklevel=3,
            )

    def _maintain(self, writer: Writer, report: Report | None) -> None:
        manifest = writer.snapshot.manifest
        entry = manifest.index
        if entry is None:
            settings = manifest.settings
            dim = Space(settings.metric).dim(writer.snapshot.dim)
            limit = plans.exact_rows(dim, prefer=settings.prefer)
            if manifest.rows > max(limit, settings.exact_rows):
                self.build(writer, manifest.settings, report)
            return
        alive = _alive_below(writer.snapshot, entry)
        # Alive, too: a row that is replaced over and over is only one to scan.
        tail, gone = manifest.rows - alive, entry.rows - alive
        index = self.open(writer.snapshot)
        long = tail > max(min(_TAIL_ROWS, plans.EXACT_ROWS), entry.rows // _TAIL)
        due = index is None or gone > MOST_DELETED * entry.rows
        due = due or (long and manifest.rows > _GROWN * max(entry.trained_rows, 1))
        if index is not None and long and not due:
            due = not self._extend(writer, index, entry, report)
        if due:
            self.build(writer, manifest.settings, report)

    def _extend(
        self, writer: Writer, index: VectorIndex, entry: IndexEntry, report: Report | None
    ) -> bool:
        """Add the rows newer than the index to it, which takes a tenth of building it."""
        from latentdb.ann.tuning import extend

        snapshot = writer.snapshot
        _tell(report, f"adding {len(snapshot) - entry.rows} rows to the search index", 0, None)
        searcher = Searcher(snapshot, index, metric=entry.metric)
        made = extend(
            index.copy(),
            searcher.blocks,
            searcher.space.dim(snapshot.dim),
            searcher.fetch,
            recall=snapshot.manifest.settings.recall,
            deleted=snapshot.deleted,
        )
        if made is None:
            return False
        settings = snapshot.manifest.settings
        _commit(writer, searcher, *made, settings, entry.trained_rows, extended=True)
        return True

    def build(self, writer: Writer, settings: Settings, report: Report | None) -> str:
        """Build the index anew; say why there is none, where there is none.

        Raises
        ------
        InvalidInputError
            If the metric can have no index.
        """
        from latentdb.ann.tuning import build as build_index

        snapshot = writer.snapshot
        if settings.metric == KL:
            raise InvalidInputError("metric 'kl' can have no index: use wasserstein, or no index")
        if Space(settings.metric).posterior and not all(
            segment.has_log_var for segment in snapshot.segments
        ):
            raise InvalidInputError(
                f"metric {settings.metric!r} compares posteriors, and this store has no z_log_var: "
                "use l2 or cosine"
            )
        searcher = Searcher(snapshot, metric=settings.metric, anew=True)
        dim = searcher.space.dim(snapshot.dim)
        chosen = plans.plan(len(snapshot), dim, settings.memory or None, prefer=settings.prefer)
        if not chosen.kinds:
            kept = replace(settings, exact_rows=0)
            manifest = snapshot.manifest
            if manifest.index is not None or manifest.settings != kept:
                writer.drop_index(kept)
            return chosen.why
        _tell(report, f"building the search index over {len(snapshot)} rows", 0, None)
        made = build_index(
            searcher.blocks,
            dim,
            searcher.fetch,
            chosen,
            recall=settings.recall,
            report=lambda stage, done, total: _tell(report, stage, done, total),
        )
        if made is None:
            # Tried again when the store has doubled.
            writer.drop_index(replace(settings, exact_rows=2 * len(snapshot)))
            return f"no index reaches recall {settings.recall} with less work than a scan"
        _commit(writer, searcher, *made, settings, len(snapshot))
        if not chosen.why and HNSW in chosen.kinds and made[1].kind != HNSW:
            return f"{made[1].kind} was measured to be as fast as {HNSW}"
        return chosen.why


def _commit(
    writer: Writer,
    searcher: Searcher,
    index: VectorIndex,
    tuning: Tuning,
    settings: Settings,
    trained_rows: int,
    *,
    extended: bool = False,
) -> None:
    centre = searcher.space.centre
    writer.set_index(
        index.dump(),
        IndexEntry(
            file=FileEntry("", 0, ""),
            kind=tuning.kind,
            rows_below=writer.snapshot.manifest.next_row,
            rows=index.rows,
            parameters=tuning.parameters,
            recall_target=settings.recall,
            recall_measured=tuning.recall,
            recall_k=tuning.k,
            queries=tuning.queries,
            build_seconds=round(tuning.seconds, 3),
            metric=searcher.metric,
            centre=() if centre is None else tuple(centre.tolist()),
            trained_rows=trained_rows,
            milliseconds=round(tuning.milliseconds, 4),
        ),
        settings,
        extended=extended,
    )


def _tell(report: Report | None, stage: str, done: int, total: int | None) -> None:
    if report is not None:
        report(Progress(stage, done, total))
