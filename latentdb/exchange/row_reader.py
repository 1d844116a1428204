"""A file of ready-made rows, read in batches: what every format has in common, .npy and .csv.

A file may be a stranger's: what it declares is compared with what it holds
before it is believed, and whatever is wrong with it is told in one line.
"""

from __future__ import annotations

import csv
import os
import re
import tokenize
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError, LatentDBError
from latentdb.base.files import os_reason
from latentdb.store.columns import NUMBER, WHOLE, Column, absent, check_key, make_column
from latentdb.store.manifest import MAX_DIM
from latentdb.store.segment import Floats, Rows

BATCH_BYTES = 64 << 20  # what a batch of rows holds in memory, about
BATCH_ROWS = 262_144
_MOST_LINE = 64 << 20  # characters
_MOST_CELL = 16 << 20
_CELLS = 131_072  # of text, that are numbers soon
VECTOR_COLUMN = re.compile(r"z_(mean|log_var)_[0-9]+\Z")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except LatentDBError:
        raise
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: its text is not UTF-8 ({error.reason})") from error
    except (
        OSError, ValueError, TypeError, RuntimeError, LookupError, ArithmeticError, EOFError,
        SyntaxError, tokenize.TokenError, csv.Error,
    ) as error:  # fmt: skip
        reason = os_reason(error) if isinstance(error, OSError) else str(error)
        short = " ".join(reason.split())[:200] or type(error).__name__
        raise InvalidInputError(f"{path}: cannot be read: {short}") from error


def _next_record(reader: Iterator[list[str]]) -> list[str] | None:
    """The next record; the limit of a cell is the whole process's, so it is lent only for that."""
    limit = csv.field_size_limit(_MOST_CELL)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(limit)


def _lines(path: Path, stream: TextIO) -> Iterator[str]:
    """The lines of a text; one of any length does not fill the memory."""
    while line := stream.readline(_MOST_LINE):
        if len(line) == _MOST_LINE:
            raise InvalidInputError(f"{path}: a line has {_MOST_LINE} characters, expected fewer")
        yield line


