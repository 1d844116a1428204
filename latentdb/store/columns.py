"""Typed metadata: columns of str, int, float, bool, date and datetime.

A value may be missing in any column.  Text is stored as codes into a table of
categories, because labels repeat.
"""

from __future__ import annotations

import keyword
import math
import unicodedata
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError
from latentdb.base.wording import printable
from latentdb.store import dates
from latentdb.store.texts import Texts

COLUMN_TYPES = ("str", "int", "float", "bool", "date", "datetime")
LABEL = "label"  # the column of labels that come from folders
# Root mean squares in levels of 255, measured of the content of an image: when it changes,
# they are not carried over as other metadata is.
MEASURED = ("reconstruction_error", "texture")
RESERVED = frozenset(("id", "path", "row", "z_mean", "z_log_var"))
DTYPES: Mapping[str, np.dtype[Any]] = {
    "str": np.dtype("<i4"),
    "int": np.dtype("<i8"),
    "float": np.dtype("<f8"),
    "bool": np.dtype("u1"),
    "date": np.dtype("<i8"),  # days since 1970-01-01
    "datetime": np.dtype("<i8"),  # microseconds since then, UTC
}

Value = str | int | float | bool | date | None


def check_key(key: str) -> None:
    """Refuse what cannot be a metadata key.

    Raises
    ------
    InvalidInputError
        If it is no text, empty, not printable, or reserved.
    """
    if not isinstance(key, str) or not key or printable(key) != key:
        raise InvalidInputError(
            f"metadata key {key!r} cannot be used: give a text of printable characters"
        )
    if key in RESERVED:
        raise InvalidInputError(f"metadata key {key!r} is reserved: rename it")


def is_name(key: str) -> bool:
    """Whether an expression can name a key as it is; others stand between backticks in it."""
    # Python reads a name in a normalised form.
    return (
        key.isidentifier()
        and not keyword.iskeyword(key)
        and unicodedata.normalize("NFKC", key) == key
    )


def quoted(key: str) -> str:
    """A key as an expression names it: ``year``, or with backticks, doubled inside."""
    return key if is_name(key) else "`" + key.replace("`", "``") + "`"


def escape_key(key: str) -> str:
    """A key in a name of HDF5, where / and . would be those of a path, and .missing a mask."""
    for char in "%/.":
        key = key.replace(char, f"%{ord(char):02X}")
    return key


def unescape_key(name: str) -> str:
    """The key of a name that `escape_key` gave."""
    for char in "./%":
        name = name.replace(f"%{ord(char):02X}", char)
    return name


@dataclass(frozen=True, eq=False)
class Column:
    """One metadata column over some rows.

    Attributes
    ----------
    type
        One of `COLUMN_TYPES`.
    values
        ``[n]`` of the type's dtype in `DTYPES`: for text codes into `categories`, for dates
        and times numbers of `latentdb.store.dates`.  The entry of a missing value has no meaning.
    missing
        bool ``[n]``, or None where nothing is missing.
    categories
        The distinct texts, for type ``"str"``.
    """

    type: str
    values: NDArray[Any]
    missing: NDArray[np.bool_] | None = None
    categories: tuple[str, ...] | Texts = ()

    def __len__(self) -> int:
        return len(self.values)

    def item(self, position: int) -> Value:
        """One value as a Python object; None where it is missing."""
        if self.missing is not None and self.missing[position]:
            return None
        value = self.values[position]
        if self.type == "str":
            return self.categories[int(value)]
        return plain_value(self.type, value)

    def take(self, positions: NDArray[np.integer[Any]] | slice) -> Column:
        """The same column over other rows."""
        missing = None if self.missing is None else self.missing[positions]
        if missing is not None and not missing.any():
            missing = None
        return Column(self.type, self.values[positions], missing, self.categories)

    def cast(self, type_: str, key: str) -> Column:
        """The same values as another type: int may become float.

        Raises
        ------
        InvalidInputError
            For any other change.
        """
        if type_ == self.type:
            return self
        if (self.type, type_) == ("int", "float"):
            return Column(type_, self.values.astype(np.float64), self.missing)
        raise InvalidInputError(
            f"metadata {key!r} holds {type_} in this store, received {self.type}: "
            "convert it or use another key"
        )


def plain_value(type_: str, value: Any) -> Value:
    """A number of a column that is no text, as a Python value of the column's type."""
    if type_ in dates.LIMITS:
        return dates.to_value(type_, int(value))
    if type_ == "bool":
        return bool(value)
    return int(value) if type_ == "int" else float(value)


def absent(type_: str, rows: int) -> Column:
    """A column in which every value is missing."""
    return Column(type_, np.zeros(rows, DTYPES[type_]), np.ones(rows, bool))


