"""`Inspection`: what the latents and the rows of an open store are worth; a base of `Outputs`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from latentdb.analysis import Analysis
from latentdb.ann.metrics import INDEXED_METRICS, check_metric
from latentdb.base.errors import InvalidInputError

if TYPE_CHECKING:
    from latentdb.insight.evaluation import Evaluation
    from latentdb.search.manager import IndexManager

PathLike = str | os.PathLike[str]


class Inspection(Analysis):
    """The calls of `Reader` that judge latents, neighbours and rows."""

    _index_manager: IndexManager

    def eval(
        self,
        *,
        where: str | None = None,
        label: str | None = None,
        metric: str | None = None,
        k: int = 10,
        queries: int = 2_000,
        out: PathLike | None = None,
        overwrite: bool = False,
        seed: int = 0,
    ) -> Evaluation:
        """Measure recall, how well neighbours agree in their labels, and reconstructions.

        A sample of queries is compared with at most 50,000 rows, under every metric and
        beside raw pixels and PCA, which is fitted on other rows than the queries.

        Parameters
        ----------
        where
            Only rows for which this expression is true.
        label
            Metadata column with labels; ``"label"`` where the store has it.
        metric
            Only this one instead of all that the store can be searched by.
        k
            Neighbours of each query.
        queries
            Most queries.
        out
            A picture: the scores as bars.
        overwrite
            Replace a picture that exists.

        Raises
        ------
        InvalidInputError
            If an argument cannot be used, or there is no such column.
        NotFoundError
            If there are fewer than two rows.
        """
        from latentdb.insight.charts import draw_evaluation
        from latentdb.insight.evaluation import evaluate

        if metric is not None and check_metric(metric) not in INDEXED_METRICS:
            raise InvalidInputError(
                f"metric {metric!r} has no index: use {', '.join(INDEXED_METRICS)}"
            )
        metrics = INDEXED_METRICS if metric is None else (metric,)
        out = self._picture(out, overwrite=overwrite)
        snapshot = self._snapshot()
        entry = snapshot.manifest.index
        indexed = INDEXED_METRICS[0] if entry is None else entry.metric
        spec = None if snapshot.manifest.model is None else self.codec.config.preprocessing
        found = evaluate(
            snapshot,
            self._rows(snapshot, where),
            self._index_manager.searcher(snapshot, indexed),
            spec=spec,
            decode=self.codec.decode if self._has_decoder(snapshot) else None,
            label=self._label(snapshot, label),
            metrics=metrics,
            k=k,
            queries=queries,
            seed=seed,
        )
        if out is not None:
            from latentdb.images.render import write_picture

            write_picture(out, draw_evaluation(found))
        return found