class RowReader(ABC):
    """An open file of rows.

    Attributes
    ----------
    path
        The file.
    dim
        Dimensions of z_mean.
    rows
        How many, where the file says so without being read.
    has_log_var
        Whether its rows have z_log_var.
    fingerprint
        Of the encoder that made them, where the file says.
    kinds
        Of its metadata; of a .csv known once `ids` has come to its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dim = 0
        self.rows: int | None = None
        self.has_log_var = False
        self.fingerprint: str | None = None
        self.kinds: dict[str, str] = {}

    @abstractmethod
    def ids(self) -> Iterator[list[str]]:
        """Its ids, in batches."""

    @abstractmethod
    def pieces(self) -> Iterator[Rows]:
        """Its rows in order, in pieces that may be small; each has all its metadata."""

    def fit(self, columns: Mapping[str, str]) -> None:
        """Read metadata as the kinds that a store has, where the file has no types itself."""
        del columns

    def close(self) -> None:
        """Close the file."""
        return

    @property
    def _step(self) -> int:
        """Rows of a batch."""
        each = 4 * self.dim * (2 if self.has_log_var else 1)
        return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, each)))

    def batches(self) -> Iterator[Rows]:
        """Its rows in order, in batches that are neither small nor larger than memory bears."""
        held: list[Rows] = []
        count = 0
        for piece in self.pieces():
            if held and count + len(piece) > self._step:
                yield Rows.concat(held)
                held, count = [], 0
            if len(piece):
                held.append(piece)
                count += len(piece)
        if held:
            yield Rows.concat(held)

    def refuse(self, why: str) -> InvalidInputError:
        """The error for something in the file that cannot be used."""
        return InvalidInputError(f"{self.path}: {why}")

    def reading(self) -> AbstractContextManager[None]:
        """Tell in one line whatever a library finds wrong with the file."""
        return _reading(self.path)

    def vectors(self, values: NDArray[Any], name: str, first: int) -> Floats:
        """Check vectors: float32 ``[n, dim]``, finite; `first` is the number of the first row."""
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(values, np.float32)
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if len(bad):
            raise self.refuse(f"{name} of row {first + bad[0]} is not finite (float32)")
        return array

    def check_dim(self, dim: int, name: str) -> None:
        """Take the width of z_mean, or compare that of z_log_var."""
        if not 1 <= dim <= MAX_DIM:
            raise self.refuse(f"{name} has {dim} dimensions, expected 1 to {MAX_DIM}")
        if self.dim and dim != self.dim:
            raise self.refuse(f"{name} has {dim} dimensions and z_mean {self.dim}: make them equal")
        self.dim = dim

    def check_keys(self, keys: Iterable[str]) -> None:
        """Refuse metadata keys that a store cannot have."""
        for key in keys:
            try:
                check_key(key)
            except InvalidInputError as error:
                raise self.refuse(str(error)) from error


def text_column(key: str, values: Sequence[str | None]) -> Column:
    """A column of text, also where all of it is missing."""
    return make_column(key, values) or absent("str", len(values))


def number_column(
    kind: str, values: NDArray[Any], missing: NDArray[np.bool_] | None, name: str
) -> Column:
    """A column of numbers or truth values.

    Raises
    ------
    InvalidInputError
        If a whole number has more than 64 bits.
    """
    if kind == "float":
        values = values.astype("<f8")
        missing = np.isnan(values) if missing is None else missing | np.isnan(values)
        values = np.where(missing, 0, values)
    elif kind == "int" and values.dtype.kind == "u" and len(values) and values.max() >= 2**63:
        raise InvalidInputError(f"{name} has a whole number beyond 2**63 - 1: keep it as text")
    if missing is not None and not missing.any():
        missing = None
    return Column(kind, values.astype({"int": "<i8", "float": "<f8", "bool": "u1"}[kind]), missing)


# --- .npy -----------------------------------------------------------------------


class NpyReader(RowReader):
    """z_mean alone, as numpy saves it; ids are row numbers, or the lines of a text file."""

    def __init__(self, path: Path, names: Path | None) -> None:
        super().__init__(path)
        self._names = names
        with self.reading():
            self._file = path.open("rb")
            try:
                self._read_header(os.fstat(self._file.fileno()).st_size)
            except BaseException:
                self._file.close()
                raise

    def close(self) -> None:
        self._file.close()

    def _read_header(self, size: int) -> None:
        version = np.lib.format.read_magic(self._file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise self.refuse(f"is of .npy version {version}, expected (1, 0) or (2, 0)")
        shape, self._fortran, self._dtype = read(self._file)
        if self._dtype.kind not in "fiu":
            raise self.refuse(f"holds {self._dtype}, expected numbers")
        if len(shape) != 2:
            raise self.refuse(f"has shape {list(shape)}, expected [rows, dimensions]")
        self.check_dim(shape[1], "z_mean")
        self._offset = self._file.tell()
        needed = shape[0] * shape[1] * self._dtype.itemsize
        if shape[0] < 0 or needed > size - self._offset:
            raise self.refuse(
                f"declares shape {list(shape)}, {needed} bytes, and has {size - self._offset}"
            )
        self.rows = self._count = shape[0]

    def ids(self) -> Iterator[list[str]]:
        if self._names is None:
            for start in range(0, self._count, BATCH_ROWS):
                stop = min(self._count, start + BATCH_ROWS)
                yield [str(number) for number in range(start, stop)]
            return
        names = self._named()
        count = 0
        while part := list(islice(names, BATCH_ROWS)):
            count += len(part)
            if count <= self._count:
                yield part
        if count != self._count:
            raise self.refuse(
                f"has {self._count} rows, and {self._names} {count} ids: give as many"
            )

    def _named(self) -> Iterator[str]:
        assert self._names is not None
        path = self._names
        with _reading(path), path.open(encoding="utf-8-sig", newline="\n") as stream:
            for number, line in enumerate(_lines(path, stream), start=1):
                name = line.removesuffix("\n").removesuffix("\r")
                if not name:
                    raise InvalidInputError(f"{path}: line {number} is empty, expected an id")
                yield name

    def pieces(self) -> Iterator[Rows]:
        names = self._named() if self._names is not None else None
        each = self._dtype.itemsize
        for start in range(0, self._count, self._step):
            rows = min(self._step, self._count - start)
            with self.reading():
                if self._fortran:
                    values = np.empty((rows, self.dim), self._dtype)
                    for place in range(self.dim):
                        at = self._offset + (place * self._count + start) * each
                        values[:, place] = self._numbers(at, rows)
                else:
                    at = self._offset + start * self.dim * each
                    values = self._numbers(at, rows * self.dim).reshape(rows, self.dim)
            ids = [str(number) for number in range(start, start + rows)]
            if names is not None:
                ids = list(islice(names, rows))
            yield Rows(ids, self.vectors(values, "z_mean", start))

    def _numbers(self, offset: int, count: int) -> NDArray[Any]:
        self._file.seek(offset)
        data = self._file.read(count * self._dtype.itemsize)
        return np.frombuffer(data, self._dtype, count)


# --- .csv -----------------------------------------------------------------------


class _Guess:
    """The narrowest kind that all cells of a column fit, as in a metadata file."""

    def __init__(self) -> None:
        self.filled = False
        self._whole = self._fits = self._number = self._truth = True

    def see(self, cell: str) -> None:
        if not cell:
            return
        self.filled = True
        if self._whole:
            self._whole = WHOLE.match(cell) is not None
            self._fits &= self._whole and len(cell) < 21 and -(2**63) <= int(cell) < 2**63
        if self._number:
            self._number = NUMBER.match(cell) is not None or cell in ("inf", "-inf")
        if self._truth:
            self._truth = cell.lower() in ("true", "false")

    @property
    def kind(self) -> str:
        if self._whole:
            # Beyond 64 bits they are names: as numbers they would lose their last digits.
            return "int" if self._fits else "str"
        return "float" if self._number else "bool" if self._truth else "str"


class CsvReader(RowReader):
    """Columns ``id``, ``path``, ``z_mean_0``.., ``z_log_var_0``.., and metadata."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with self.reading():
            self._header = next(self._records())[1]
        twice = {name for name in self._header if self._header.count(name) > 1}
        if twice:
            raise self.refuse(f"has column {min(twice)!r} twice: rename one")
        if "id" not in self._header:
            shown = ", ".join(self._header[:5])
            raise self.refuse(f"has no column 'id' among {shown}: expected id and z_mean_0..")
        self._means = self._vector_places("z_mean")
        self.check_dim(len(self._means), "z_mean")
        self._log_vars = self._vector_places("z_log_var")
        self.has_log_var = bool(self._log_vars)
        if self.has_log_var:
            self.check_dim(len(self._log_vars), "z_log_var")
        self._keys = {
            name: place
            for place, name in enumerate(self._header)
            if name not in ("id", "path") and not VECTOR_COLUMN.match(name)
        }
        self.check_keys(self._keys)

    def _vector_places(self, name: str) -> list[int]:
        places = {column: place for place, column in enumerate(self._header)}
        pattern = re.compile(rf"{name}_[0-9]+\Z")
        count = sum(pattern.match(column) is not None for column in self._header)
        wanted = [f"{name}_{number}" for number in range(count)]
        missing = [column for column in wanted if column not in places]
        if missing:
            raise self.refuse(f"has {count} columns {name}_.., and no {missing[0]}: number them so")
        return [places[column] for column in wanted]

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Number of the last line, and cells, of every record."""
        width = 0
        with self.path.open(newline="", encoding="utf-8-sig") as stream:
            # Strict, or an open quote takes the rest.
            reader = csv.reader(_lines(self.path, stream), strict=True)
            try:
                while (record := _next_record(reader)) is not None:
                    if not record:
                        continue
                    width = width or len(record)
                    if len(record) != width:
                        raise self.refuse(
                            f"line {reader.line_num} has {len(record)} cells, its header {width}"
                        )
                    yield reader.line_num, record
            except csv.Error as error:
                raise self.refuse(f"line {reader.line_num}: {error}") from error
        if not width:
            raise self.refuse("is empty, expected a header with id and z_mean_0..")

    def ids(self) -> Iterator[list[str]]:
        place = self._header.index("id")
        guesses = {key: _Guess() for key in self._keys}
        seen = [(guesses[key], at) for key, at in self._keys.items()]
        names: list[str] = []
        with self.reading():
            for line, record in islice(self._records(), 1, None):
                if not record[place]:
                    raise self.refuse(f"line {line} has no id")
                names.append(record[place])
                for guess, at in seen:
                    guess.see(record[at])
                if len(names) == BATCH_ROWS:
                    yield names
                    names = []
        yield names
        self.kinds = {key: guess.kind for key, guess in guesses.items() if guess.filled}

    def fit(self, columns: Mapping[str, str]) -> None:
        for key in self.kinds:
            if columns.get(key) == "str":
                self.kinds[key] = "str"

    def pieces(self) -> Iterator[Rows]:
        step = max(1, _CELLS // len(self._header))
        first = 0
        with self.reading():
            records = islice(self._records(), 1, None)
            while part := list(islice(records, step)):
                yield self._piece([line for line, _ in part], [cells for _, cells in part], first)
                first += len(part)

    def _piece(self, lines: list[int], records: list[list[str]], first: int) -> Rows:
        place = self._header.index("id")
        paths = None
        if "path" in self._header:
            at = self._header.index("path")
            paths = [record[at] for record in records]
        log_vars = None
        if self.has_log_var:
            log_vars = self.vectors(
                self._numbers(lines, records, self._log_vars), "z_log_var", first
            )
        return Rows(
            [record[place] for record in records],
            self.vectors(self._numbers(lines, records, self._means), "z_mean", first),
            log_vars,
            paths if paths and any(paths) else None,
            columns={
                key: self._column(key, [record[self._keys[key]] for record in records])
                for key in self.kinds
            },
        )

    def _numbers(
        self, lines: list[int], records: list[list[str]], places: list[int]
    ) -> NDArray[np.float64]:
        if places == list(range(places[0], places[0] + len(places))):
            cells = [record[places[0] : places[-1] + 1] for record in records]
        else:
            cells = [[record[place] for place in places] for record in records]
        try:
            return np.array(cells, np.float64)
        except ValueError as error:
            for line, row in zip(lines, cells, strict=True):
                for place, cell in zip(places, row, strict=True):
                    try:
                        float(cell)
                    except ValueError:
                        raise self.refuse(
                            f"line {line}: {self._header[place]} is {cell[:40]!r}, "
                            "expected a number"
                        ) from error
            raise

    def _column(self, key: str, cells: list[str]) -> Column:
        kind = self.kinds[key]
        if kind == "str":
            return text_column(key, [cell or None for cell in cells])
        parse: Any = {"int": int, "float": float, "bool": lambda cell: cell.lower() == "true"}[kind]
        try:
            values = np.array([parse(cell) if cell else 0 for cell in cells])
            return number_column(kind, values, np.array([not cell for cell in cells]), key)
        except (ValueError, OverflowError) as error:
            raise self.refuse(f"changed while it was read ({key!r}): import it again") from error
