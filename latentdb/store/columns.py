"""Typed metadata: columns of str, int, float and bool, and files with metadata.

A value may be missing in any column.  Text is stored as codes into a table of
categories, because labels repeat.
"""

from __future__ import annotations

import csv
import json
import keyword
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.store.texts import Texts

COLUMN_TYPES = ("str", "int", "float", "bool")
LABEL = "label"  # the column of labels that come from folders
RESERVED = frozenset(("id", "path", "row", "z_mean", "z_log_var"))
DTYPES: Mapping[str, np.dtype[Any]] = {
    "str": np.dtype("<i4"),
    "int": np.dtype("<i8"),
    "float": np.dtype("<f8"),
    "bool": np.dtype("u1"),
}
ID_COLUMNS = (
    "id", "path", "file", "filename", "file_name", "image",
    "filepath", "file_path", "image_path", "img", "key",
)  # fmt: skip
MISSING = frozenset(("", "NA", "NaN", "nan", "null", "None"))
WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)\Z")
NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\Z")

Value = str | int | float | bool | None


def check_key(key: str) -> None:
    """Refuse a metadata key that no filter expression could name.

    Raises
    ------
    InvalidInputError
        If it is not an identifier, or is reserved.
    """
    if not isinstance(key, str) or not key.isidentifier() or keyword.iskeyword(key):
        raise InvalidInputError(
            f"metadata key {key!r} cannot be used in an expression: "
            "rename it to letters, digits and underscores"
        )
    if unicodedata.normalize("NFKC", key) != key:
        raise InvalidInputError(
            f"metadata key {key!r} would be read as {unicodedata.normalize('NFKC', key)!r} "
            "in an expression: rename it to that"
        )
    if key in RESERVED:
        raise InvalidInputError(f"metadata key {key!r} is reserved: rename it")


