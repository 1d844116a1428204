"""The order of rows by a metadata column, by id or by path."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError
from latentdb.search.selection import column
from latentdb.store.columns import Column
from latentdb.store.rows import Ints
from latentdb.store.snapshot import Snapshot

_TEXT_COLUMNS = ("id", "path")


def check_order(snapshot: Snapshot, order_by: str) -> tuple[str, bool]:
    """The column that an order names, and whether it descends: ``"year"``, ``"-year"``.

    Raises
    ------
    InvalidInputError
        If there is no such column.
    """
    known = [*_TEXT_COLUMNS, *snapshot.manifest.columns]
    if order_by in known:
        return order_by, False
    if order_by[:1] == "-" and order_by[1:] in known:
        return order_by[1:], True
    raise InvalidInputError(
        f"no column {order_by!r} to sort by: use one of {', '.join(known)}, with - before it "
        "to sort downwards"
    )


def order_rows(snapshot: Snapshot, rows: Ints, order_by: str) -> Ints:
    """Row numbers by the values of a column; equal ones as given, missing ones last.

    Parameters
    ----------
    rows
        Row numbers.
    order_by
        A metadata column, ``"id"`` or ``"path"``; after ``-`` the greatest is first.
        Text is in the order of its code points.
    """
    name, descending = check_order(snapshot, order_by)
    if not len(rows):
        return rows
    parts = [
        (indices, column(segment, name).take(positions))
        for segment, positions, indices in snapshot.groups(rows)
    ]
    keys = _ranks(parts) if parts[0][1].type == "str" else _numbers(parts)
    missing = np.zeros(len(rows), bool)
    for indices, part in parts:
        if part.missing is not None:
            missing[indices] = part.missing
    order: Any = np.unique(keys, return_inverse=True)[1]  # so that any type can be turned around
    return rows[np.lexsort((-order if descending else order, missing))]


def _numbers(parts: list[tuple[Ints, Column]]) -> NDArray[Any]:
    dtype = np.result_type(*(part.values.dtype for _, part in parts))
    keys = np.zeros(sum(len(indices) for indices, _ in parts), dtype)
    for indices, part in parts:
        keys[indices] = part.values
    return keys


def _ranks(parts: list[tuple[Ints, Column]]) -> Ints:
    """Texts of all segments as their ranks among all of them."""
    tables = []
    for _, part in parts:
        codes = part.values if part.missing is None else part.values[~part.missing]
        used = np.unique(codes)
        tables.append((used, [part.categories[int(code)] for code in used]))
    rank = {text: number for number, text in enumerate(sorted({t for _, ts in tables for t in ts}))}
    keys = np.zeros(sum(len(indices) for indices, _ in parts), np.int64)
    for (indices, part), (used, texts) in zip(parts, tables, strict=True):
        if len(used):
            ranks = np.array([rank[text] for text in texts], np.int64)
            place = np.searchsorted(used, part.values).clip(0, len(used) - 1)
            keys[indices] = ranks[place]
    return keys