def make_column(key: str, values: Sequence[Any] | NDArray[Any]) -> Column | None:
    """Type a column by its values; None where all of them are missing.

    Parameters
    ----------
    key
        Its name, for errors.
    values
        Python or numpy values; None and NaN are missing.

    Raises
    ------
    InvalidInputError
        If values are of different types, or of one that cannot be stored.
    """
    if isinstance(values, np.ndarray):
        values = _without_nanoseconds(values).tolist()
    plain = [_plain(value) for value in values]
    types = set()
    for value in plain:
        if value is None:
            continue
        # A Timestamp of pandas is a datetime, and a datetime is a date.
        type_ = next((name for kind, name in _DATES if isinstance(value, kind)), None)
        if type_ is None and type(value) not in (str, int, float, bool):
            raise InvalidInputError(
                f"metadata {key!r} has a value of type {type(value).__name__}: "
                "expected str, int, float, bool, date, datetime or None"
            )
        types.add(type_ or type(value).__name__)
    if not types:
        return None
    if types == {"int", "float"}:
        types = {"float"}
    if len(types) > 1:
        raise InvalidInputError(
            f"metadata {key!r} mixes {' and '.join(sorted(types))}: give all its values one type"
        )
    return _typed(key, types.pop(), plain)


_DATES = ((datetime, "datetime"), (date, "date"))
_NO_VALUES = ("NAType", "NaTType")  # of pandas, which need not be installed


def _without_nanoseconds(values: NDArray[Any]) -> NDArray[Any]:
    """Times in microseconds at most: tolist() would turn finer ones into bare numbers."""
    if values.dtype.kind != "M" or np.datetime_data(values.dtype)[0] in "YMWD":
        return values
    return values.astype("M8[us]")


def _plain(value: Any) -> Any:
    """A value without the types of numpy; None where it is missing."""
    if isinstance(value, np.generic):
        value = _without_nanoseconds(np.asarray(value)).item()
    if type(value).__name__ in _NO_VALUES or (isinstance(value, float) and math.isnan(value)):
        return None
    return value


def _typed(key: str, type_: str, plain: list[Any]) -> Column:
    missing = np.array([value is None for value in plain], bool)
    mask = missing if missing.any() else None
    if type_ == "str":
        table: dict[str, int] = {}
        codes = [0 if absent else table.setdefault(value, len(table))
                 for value, absent in zip(plain, missing, strict=True)]  # fmt: skip
        for text in table:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InvalidInputError(
                    f"metadata {key!r} has text that is not valid Unicode: {text!r}"
                ) from error
        return Column(type_, np.array(codes, "<i4"), mask, tuple(table))
    if type_ in dates.LIMITS:
        plain = [None if value is None else dates.from_value(value) for value in plain]
    filled = [0 if value is None else value for value in plain]
    try:
        return Column(type_, np.array(filled, DTYPES[type_]), mask)
    except OverflowError as error:
        raise InvalidInputError(
            f"metadata {key!r} has a whole number beyond 64 bits: keep it as text"
        ) from error


def make_columns(metadata: Mapping[str, Any] | None, rows: int) -> dict[str, Column]:
    """Type metadata given as ``{key: values of all rows}``.

    Raises
    ------
    InvalidInputError
        If a key cannot be used or a column has another length.
    """
    columns = {}
    if not isinstance(metadata, Mapping | None):
        raise InvalidInputError(
            f"metadata is a {type(metadata).__name__}: expected {{key: values of all rows}}"
        )
    for key, values in (metadata or {}).items():
        check_key(key)
        if (
            isinstance(values, str | bytes | bytearray | Mapping | Set)
            or not hasattr(values, "__len__")
            or (isinstance(values, np.ndarray) and not values.ndim)
        ):
            raise InvalidInputError(
                f"metadata {key!r} is a single {type(values).__name__}: expected {rows} values"
            )
        if len(values) != rows:
            raise InvalidInputError(f"metadata {key!r} has {len(values)} values: expected {rows}")
        column = values if isinstance(values, Column) else make_column(key, values)
        if column is not None:
            columns[key] = column
    return columns


def join(type_: str, columns: Sequence[Column]) -> Column:
    """One column out of several of the same type, row after row."""
    missing = None
    if any(column.missing is not None for column in columns):
        missing = np.concatenate(
            [
                np.zeros(len(column), bool) if column.missing is None else column.missing
                for column in columns
            ]
        )
    if type_ != "str":
        return Column(type_, np.concatenate([column.values for column in columns]), missing)
    table: dict[str, int] = {}
    codes = []
    for column in columns:
        mapped = [table.setdefault(text, len(table)) for text in column.categories]
        if not mapped:
            codes.append(np.zeros(len(column), "<i4"))
            continue
        # Entries of missing values may lie outside the categories.
        codes.append(np.array(mapped, "<i4")[np.clip(column.values, 0, len(mapped) - 1)])
    return Column(type_, np.concatenate(codes), missing, tuple(table))
