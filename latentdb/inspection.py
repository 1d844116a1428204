"""`Inspection`: what latents and rows of an open store are worth; a base of `Composition`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from latentdb.analysis import Analysis
from latentdb.ann.metrics import INDEXED_METRICS, L2, check_metric
from latentdb.base.errors import InvalidInputError
from latentdb.search.selection import check_column, column_values

if TYPE_CHECKING:
    from latentdb.base.progress import Report
    from latentdb.images.render import Cell
    from latentdb.insight.comparison import Comparison
    from latentdb.insight.duplicates import Duplicates
    from latentdb.insight.evaluation import Evaluation
    from latentdb.insight.outliers import Outlier, Outliers
    from latentdb.search.manager import IndexManager
    from latentdb.store.snapshot import Snapshot

PathLike = str | os.PathLike[str]
_SHEET_GROUPS, _SHEET_MEMBERS = 40, 8
_SHEET_OUTLIERS, _SHEET_PAIRS = 100, 4  # of a sheet, and of a line of it


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

        metrics = INDEXED_METRICS if metric is None else (_indexed(metric),)
        out = self._picture(out, overwrite=overwrite)
        snapshot = self._snapshot()
        entry = snapshot.manifest.index
        indexed = snapshot.default_metric if entry is None else entry.metric
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

    def duplicates(
        self,
        *,
        threshold: float | None = None,
        metric: str = L2,
        keep: str = "medoid",
        sheet: PathLike | None = None,
        overwrite: bool = False,
        seed: int = 0,
        report: Report | None = None,
    ) -> Duplicates:
        """Find images that the store has more than once: equal files, and near copies.

        Parameters
        ----------
        threshold
            Rows nearer than this are copies; by default it is calibrated: mild copies of 1,000
            images are encoded, and nearly all must be within it.  0 for equal images only.
        metric
            As in `query`, but ``"kl"``.
        keep
            Of each group the ``"medoid"``, or the ``"largest"`` file.
        sheet
            A picture: up to 40 groups, the farthest apart first, the one to keep at the left.
        overwrite
            Replace a picture that exists.
        seed
            Of the calibration.
        report
            Called with the progress.

        Raises
        ------
        InvalidInputError
            If an argument cannot be used, or the threshold cannot be calibrated.
        """
        from latentdb.base.progress import report_stage
        from latentdb.insight.duplicates import find_duplicates

        sheet = self._picture(sheet, overwrite=overwrite)
        snapshot = self._snapshot()
        model = snapshot.manifest.model

        found = find_duplicates(
            snapshot,
            self._rows(snapshot, None),
            self._index_manager.searcher(snapshot, _indexed(metric)),
            threshold=threshold,
            spec=None if model is None else self.codec.config.preprocessing,
            encode=None if model is None else self.codec.encode,
            keep=keep,
            seed=seed,
            report=report_stage(report, "comparing"),
        )
        if sheet is not None and found.groups:
            self._draw_duplicates(snapshot, found, sheet)
        return found

    def _draw_duplicates(self, snapshot: Snapshot, found: Duplicates, out: PathLike) -> None:
        from latentdb.images.render import contact_sheet, one_line, write_picture

        rows: list[list[Cell]] = [[]]
        for group in found.groups[:_SHEET_GROUPS]:
            shown = group.members[:_SHEET_MEMBERS]
            images = self._images(snapshot, snapshot.find([member.id for member in shown]))
            words = ["keep", *(f"{member.distance:.3f}" for member in shown[1:])]
            captions = [
                f"{word}\n{one_line(member.id)}" for word, member in zip(words, shown, strict=True)
            ]
            if len(rows[-1]) + len(shown) > _SHEET_MEMBERS:
                rows.append([])
            rows[-1] += zip(images, captions, strict=True)
        write_picture(out, contact_sheet(rows))

    def outliers(
        self,
        n: int = 20,
        *,
        by: str | None = None,
        where: str | None = None,
        k: int = 10,
        metric: str = L2,
        sheet: PathLike | None = None,
        overwrite: bool = False,
        report: Report | None = None,
    ) -> Outliers:
        """Find the rows that are most unlike the others, by one of three measures.

        Parameters
        ----------
        n
            Rows to name.
        by
            ``"error"``: how unusual the reconstruction error is beside the local texture of
            the image, whose file is read.  ``"kl"``: divergence of the posterior from the
            prior.  ``"distance"``: mean distance of the k nearest others.  By default the
            first of them that can be computed.
        where
            Only rows for which this expression is true.
        k, metric
            Of the distance; any metric but ``"kl"``.
        sheet
            A picture: each image beside its reconstruction, at most 100.
        overwrite
            Replace a picture that exists.
        report
            Called with the progress.

        Raises
        ------
        InvalidInputError
            If an argument cannot be used, or the measure cannot be computed here.
        NotFoundError
            If there are no rows.
        """
        from latentdb.base.progress import report_stage
        from latentdb.insight.outliers import find_outliers

        sheet = self._picture(sheet, overwrite=overwrite)
        snapshot = self._snapshot()
        has_decoder = self._has_decoder(snapshot)

        found = find_outliers(
            snapshot,
            self._rows(snapshot, where),
            self._index_manager.searcher(snapshot, _indexed(metric)),
            n=n,
            by=by,
            k=k,
            spec=self.codec.config.preprocessing if has_decoder else None,
            decode=self.codec.decode if has_decoder else None,
            report=report_stage(report, "comparing"),
        )
        if sheet is not None:
            self._draw_outliers(snapshot, found.top[:_SHEET_OUTLIERS], found.by, sheet)
        return found

    def _draw_outliers(
        self, snapshot: Snapshot, shown: Sequence[Outlier], by: str, out: PathLike
    ) -> None:
        from latentdb.images.render import contact_sheet, grid, one_line, write_picture

        rows = snapshot.find([outlier.id for outlier in shown])
        images = self._images(snapshot, rows)
        rebuilt = self.codec.decode(snapshot.vectors(rows), self._conditions(snapshot, rows))
        cells: list[Cell] = []
        for outlier, image, other in zip(shown, images, rebuilt, strict=True):
            cells.append((image, f"{by} {getattr(outlier, by):.2f}\n{one_line(outlier.id)}"))
            cells.append((other, "reconstruction"))
        write_picture(out, contact_sheet(grid(cells, 2 * _SHEET_PAIRS)))

    def compare(
        self,
        other: Inspection | PathLike,
        *,
        where: str | None = None,
        label: str | None = None,
        k: int = 10,
        metric: str = L2,
        rows: int = 5_000,
        out: PathLike | None = None,
        overwrite: bool = False,
        seed: int = 0,
    ) -> Comparison:
        """Find out how far another store of the same ids has the same neighbours.

        Of another model, or of another epoch of the same training.

        Parameters
        ----------
        other
            The other store, open or by its path.
        where
            Only rows of this store for which this expression is true.
        label
            Metadata column that the picture is coloured by; ``"label"`` where this store has
            it, else the overlap of each row.
        k, metric
            Neighbours of each row; any metric but ``"kl"``.
        rows
            Most rows to compare, 3 to 50,000; of more a sample is taken.
        out
            A picture: both maps, the second laid on the first.
        overwrite
            Replace a picture that exists.
        seed
            Of the sample, the pairs and the maps.

        Raises
        ------
        InvalidInputError
            If an argument cannot be used.
        NotFoundError
            If fewer than three ids are in both stores.
        """
        from latentdb.insight.comparison import compare, draw_comparison
        from latentdb.store.store import Store

        out = self._picture(out, overwrite=overwrite)
        snapshot = self._snapshot()
        check_column(snapshot, label)
        if isinstance(other, Inspection):
            second = other._snapshot()
        else:
            second = Store.open(other).snapshot()
        found, compared = compare(
            snapshot,
            second,
            self._rows(snapshot, where),
            k=k,
            metric=_indexed(metric),
            most=rows,
            seed=seed,
        )
        if out is not None:
            from latentdb.images.render import write_picture

            key = self._label(snapshot, label)
            values = None if key is None else column_values(snapshot, compared, key)
            names = (snapshot.folder.name, second.folder.name)
            write_picture(out, draw_comparison(found, values, key or "", names))
        return found


def _indexed(metric: str) -> str:
    if check_metric(metric) not in INDEXED_METRICS:
        raise InvalidInputError(f"metric {metric!r} has no index: use {', '.join(INDEXED_METRICS)}")
    return metric