@dataclass(frozen=True, eq=False)
class Column:
    """One metadata column over some rows.

    Attributes
    ----------
    type
        ``"str"``, ``"int"``, ``"float"`` or ``"bool"``.
    values
        ``[n]``: int32 codes into `categories` for text, else int64, float64
        or uint8.  The entry of a missing value has no meaning.
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
        if self.type == "bool":
            return bool(value)
        return int(value) if self.type == "int" else float(value)

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
    # tolist() would turn times into bare nanoseconds.
    if isinstance(values, np.ndarray) and values.dtype.kind not in "mM":
        plain = values.tolist()
    else:
        plain = list(values)
    plain = [
        value.item() if isinstance(value, np.generic) and value.dtype.kind not in "mM" else value
        for value in plain
    ]
    types = set()
    for value in plain:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        if type(value) not in (str, int, float, bool):
            raise InvalidInputError(
                f"metadata {key!r} has a value of type {type(value).__name__}: "
                "expected str, int, float, bool or None"
            )
        types.add(type(value).__name__)
    if not types:
        return None
    if types == {"int", "float"}:
        types = {"float"}
    if len(types) > 1:
        raise InvalidInputError(
            f"metadata {key!r} mixes {' and '.join(sorted(types))}: give all its values one type"
        )
    return _typed(key, types.pop(), plain)


def _typed(key: str, type_: str, plain: list[Any]) -> Column:
    missing = np.array(
        [value is None or (isinstance(value, float) and math.isnan(value)) for value in plain], bool
    )
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
    filled = [0 if absent else value for value, absent in zip(plain, missing, strict=True)]
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


@dataclass(frozen=True, eq=False)
class Table:
    """Metadata read from a file, by the id or path of an image.

    Attributes
    ----------
    source
        The file.
    rows
        Row number by id or path.
    columns
        Typed columns over those rows.
    """

    source: str
    rows: Mapping[str, int]
    columns: Mapping[str, Column]

    @property
    def types(self) -> dict[str, str]:
        """Type of every column."""
        return {key: column.type for key, column in self.columns.items()}

    def row(self, name: str, path: str) -> dict[str, Value] | None:
        """The values of an image, found by its id or else its path; None where there are none."""
        number = self.rows.get(name, self.rows.get(path))
        if number is None:
            return None
        return {key: column.item(number) for key, column in self.columns.items()}


def read_table(path: str | os.PathLike[str]) -> Table:
    """Read a metadata file: CSV with a header, or JSON lines.

    One column names the image (the first of `ID_COLUMNS` that is there, in any
    case); the others are metadata.  In CSV a cell of `MISSING` is missing, and
    a column is of the narrowest type all its cells fit (``007`` is text).

    Raises
    ------
    NotFoundError, InvalidInputError
        If the file is not there or not such a file.
    """
    file = Path(path)
    if not os.path.isfile(file):
        raise NotFoundError(f"{file} does not exist: expected a metadata file (.csv or .jsonl)")
    suffix = file.suffix.lower()
    try:
        if suffix == ".csv":
            raw = _read_csv(file)
        elif suffix in (".jsonl", ".ndjson"):
            raw = _read_json_lines(file)
        else:
            raise InvalidInputError(f"{file}: cannot read {suffix!r}, expected .csv or .jsonl")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file} is not UTF-8 text: {error.reason}") from error
    except OSError as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(f"{file} cannot be read: {error.strerror}") from error
    name = _image_column(raw)
    if name is None:
        raise InvalidInputError(
            f"{file} has columns {', '.join(raw) or '(none)'}: "
            f"one must name the image ({', '.join(ID_COLUMNS)})"
        )
    keys = []
    for number, key in enumerate(raw.pop(name), start=1):
        if key == "" or type(key) not in (str, int, float):
            raise InvalidInputError(f"{file}, record {number}, has no {name}: name its image")
        keys.append(str(key))
    rows: dict[str, int] = {}
    for number, key in enumerate(keys):
        if key in rows:
            raise InvalidInputError(f"{file} names {key!r} twice: keep one row of it")
        rows[key] = number
    return Table(str(file), rows, make_columns(raw, len(keys)))


def _image_column(names: Iterable[str]) -> str | None:
    # As written first: a file with "filename" may hold an "ID" of something else.
    given = list(names)
    folded = {name.casefold(): name for name in reversed(given)}
    exact = next((column for column in ID_COLUMNS if column in given), None)
    return exact or next((folded[column] for column in ID_COLUMNS if column in folded), None)


def _read_csv(file: Path) -> dict[str, list[Any]]:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream, strict=True)  # or an open quote takes the rest
        try:
            header = next(reader, [])
            cells: list[list[str]] = [[] for _ in header]
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise InvalidInputError(
                        f"{file}, line {reader.line_num}, has {len(row)} cells: "
                        f"its header has {len(header)}"
                    )
                for column, cell in zip(cells, row, strict=True):
                    column.append(cell)
        except csv.Error as error:
            raise InvalidInputError(f"{file}, line {reader.line_num}: {error}") from error
    if len(set(header)) != len(header):
        raise InvalidInputError(f"{file} has a column name twice: {', '.join(header)}")
    name = _image_column(header)
    return {
        key: cells[place] if key == name else _parse_cells(cells[place])
        for place, key in enumerate(header)
    }


class CellType:
    """The narrowest type that all cells of a CSV column fit; an empty cell is missing.

    Parameters
    ----------
    infinities
        Whether ``inf`` and ``-inf`` are numbers, and not text.
    """

    def __init__(self, *, infinities: bool = False) -> None:
        self.filled = False
        self._infinities = ("inf", "-inf") if infinities else ()
        self._whole = self._fits = self._number = self._truth = True

    def add(self, cell: str) -> None:
        """Look at one more cell."""
        if not cell:
            return
        self.filled = True
        if self._whole:
            self._whole = WHOLE.match(cell) is not None
            self._fits &= self._whole and len(cell) < 21 and -(2**63) <= int(cell) < 2**63
        if self._number:
            self._number = NUMBER.match(cell) is not None or cell in self._infinities
        if self._truth:
            self._truth = cell.lower() in ("true", "false")

    @property
    def name(self) -> str:
        """``"str"``, ``"int"``, ``"float"`` or ``"bool"``."""
        if self._whole:
            # Beyond 64 bits they are names: as numbers they would lose their last digits.
            return "int" if self._fits else "str"
        return "float" if self._number else "bool" if self._truth else "str"


def _parse_cells(cells: list[str]) -> list[Any]:
    # Not in CellType: a store's own export writes the text "NA" as such.
    present = [None if cell in MISSING else cell for cell in cells]
    guess = CellType()
    for cell in present:
        guess.add(cell or "")
    parsers: dict[str, Any] = {"int": int, "float": float, "bool": lambda c: c.lower() == "true"}
    parse = parsers.get(guess.name, str)
    return [None if cell is None else parse(cell) for cell in present]


def _read_json_lines(file: Path) -> dict[str, list[Any]]:
    raw: dict[str, list[Any]] = {}
    count = 0
    with file.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InvalidInputError(f"{file}, line {number}, is not JSON: {error}") from error
            if not isinstance(record, dict):
                raise InvalidInputError(f"{file}, line {number}, is not a JSON object")
            for key, value in record.items():
                raw.setdefault(key, [None] * count).append(value)
            count += 1
            for column in raw.values():
                if len(column) < count:
                    column.append(None)
    return raw
