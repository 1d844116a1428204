"""Changes of metadata columns: other values, another type or name, none at all.

Each is one commit.  Segments are written anew with the same latents under the same row
numbers, so that the search index stays valid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np

from latentdb.base.errors import InvalidInputError
from latentdb.store import dates
from latentdb.store.cells import MISSING, format_cell
from latentdb.store.columns import (
    COLUMN_TYPES,
    Column,
    Value,
    absent,
    check_key,
    join,
    make_column,
)
from latentdb.store.rows import Ints
from latentdb.store.segment import Segment
from latentdb.store.snapshot import Snapshot
from latentdb.store.writer import Writer, fit_columns

_EXAMPLES = 3  # values that an error names
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class RetypeReport:
    """What `retype_column` did.

    Attributes
    ----------
    rows
        Values of the new type.
    lost
        Values that did not fit it and are missing now.
    """

    rows: int
    lost: int


def set_values(writer: Writer, rows: Ints, columns: Mapping[str, Column | None]) -> None:
    """Give some rows other values.

    Parameters
    ----------
    rows
        Different numbers of live rows.
    columns
        By key, values in the order of `rows`; None where all of them are to be missing.

    Raises
    ------
    InvalidInputError
        If a column is of another type than the store's, or they are too many.
    """
    given = {key: column for key, column in columns.items() if column is not None}
    free_columns(writer, {key: column.type for key, column in given.items()})
    types = dict(writer.snapshot.manifest.columns)
    new = fit_columns(given, types)
    for key, column in columns.items():
        if column is None:
            if key not in types:
                raise _no_column(writer.snapshot, key)
            new[key] = absent(types[key], len(rows))
    order = np.argsort(rows)
    ordered = rows[order]

    def change(segment: Segment, live: Ints) -> dict[str, Column] | None:
        numbers = segment.rows[live]
        place = np.minimum(np.searchsorted(ordered, numbers), len(ordered) - 1)
        hits = np.flatnonzero(ordered[place] == numbers)
        if not len(hits):
            return None
        made = _columns(segment, live)
        chosen = np.arange(len(live))
        chosen[hits] = len(live) + order[place[hits]]
        for key in columns:
            type_ = types[key]
            old = made.get(key, absent(type_, len(live))).cast(type_, key)
            made[key] = join(type_, [old, new[key]]).take(chosen)
        return made

    if len(rows):
        writer.rewrite(change, types)


def retype_column(writer: Writer, key: str, type_: str, *, lossy: bool = False) -> RetypeReport:
    """Convert the values of a column to another type.

    Parameters
    ----------
    lossy
        Values that do not fit become missing.

    Raises
    ------
    InvalidInputError
        If there is no such column or type, or without `lossy` if a value does not fit.
    """
    snapshot = writer.snapshot
    _check_column(snapshot, key)
    if type_ not in COLUMN_TYPES:
        raise InvalidInputError(f"type {type_!r} is unknown: use one of {', '.join(COLUMN_TYPES)}")
    kept = 0
    bad: list[Value] = []
    converted: dict[Value, Value] = {None: None}
    made: dict[str, Column] = {}
    for segment in snapshot.segments:
        values = _values(segment, key, snapshot.live_positions(segment))
        for value in set(values) - converted.keys():
            try:
                converted[value] = _convert(value, type_)
            except ValueError:
                converted[value] = None
        lost = [v for v in values if converted[v] is None and not _is_missing(v)]
        bad += lost
        kept += sum(converted[value] is not None for value in values)
        column = make_column(key, [converted[value] for value in values])
        made[segment.entry.file.name] = column or absent(type_, len(values))
    if bad and not lossy:
        some = ", ".join(repr(_shown(value)) for value in list(dict.fromkeys(bad))[:_EXAMPLES])
        raise InvalidInputError(
            f"{len(bad):,} of {kept + len(bad):,} values of {key!r} are no {type_} ({some}): "
            "change them, or make them missing with --lossy (lossy=True)"
        )

    def change(segment: Segment, live: Ints) -> dict[str, Column] | None:
        if not segment.stores(key):
            return None
        return _columns(segment, live) | {key: made[segment.entry.file.name]}

    writer.rewrite(change, {**snapshot.manifest.columns, key: type_})
    return RetypeReport(kept, len(bad))


def rename_column(writer: Writer, key: str, new: str) -> None:
    """Give a column another key.

    Raises
    ------
    InvalidInputError
        If there is no such column, or one of the new key.
    """
    types = writer.snapshot.manifest.columns
    _check_column(writer.snapshot, key)
    check_key(new)
    if new in types:
        raise InvalidInputError(f"metadata {new!r} is in this store: drop it, or use another key")

    def change(segment: Segment, live: Ints) -> dict[str, Column] | None:
        if not segment.stores(key):
            return None
        columns = _columns(segment, live)
        columns[new] = columns.pop(key)
        return columns

    writer.rewrite(change, {new if name == key else name: kind for name, kind in types.items()})


def drop_columns(writer: Writer, *keys: str) -> None:
    """Remove columns with all their values.

    Raises
    ------
    InvalidInputError
        If there is no such column.
    """
    for key in keys:
        _check_column(writer.snapshot, key)

    def change(segment: Segment, live: Ints) -> dict[str, Column] | None:
        if not any(map(segment.stores, keys)):
            return None
        columns = _columns(segment, live)
        return {key: column for key, column in columns.items() if key not in keys}

    types = writer.snapshot.manifest.columns
    writer.rewrite(change, {key: types[key] for key in types if key not in keys})


def free_columns(writer: Writer, wanted: Mapping[str, str]) -> None:
    """Drop the columns of other types than the wanted ones if no row has a value in them."""
    types = writer.snapshot.manifest.columns
    numbers = {"int", "float"}
    other = [
        key
        for key, type_ in wanted.items()
        if key in types and types[key] != type_ and {types[key], type_} != numbers
    ]
    empty = [key for key in other if not has_values(writer.snapshot, key)]
    if empty:
        drop_columns(writer, *empty)


def held_types(snapshot: Snapshot) -> dict[str, str]:
    """Type of every metadata key for which a live row has a value."""
    types = snapshot.manifest.columns
    return {key: types[key] for key in types if has_values(snapshot, key)}


def has_values(snapshot: Snapshot, key: str) -> bool:
    """Whether a live row has a value in a column."""
    for segment in snapshot.segments:
        live = snapshot.live_positions(segment)
        if segment.stores(key) and len(live):
            missing = segment.column(key).missing
            if missing is None or not missing[live].all():
                return True
    return False


def _check_column(snapshot: Snapshot, key: str) -> None:
    if key not in snapshot.manifest.columns:
        raise _no_column(snapshot, key)


def _no_column(snapshot: Snapshot, key: str) -> InvalidInputError:
    known = ", ".join(snapshot.manifest.columns) or "none"
    return InvalidInputError(f"metadata {key!r} is not in this store, which has: {known}")


def _columns(segment: Segment, live: Ints) -> dict[str, Column]:
    """The columns that a segment stores, over its live rows."""
    return {key: segment.column(key).take(live) for key in segment.columns if segment.stores(key)}


def _values(segment: Segment, key: str, live: Ints) -> list[Value]:
    return segment.items(key, live) if len(live) else []


def _is_missing(value: Value) -> bool:
    return value is None or (isinstance(value, str) and value.strip() in MISSING)


def _shown(value: Value) -> Any:
    return value.isoformat() if isinstance(value, date) else value


def _convert(value: Value, type_: str) -> Value:
    """A value as one of another type.

    Raises
    ------
    ValueError
        If it is none.
    """
    if _is_missing(value):
        return None
    if type_ in dates.LIMITS:
        return _to_date(value, type_)
    converts: dict[str, Callable[[Value], Value]] = {
        "str": format_cell,
        "int": _to_int,
        "float": _to_float,
        "bool": _to_bool,
    }
    return converts[type_](value)


def _to_float(value: Value) -> float:
    if isinstance(value, str):
        text = value.strip()
        if "_" in text or not text.isascii():  # which Python would take for a number, too
            raise ValueError(value)
        return float(text)
    if isinstance(value, int | float):
        return float(value)
    raise ValueError(value)


def _to_int(value: Value) -> int:
    if isinstance(value, str):
        text = value.strip()
        if text.lstrip("+-").isdecimal() and text.isascii():
            return _within(int(text))
    number = _to_float(value)
    if not number.is_integer():
        raise ValueError(value)
    return _within(int(value) if isinstance(value, int) else int(number))


def _within(number: int) -> int:
    if not -(2**63) <= number < 2**63:
        raise ValueError(number)
    return number


def _to_bool(value: Value) -> bool:
    text = str(value).strip().lower() if isinstance(value, str | int) else ""
    if text not in _TRUTHS:
        raise ValueError(value)
    return _TRUTHS[text]


def _to_date(value: Value, type_: str) -> Value:
    found = dates.parse(value.strip()) if isinstance(value, str) else None
    if isinstance(value, date):
        found = dates.kind_of(value), dates.from_value(value)
    if found is None:
        raise ValueError(value)
    kind, number = found
    if (kind, type_) == ("date", "datetime"):
        number *= dates.DAY
    elif (kind, type_) == ("datetime", "date"):
        number, rest = divmod(number, dates.DAY)
        if rest:
            raise ValueError(value)
    return dates.to_value(type_, number)
