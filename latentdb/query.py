"""A vector to its nearest rows: index, unindexed tail and filter put together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentdb import index as indexes
from latentdb.filters import Filter
from latentdb.index import Block, VectorIndex
from latentdb.metadata import Column
from latentdb.segment import Floats, Ints, Segment, Texts
from latentdb.store import Snapshot

_RANK_BYTES = 64 << 20  # of candidate vectors held at a time


@dataclass(frozen=True, eq=False)
class Hits:
    """Nearest rows of some queries.

    Attributes
    ----------
    distances
        float32 ``[q, k]``, ascending; infinity where there are fewer than k.
    rows
        int64 ``[q, k]`` row numbers; -1 where there are fewer.
    exact
        Whether every row that could match was compared.
    scanned
        Vectors that were compared, over all queries.
    """

    distances: Floats
    rows: Ints
    exact: bool
    scanned: int


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


def blocks(snapshot: Snapshot, where: Filter | None = None, *, since: int = 0) -> Iterator[Block]:
    """The rows to scan, from row number `since` on."""
    for segment in snapshot.segments:
        if segment.entry.last_row < since:
            continue
        keep = kept(snapshot, segment, where)
        first = int(np.searchsorted(segment.rows, since))
        yield Block(
            segment.rows[first:],
            segment.z_mean[first:],
            None if keep is None else keep[first:],
        )


def search(
    snapshot: Snapshot,
    queries: Floats,
    *,
    k: int,
    where: Filter | None = None,
    index: VectorIndex | None = None,
) -> Hits:
    """Find the nearest rows of each query.

    Without a filter the index is searched and the rows newer than it are
    scanned; with one, or without an index, every row kept is compared.

    Parameters
    ----------
    snapshot
        The version to answer from.
    queries
        float32 ``[q, d]``.
    k
        Neighbours wanted, at least one.
    where
        Keep only rows for which it is true.
    index
        The one `snapshot.manifest` names, opened; None to go without.
    """
    entry = snapshot.manifest.index
    exact = index is None or entry is None or where is not None or k > indexes.MAX_K
    step = max(1, _RANK_BYTES // (4 * snapshot.dim * (2 * k + 64)))
    parts = []
    scanned = 0
    for start in range(0, max(len(queries), 1), step):
        part = queries[start : start + step]
        if exact or index is None or entry is None:
            found = indexes.scan(blocks(snapshot, where), part, k)
            rows = found.rows
        else:
            found = index.search(part, k, snapshot.deleted)
            tail = indexes.scan(blocks(snapshot, since=entry.rows_below), part, k)
            scanned += tail.scanned
            rows = np.concatenate([found.rows, tail.rows], axis=1)
            # Where most neighbours are deleted, those that remain may lie anywhere.
            lacking = np.flatnonzero((found.rows >= 0).sum(axis=1) < k)
            if len(lacking):
                every = indexes.scan(blocks(snapshot), part[lacking], k)
                scanned += every.scanned
                rows = np.pad(rows, ((0, 0), (0, every.rows.shape[1])), constant_values=-1)
                rows[lacking] = -1
                rows[lacking, : every.rows.shape[1]] = every.rows
        scanned += found.scanned
        parts.append(indexes.rank(part, rows, snapshot.vectors, k))
    return Hits(
        np.concatenate([distances for distances, _ in parts]),
        np.concatenate([rows for _, rows in parts]),
        exact,
        scanned,
    )
