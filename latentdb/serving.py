"""`Serving`: an open store whose rows another engine holds and searches."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from latentdb.ann.metrics import INDEXED_METRICS, KL, check_metric
from latentdb.base.errors import InvalidInputError
from latentdb.querying import DEFAULT_K
from latentdb.reader import Reader
from latentdb.search.results import Matches, to_matches
from latentdb.search.searcher import check_k
from latentdb.search.targets import TargetLike, stored_rows

if TYPE_CHECKING:
    from latentdb.base.progress import Report
    from latentdb.engines.push import PushReport


class Serving(Reader):
    """A `Reader` that pushes its rows to PostgreSQL or Milvus, and asks them."""

    def push(
        self,
        uri: str,
        *,
        collection: str | None = None,
        metric: str | None = None,
        report: Report | None = None,
    ) -> PushReport:
        """Make a collection of an engine hold the rows of this store.

        Only what the engine lacks is sent; what the store has not any more is removed.
        A push that was cut off is finished by the next.  At the end the digest of every row
        is read back, and the engine's effort is tuned to the recall target of the store.

        Parameters
        ----------
        uri
            ``postgresql://USER@HOST/DATABASE``, ``milvus:http://HOST:PORT`` or
            ``milvus:FILE.db``.
        collection
            The name of the table or collection; that of the store by default.
        metric
            Of all searches in it; the store's by default, any but ``"kl"``.
        report
            Called with the progress.

        Raises
        ------
        EngineError
            If the engine cannot be reached, or its collection is not of this store.
        MissingExtraError
            If its client is not installed.
        """
        from latentdb.engines.connect import open_engine
        from latentdb.engines.push import push

        snapshot = self._snapshot()
        metric = snapshot.default_metric if metric is None else check_metric(metric)
        if metric == KL:
            raise InvalidInputError(
                f"metric {KL!r} is no distance in a space: push {', '.join(INDEXED_METRICS)}"
            )
        with open_engine(uri, collection or self._collection_name()) as engine:
            return push(snapshot, engine, metric, report=report)

    def query_on(
        self,
        uri: str,
        target: TargetLike | None = None,
        *,
        collection: str | None = None,
        k: int = DEFAULT_K,
        where: str | None = None,
        effort: int | None = None,
        exclude_self: bool = False,
        like: Sequence[TargetLike] = (),
        unlike: Sequence[TargetLike] = (),
    ) -> Matches:
        """`query`, searched by an engine to which the store was pushed.

        Rows that were added since the last push are not found; deleted ones are left out.

        Parameters
        ----------
        uri, collection
            As in `push`, which also chose the metric.
        target, k, where, exclude_self, like, unlike
            As in `query`.
        effort
            How far the engine looks: ``hnsw.ef_search`` of PostgreSQL, ``ef`` of Milvus; by
            default what `push` has found for the recall target.

        Returns
        -------
        Matches
            `recall` is what `push` has measured; None for a query with `where`, or one that is
            no row of the store, for which nothing was measured.

        Raises
        ------
        EngineError
            If the engine cannot be reached, or the store was not pushed to it.
        FilterError
            If the expression is wrong, or has what the engine cannot do.
        """
        from latentdb.engines.connect import open_engine
        from latentdb.engines.serve import read_collection, search_engine

        k = check_k(k)
        snapshot = self._snapshot()
        examples, query = self._question(snapshot, target, like, unlike)
        with open_engine(uri, collection or self._collection_name()) as engine:
            held = read_collection(snapshot, engine)
            excluded = set().union(*stored_rows(snapshot, examples)) if exclude_self else set()
            count = min(k + len(excluded), max(len(snapshot), 1))
            hits = search_engine(
                snapshot, engine, held, held.space.embed(*query), count, where, effort
            )
        measured = where is None and effort is None and [one.kind for one in examples] == ["id"]
        matches = to_matches(snapshot, held.metric, hits, 0, excluded, k)
        return replace(matches, recall=held.recall if measured else None)

    def _collection_name(self) -> str:
        """The name of the store, as engines take names."""
        name = os.path.splitext(os.path.basename(os.path.abspath(self._open_store().path)))[0]
        return re.sub(r"\W|^(?=\d)", "_", name, flags=re.ASCII)[:60] or "_"
