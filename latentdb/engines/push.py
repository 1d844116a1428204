"""Make an engine hold what a version of a store holds.

Nothing is remembered of a push that was cut off: the digests that the engine holds say what
it still lacks.  So a push can be run again at any time, and the last step reads all of them back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from latentdb.base.errors import EngineError
from latentdb.base.progress import Progress, Report
from latentdb.engines.engine import Collection, Engine, EngineRows
from latentdb.engines.rows import batch_rows, live_batches, read_engine_rows
from latentdb.engines.serve import measure_recall
from latentdb.search.embedded_rows import EmbeddedRows
from latentdb.store.rows import Ints
from latentdb.store.snapshot import Snapshot

_LAST_ROW = 2**63 - 1
_READ_BACK = 1_000  # rows whose vectors are compared, too


@dataclass(frozen=True)
class PushReport:
    """What a push did.

    Attributes
    ----------
    rows
        In the engine now.
    pushed, deleted, unchanged
        Rows that were sent, removed from the engine, and there already.
    effort, recall
        How far the engine looks for each query, in its own unit, and the recall@10 that
        was measured with it.
    """

    rows: int
    pushed: int
    deleted: int
    unchanged: int
    effort: int
    recall: float


@dataclass(frozen=True)
class _Difference:
    """Of one range of row numbers: what the engine lacks, what it has too many, what fits."""

    lacking: EngineRows
    surplus: Ints
    unchanged: int


def push(
    snapshot: Snapshot, engine: Engine, metric: str, *, report: Report | None = None
) -> PushReport:
    """Send to an engine what it lacks of a version, and remove what the version has not.

    Parameters
    ----------
    metric
        In whose space the engine compares rows.

    Raises
    ------
    EngineError
        If the collection is of another store, or does not hold at the end what was sent.
    """
    embedded = EmbeddedRows(snapshot, metric)
    wanted = Collection(
        store=snapshot.manifest.uuid,
        version=0,
        metric=metric,
        dim=embedded.dim,
        columns=dict(snapshot.manifest.columns),
        centre=() if embedded.space.centre is None else tuple(embedded.space.centre.tolist()),
    )
    engine.lock()
    held = engine.read()
    if held is not None and held.store != wanted.store:
        raise EngineError(
            f"the collection in {engine.name} is of another store ({held.store}): "
            "give another name with --collection"
        )
    if held is None or replace(held, version=0, effort=0, recall=0.0) != wanted:
        engine.create(wanted)
    pushed = deleted = unchanged = done = 0
    for difference, rows in _differences(embedded, engine):
        if len(difference.surplus):
            engine.delete(difference.surplus)
        if len(difference.lacking):
            engine.upsert(difference.lacking)
        pushed += len(difference.lacking)
        deleted += len(difference.surplus)
        unchanged += difference.unchanged
        done += rows
        if report is not None:
            report(Progress("pushing", done, len(snapshot)))
    if report is not None:
        report(Progress("indexing", 0, None))
    engine.build_index()
    _check(embedded, engine)
    effort, recall = measure_recall(embedded, engine, snapshot.manifest.settings.recall)
    engine.record(replace(wanted, version=snapshot.manifest.version, effort=effort, recall=recall))
    return PushReport(len(snapshot), pushed, deleted, unchanged, effort, recall)


def _differences(embedded: EmbeddedRows, engine: Engine) -> Iterator[tuple[_Difference, int]]:
    """By ranges of row numbers that cover all: how the engine differs, and the rows compared."""
    first = 0
    for rows in live_batches(embedded.snapshot, batch_rows(embedded.dim)):
        last = int(rows[-1])
        yield _difference(embedded, engine, rows, first, last), len(rows)
        first = last + 1
    yield _difference(embedded, engine, np.empty(0, np.int64), first, _LAST_ROW), 0


def _difference(
    embedded: EmbeddedRows, engine: Engine, rows: Ints, first: int, last: int
) -> _Difference:
    limit = 2 * batch_rows(embedded.dim)
    held, digests = engine.digests(first, last, limit)
    if len(held) == limit:  # more may be there, all but `rows` of them deleted from the store
        held, digests = _all_digests(engine, first, last, limit)
    order = held.argsort()
    held, digests = held[order], digests[order]
    surplus = held[~np.isin(held, rows)]
    wanted = read_engine_rows(embedded, rows)
    if not len(held):
        return _Difference(wanted, surplus, 0)
    nearest = np.minimum(held.searchsorted(rows), len(held) - 1)
    same = (held[nearest] == rows) & (digests[nearest] == wanted.digests)
    return _Difference(wanted.take(np.flatnonzero(~same)), surplus, int(same.sum()))


def _all_digests(engine: Engine, first: int, last: int, limit: int) -> tuple[Ints, Ints]:
    """`Engine.digests` of a range by halves, where one answer does not hold them all."""
    held, digests = engine.digests(first, last, limit)
    if len(held) < limit:
        return held, digests
    middle = (first + last) // 2
    parts = [
        _all_digests(engine, first, middle, limit),
        _all_digests(engine, middle + 1, last, limit),
    ]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _check(embedded: EmbeddedRows, engine: Engine) -> None:
    """Compare the digest of every row with what the engine holds, and the vectors of some."""
    for difference, _ in _differences(embedded, engine):
        if len(difference.lacking) or len(difference.surplus):
            raise EngineError(
                f"{engine.name} does not hold what was sent: {len(difference.lacking)} rows "
                f"differ and {len(difference.surplus)} are too many: push again"
            )
    rows = embedded.snapshot.live_rows()
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), _READ_BACK)).astype(int)]
    size = batch_rows(embedded.dim)
    for start in range(0, len(some), size):
        part = some[start : start + size]
        if not np.array_equal(engine.vectors(part), embedded.fetch(part)):
            raise EngineError(f"{engine.name} holds other vectors than were sent: push again")
