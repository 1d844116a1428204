"""Search in an engine, and measure its recall."""

from __future__ import annotations

import numpy as np

from latentdb.ann.exact import scan
from latentdb.ann.ranking import rank
from latentdb.base.errors import EngineError
from latentdb.engines.conditions import translate
from latentdb.engines.engine import Collection, Engine
from latentdb.search.embedded_rows import EmbeddedRows
from latentdb.search.results import Hits
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot

_QUERIES, _K = 200, 10


def read_collection(snapshot: Snapshot, engine: Engine) -> Collection:
    """What an engine holds of a store.

    Raises
    ------
    EngineError
        If it holds nothing, another store, or the beginning of a push.
    """
    held = engine.read()
    if held is None:
        raise EngineError(f"{engine.name} has no such collection: run latentdb push first")
    if held.store != snapshot.manifest.uuid:
        raise EngineError(
            f"the collection in {engine.name} is of another store ({held.store}): give --collection"
        )
    if not held.version:
        raise EngineError(f"the last push to {engine.name} was cut off: run latentdb push again")
    return held


def search_engine(
    snapshot: Snapshot,
    engine: Engine,
    held: Collection,
    queries: Floats,
    k: int,
    where: str | None = None,
    effort: int | None = None,
) -> Hits:
    """The nearest rows of each query, as `latentdb.search.searcher.Searcher` answers.

    Rows that the store has not any more are left out; those that were not pushed yet
    are not found.

    Parameters
    ----------
    queries
        float32 ``[q, dim]``, embedded in `Collection.space`.
    where
        Search only rows for which this expression is true.
    effort
        Instead of that of `held`.

    Raises
    ------
    FilterError
        If the expression is wrong.
    """
    condition = None if where is None else translate(where, held.columns)
    reach = k
    while True:
        l2, rows = engine.search(queries, reach, condition, effort or held.effort)
        gone = (rows >= 0) & ~snapshot.is_live(rows.ravel()).reshape(rows.shape)
        enough = (rows >= 0).sum(axis=1) - gone.sum(axis=1) >= k
        if (enough | (rows[:, -1] < 0)).all():
            break
        reach *= 2
    l2, rows = np.where(gone, np.float32(np.inf), l2), np.where(gone, -1, rows)
    order = l2.argsort(axis=1, kind="stable")[:, :k]
    l2, rows = np.take_along_axis(l2, order, axis=1), np.take_along_axis(rows, order, axis=1)
    return Hits(held.space.distances(l2), rows, exact=False, scanned=0)


def measure_recall(embedded: EmbeddedRows, engine: Engine, target: float) -> tuple[int, float]:
    """The least effort that finds the target share of the ten nearest rows of 200 queries.

    Rows themselves are found too easily, as the graph of the engine begins with them.  So a
    query lies beside a row, in a random direction, as far as the row's nearest neighbour does.

    Returns
    -------
    effort, recall
        The greatest effort and its recall, where none reaches the target.
    """
    live = embedded.snapshot.live_rows()
    if not len(live):
        return engine.efforts[0], 1.0
    generator = np.random.default_rng(0)
    rows = embedded.fetch(np.sort(generator.choice(live, min(_QUERIES, len(live)), False)))
    spacing = _nearest(embedded, rows, min(2, len(live)))[0][:, -1:]
    directions = generator.normal(size=rows.shape)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    queries = (rows + spacing * directions).astype(np.float32)
    k = min(_K, len(live))
    furthest = _nearest(embedded, queries, k)[0][:, -1:] * (1 + 1e-5) + 1e-6  # ties count alike
    effort, recall = engine.efforts[0], 0.0
    for effort in engine.efforts:
        distances, found = engine.search(queries, k, None, effort)
        recall = float(((distances <= furthest) & (found >= 0)).mean())
        if recall >= target:
            break
    return effort, recall


def _nearest(embedded: EmbeddedRows, queries: Floats, k: int) -> tuple[Floats, Ints]:
    """The true L2 distances and rows in the space."""
    return rank(queries, scan(embedded.blocks(), queries, k).rows, embedded.fetch, k)
