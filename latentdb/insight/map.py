"""The map of a store: every row as a point of a plane; points once given do not move."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from latentdb.ann.exact import fits_float32
from latentdb.ann.metrics import CENTERED_COSINE
from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.base.progress import Report, report_stage
from latentdb.insight.blocks import posterior_blocks, sample_rows
from latentdb.insight.layout import lay_out, neighbours_kept, place
from latentdb.insight.map_cache import Digests, Layout, MapFile, Placed, row_digests
from latentdb.search.embedded_rows import EmbeddedRows
from latentdb.search.selection import vector_blocks
from latentdb.store.creation import LAYOUTS
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot

MAX_LANDMARKS = 50_000
FOLDER = LAYOUTS


@dataclass(frozen=True, eq=False)
class Map:
    """The rows of a store as points of a plane.

    Attributes
    ----------
    rows, points
        int64 ``[n]`` row numbers and float32 ``[n, 2]``.
    kept
        Share of the 10 nearest neighbours of a landmark that are near in the picture too.
    landmarks
        Rows that were laid out; every other row is placed among them.
    metric
        Whose distances the layout keeps.
    layout
        What further vectors are placed among.
    """

    rows: Ints
    points: Floats
    kept: float
    landmarks: int
    metric: str
    layout: Layout = field(repr=False)


def make_map(
    snapshot: Snapshot,
    rows: Ints,
    *,
    metric: str,
    seed: int = 0,
    renew: bool = False,
    report: Report | None = None,
) -> Map:
    """Points for rows; a row gets its point once, which is kept in the store.

    Up to 50,000 rows are laid out.  All others, and all that are added later, are placed
    at the weighted mean of their nearest landmarks, so that no point ever moves.

    Parameters
    ----------
    rows
        Row numbers, ascending.
    metric
        One of `latentdb.ann.metrics.METRICS`.
    seed
        Of the sample and of the layout.
    renew
        Make the layout anew.
    report
        Called with the progress.

    Raises
    ------
    NotFoundError
        If there are no rows.
    """
    if not len(rows):
        raise NotFoundError("no rows to map: index images first, or use another expression")
    embedded = EmbeddedRows(snapshot, metric)
    path = snapshot.folder / FOLDER / f"{metric}-{seed}.layout"
    file = MapFile(path, _fingerprint(snapshot), embedded.dim)
    layout = None if renew else file.read()
    if layout is None:
        made = _lay_out(snapshot, embedded, seed, report)
        layout = file.keep(made, renew=renew)
    if len(layout.centre) == snapshot.dim:
        embedded = EmbeddedRows(snapshot, metric, layout.centre)
    digests = _digests(embedded, rows)
    points = layout.placed.find(rows, digests)
    new = np.flatnonzero(np.isnan(points[:, 0]))
    if len(new):
        points[new] = _place(layout, embedded, rows[new], report)
        file.keep_points(layout, Placed(rows[new], digests[new], points[new]), snapshot)
    return Map(rows, points, layout.kept, len(layout.points), metric, layout)


def _lay_out(
    snapshot: Snapshot, embedded: EmbeddedRows, seed: int, report: Report | None
) -> Layout:
    vectors = embedded.fetch(sample_rows(snapshot.live_rows(), MAX_LANDMARKS, seed))
    if not fits_float32(vectors):
        raise InvalidInputError(
            "these latents are too large for float32 distances: no map can be made of them"
        )
    points = lay_out(vectors, seed=seed, report=report_stage(report, "laying out"))
    centre = snapshot.manifest.settings.centre if embedded.metric == CENTERED_COSINE else ()
    return Layout(vectors, points, neighbours_kept(vectors, points, seed=seed), centre)


def _place(layout: Layout, embedded: EmbeddedRows, rows: Ints, report: Report | None) -> Floats:
    count, done, points = report_stage(report, "placing"), 0, []
    for block in embedded.blocks_of(rows):
        points.append(place(layout.vectors, layout.points, block.vectors))
        done += len(block.rows)
        count(done, len(rows))
    return np.concatenate(points)


def _digests(embedded: EmbeddedRows, rows: Ints) -> Digests:
    """Of what is stored of rows: what is made of it may differ in the last bit elsewhere."""
    snapshot = embedded.snapshot
    blocks: Iterable[Floats] = vector_blocks(snapshot, rows)
    if embedded.space.posterior:
        both = posterior_blocks(snapshot, rows)
        blocks = (np.hstack([part for part in block if part is not None]) for block in both)
    return np.concatenate([row_digests(block) for block in blocks])


def _fingerprint(snapshot: Snapshot) -> str:
    """What the latents are of: the encoder, or the store itself."""
    model = snapshot.manifest.model
    return snapshot.manifest.uuid if model is None else model.encoder_fingerprint
