"""`Annotation`: what is found out about rows, kept as their metadata; a base of `LatentDB`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latentdb.base.errors import AlreadyExistsError, ModelError
from latentdb.base.progress import report_stage
from latentdb.editing import Editing
from latentdb.insight.errors import measure, unmeasured
from latentdb.store import edits
from latentdb.store.columns import MEASURED, Column, check_key
from latentdb.store.rows import Ints

if TYPE_CHECKING:
    from latentdb.base.progress import Report
    from latentdb.insight.clusters import Clustering

_COMMIT_ROWS = 65_536


class Annotation(Editing):
    """The calls of `LatentDB` that write what was found out into metadata columns."""

    def measure_errors(self, *, report: Report | None = None) -> int:
        """Keep how well each image is reconstructed, where that is not known yet.

        In the columns ``reconstruction_error``, the root mean square error of a pixel, and
        ``texture``, that of the image against its own mean over 3x3 pixels, both in levels of
        255.  `outliers` takes them from there.  A commit is made every 65,536 rows.

        Parameters
        ----------
        report
            Called with the progress.

        Returns
        -------
        int
            Number of rows measured now; rows whose file cannot be read are left out.

        Raises
        ------
        ModelError
            If the store has no decoder.
        LockedError
            If another process is writing.
        """
        snapshot = self._snapshot()
        if not self._has_decoder(snapshot):
            raise ModelError("this store has no decoder: errors of reconstructions need one")
        codec, measured = self.codec, 0
        rows, stage = unmeasured(snapshot), report_stage(report, "reconstructing")
        for start in range(0, len(rows), _COMMIT_ROWS):
            part = rows[start : start + _COMMIT_ROWS]

            def advance(done: int, before: int = start) -> None:
                if stage is not None:
                    stage(before + done, len(rows))

            found = measure(snapshot, part, codec.config.preprocessing, codec.decode, advance)
            known = np.isfinite(found[0])
            values = [np.sqrt(squares[known]) for squares in found]
            columns = {key: Column("float", one) for key, one in zip(MEASURED, values, strict=True)}
            measured += self._annotate(part[known], columns)
        return measured

    def save_clusters(self, found: Clustering, key: str, *, overwrite: bool = False) -> int:
        """Keep the number of each row's cluster as a metadata column.

        Parameters
        ----------
        found
            What `cluster` returned.
        key
            The column, of type int.
        overwrite
            Replace a column that exists; it is missing then in rows that are in no cluster.

        Returns
        -------
        int
            Number of rows.

        Raises
        ------
        AlreadyExistsError
            If there is such a column.
        LockedError
            If another process is writing.
        """
        check_key(key)
        if key in self._snapshot().manifest.columns:
            if not overwrite:
                raise AlreadyExistsError(
                    f"there is a column {key!r}: give another key, or --force (overwrite=True)"
                )
            self.drop_column(key)
        return self._annotate(found.rows, {key: Column("int", found.assignment)})

    def _annotate(self, rows: Ints, columns: dict[str, Column]) -> int:
        """Write columns of rows, leaving out those that were deleted meanwhile."""
        with self._writing(None) as writer:
            # Row numbers are never given twice, so a live one is still the same row.
            live = np.flatnonzero(writer.snapshot.is_live(rows))
            if len(live):
                kept = {key: column.take(live) for key, column in columns.items()}
                edits.set_values(writer, rows[live], kept)
        return len(live)
