"""Which rows of a snapshot an expression selects, and their vectors and values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.exact import chunk_rows
from latentdb.base.errors import InvalidInputError
from latentdb.search.filters import Filter
from latentdb.store.columns import Column, Value
from latentdb.store.rows import Floats, Ints
from latentdb.store.segment import Segment
from latentdb.store.snapshot import Snapshot
from latentdb.store.texts import Texts


def column(segment: Segment, name: str) -> Column:
    """A metadata column of a segment, or its ids or paths as one."""
    if name == "id":
        return _text_column(segment.ids)
    if name == "path":
        if segment.paths is None:
            return Column("str", np.zeros(len(segment), "<i4"), np.ones(len(segment), bool))
        return _text_column(segment.paths)
    return segment.column(name)


def _text_column(texts: Texts) -> Column:
    return Column("str", np.arange(len(texts), dtype="<i4"), None, texts)


def live_mask(
    snapshot: Snapshot, segment: Segment, where: Filter | None
) -> NDArray[np.bool_] | None:
    """Which rows of a segment are live and selected, bool ``[n]``; None for all."""
    live = snapshot.live(segment)
    if where is None:
        return live
    mask = where.mask(lambda name: column(segment, name))
    return mask if live is None else mask & live


def parse_where(snapshot: Snapshot, where: str | None) -> Filter | None:
    """An expression over the columns of a snapshot, read; None for none."""
    return None if where is None else Filter(where, snapshot.manifest.columns)


def select_rows(snapshot: Snapshot, where: Filter | None, *, most: int | None = None) -> Ints:
    """Numbers of the rows that are live and selected, ascending: the first ones, or all."""
    selected, count = [np.empty(0, np.int64)], 0
    for segment in snapshot.segments:
        if most is not None and count >= most:
            break
        mask = live_mask(snapshot, segment, where)
        selected.append(segment.rows if mask is None else segment.numbers(np.flatnonzero(mask)))
        count += len(selected[-1])
    return np.concatenate(selected)[:most]


def count_rows(snapshot: Snapshot, where: Filter | None) -> int:
    """Number of rows that are live and selected."""
    if where is None:
        return len(snapshot)
    count = 0
    for segment in snapshot.segments:
        mask = live_mask(snapshot, segment, where)
        count += len(segment) if mask is None else int(np.count_nonzero(mask))
    return count


def selection_mask(snapshot: Snapshot, where: Filter | None) -> NDArray[np.bool_]:
    """`select_rows` as bool over the rows of all segments, one after the other."""
    masks = [np.empty(0, bool)]
    for segment in snapshot.segments:
        mask = live_mask(snapshot, segment, where)
        masks.append(np.ones(len(segment), bool) if mask is None else mask)
    return np.concatenate(masks)


def masked_rows(snapshot: Snapshot, mask: NDArray[np.bool_]) -> Ints:
    """Row numbers, ascending, where a mask over the rows of all segments is true."""
    rows, start = [np.empty(0, np.int64)], 0
    for segment in snapshot.segments:
        rows.append(segment.numbers(np.flatnonzero(mask[start : start + len(segment)])))
        start += len(segment)
    return np.concatenate(rows)


def vector_blocks(snapshot: Snapshot, rows: Ints) -> Iterator[Floats]:
    """z_mean of rows, float32 ``[n, d]``, a limited number at a time."""
    step = chunk_rows(snapshot.dim)
    for start in range(0, len(rows), step):
        yield snapshot.vectors(rows[start : start + step])


def sum_rows(snapshot: Snapshot, where: Filter | None) -> tuple[NDArray[np.float64], int]:
    """Sum of z_mean over the selected rows, float64 ``[d]``, and their number."""
    total = np.zeros(snapshot.dim, np.float64)
    count = 0
    for segment in snapshot.segments:
        mask = live_mask(snapshot, segment, where)
        vectors = segment.z_mean if mask is None else segment.z_mean[mask]
        total += vectors.sum(axis=0, dtype=np.float64)
        count += len(vectors)
    return total, count


def check_column(snapshot: Snapshot, name: str | None) -> None:
    """Refuse the name of a metadata column that a store does not have.

    Raises
    ------
    InvalidInputError
        If it has none of that name.
    """
    if name is not None and name not in snapshot.manifest.columns:
        raise InvalidInputError(
            f"no metadata column {name!r}: this store has "
            f"{', '.join(snapshot.manifest.columns) or 'none'}"
        )


def column_values(snapshot: Snapshot, rows: Ints, name: str) -> list[Value | None]:
    """The values of a metadata column, in the order of the rows; None where one is missing."""
    values = np.empty(len(rows), object)
    for segment, positions, indices in snapshot.groups(rows):
        values[indices] = segment.items(name, positions)
    found: list[Value | None] = values.tolist()
    return found
