"""Which rows of a version an expression keeps, and sums over them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latentdb.search.filters import Filter
from latentdb.store.columns import Column
from latentdb.store.segment import Ints, Segment, Texts
from latentdb.store.snapshot import Snapshot


def column_of(segment: Segment, name: str) -> Column:
    """A metadata column of a segment, or its ids or paths as one."""
    if name == "id":
        return _text_column(segment.ids)
    if name == "path":
        if segment.paths is None:
            return Column("str", np.zeros(len(segment), "<i4"), np.ones(len(segment), bool))
        return _text_column(segment.paths)
    return segment.column(name)


def _text_column(texts: Texts) -> Column:
    return Column("str", np.arange(len(texts), dtype="<i4"), None, tuple(texts))


def kept(snapshot: Snapshot, segment: Segment, where: Filter | None) -> NDArray[np.bool_] | None:
    """Which rows of a segment are alive and pass the filter; None for all."""
    alive = snapshot.live(segment)
    if where is None:
        return alive
    mask = where.mask(lambda name: column_of(segment, name))
    return mask if alive is None else mask & alive


def select(snapshot: Snapshot, where: Filter | None) -> Ints:
    """Row numbers that are alive and pass the filter, ascending."""
    parts = [np.empty(0, np.int64)]
    for segment in snapshot.segments:
        keep = kept(snapshot, segment, where)
        parts.append(segment.rows if keep is None else segment.rows[keep])
    return np.concatenate(parts)


def marked(snapshot: Snapshot, where: Filter | None) -> NDArray[np.bool_]:
    """As `select`, bool by row number: quicker to make, and to look up."""
    marks = np.zeros(snapshot.manifest.next_row, bool)
    for segment in snapshot.segments:
        keep = kept(snapshot, segment, where)
        if segment.gapless:
            own = slice(segment.entry.first_row, segment.entry.last_row + 1)
            marks[own] = True if keep is None else keep
        else:
            marks[segment.rows if keep is None else segment.rows[keep]] = True
    return marks


def total(snapshot: Snapshot, where: Filter | None) -> tuple[NDArray[np.float64], int]:
    """Sum of the latents that pass the filter, float64 ``[d]``, and how many they are."""
    summed = np.zeros(snapshot.dim, np.float64)
    count = 0
    for segment in snapshot.segments:
        keep = kept(snapshot, segment, where)
        vectors = segment.z_mean if keep is None else segment.z_mean[keep]
        summed += vectors.sum(axis=0, dtype=np.float64)
        count += len(vectors)
    return summed, count
