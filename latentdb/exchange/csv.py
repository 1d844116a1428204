"""Rows in a CSV file with a header; text has no types, so those of metadata are guessed."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError
from latentdb.exchange import row_reader
from latentdb.exchange.naming import ColumnNames
from latentdb.exchange.row_reader import RowReader, read_lines, text_column
from latentdb.exchange.row_writer import has_log_var, read_blocks
from latentdb.store.cells import CellType, format_cell, parse_cell
from latentdb.store.columns import Column, absent, make_column
from latentdb.store.rows import Ints, Rows
from latentdb.store.snapshot import Snapshot

_VECTOR_COLUMN = re.compile(r"z_(mean|log_var)_[0-9]+\Z")
_NUMBERED = re.compile(r"(.+)_[0-9]+\Z")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets begin a formula with
_MAX_CELL = 16 << 20  # characters
_PIECE_CELLS = 131_072  # cells of a piece, whose text takes far more memory than its numbers


def check_keys(keys: Iterable[str]) -> None:
    """Refuse to export metadata whose column could be taken for one of a vector.

    Raises
    ------
    InvalidInputError
        If there is such a key.
    """
    for key in filter(_VECTOR_COLUMN.match, keys):
        raise InvalidInputError(
            f"metadata {key!r} has the name of a vector's column in .csv: export to .h5 or .parquet"
        )


def write(snapshot: Snapshot, rows: Ints, file: IO[bytes], *, excel_safe: bool = False) -> None:
    """Write the columns id, path, the metadata, ``z_mean_0``.. and ``z_log_var_0``..

    With `excel_safe`, a text that a spreadsheet would take for a formula begins with ``'``.
    """
    text = _not_a_formula if excel_safe else str
    arrays = ["z_mean", "z_log_var"] if has_log_var(snapshot) else ["z_mean"]
    vector_columns = [f"{name}_{axis}" for name in arrays for axis in range(snapshot.dim)]
    form = ",".join(["%.9g"] * snapshot.dim)  # nine digits tell every float32 from the next
    writer = csv.writer(codecs.getwriter("utf-8")(file))
    writer.writerow(["id", "path", *snapshot.manifest.columns, *vector_columns])
    for block in read_blocks(snapshot, rows):
        cells = [
            [text(value) if isinstance(value, str) else format_cell(value) for value in column]
            for column in block.metadata.values()
        ]
        vectors = [block.z_mean] if block.z_log_var is None else [block.z_mean, block.z_log_var]
        for position, name in enumerate(block.ids):
            numbers = ",".join(form % tuple(array[position].tolist()) for array in vectors)
            path = block.paths[position] or ""
            row = [text(name), text(path), *(column[position] for column in cells)]
            writer.writerow(row + numbers.split(","))


def _not_a_formula(text: str) -> str:
    return "'" + text if text.startswith(_FORMULA) else text


class CsvReader(RowReader):
    """Columns of ids, paths, ``z_mean_0``.., ``z_log_var_0``.., and metadata."""

    def __init__(self, path: Path, columns: ColumnNames) -> None:
        super().__init__(path)
        with self.reading():
            self._header = next(self._records())[1]
        twice = {name for name in self._header if self._header.count(name) > 1}
        if twice:
            raise self.refuse(f"has column {min(twice)!r} twice: rename one")
        self._positions = {name: position for position, name in enumerate(self._header)}
        prefixes = [match[1] for match in map(_NUMBERED.match, self._header) if match]
        self._id = columns.require_id(self._header, self.refuse, noun="column")
        vector = columns.find_vector(
            list(dict.fromkeys(prefixes)),
            self.refuse,
            noun="numbered columns",
            holds=lambda name: f"{name}_0" in self._positions,
        )
        self.name_columns(self._id, vector)
        self._mean_columns = self._vector_columns(vector)
        self.check_dim(len(self._mean_columns), "z_mean")
        self._log_var_columns = self._vector_columns("z_log_var")
        self.has_log_var = bool(self._log_var_columns)
        if self.has_log_var:
            self.check_dim(len(self._log_var_columns), "z_log_var")
        vectors = {*self._mean_columns, *self._log_var_columns}
        self._keys = [
            name
            for name, position in self._positions.items()
            if name not in (self._id, "path") and position not in vectors and self.accepts(name)
        ]

    def _vector_columns(self, name: str) -> list[int]:
        """Positions of the columns ``NAME_0``, ``NAME_1`` and so on."""
        pattern = re.compile(rf"{re.escape(name)}_[0-9]+\Z")
        count = sum(pattern.match(column) is not None for column in self._header)
        wanted = [f"{name}_{number}" for number in range(count)]
        missing = [column for column in wanted if column not in self._positions]
        if missing:
            raise self.refuse(f"has {count} columns {name}_.., and no {missing[0]}: number them so")
        return [self._positions[column] for column in wanted]

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Number of the last line, and cells, of every record."""
        width = 0
        with self.path.open(newline="", encoding="utf-8-sig") as stream:
            # Strict, or an unclosed quote swallows the rest of the file.
            reader = csv.reader(read_lines(self.path, stream), strict=True)
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
        id_column = self._positions[self._id]
        guesses = {key: CellType(infinities=True) for key in self._keys}
        columns = [(guess, self._positions[key]) for key, guess in guesses.items()]
        names: list[str] = []
        with self.reading():
            for line, record in islice(self._records(), 1, None):
                if not record[id_column]:
                    raise self.refuse(f"line {line} has no id")
                names.append(record[id_column])
                for guess, position in columns:
                    guess.add(record[position])
                if len(names) == row_reader.BATCH_ROWS:
                    yield names
                    names = []
        yield names
        self.types = {key: guess.name for key, guess in guesses.items() if guess.filled}

    def fit(self, columns: Mapping[str, str]) -> None:
        for key in self.types:
            if columns.get(key) == "str":
                self.types[key] = "str"

    def pieces(self) -> Iterator[Rows]:
        step = max(1, _PIECE_CELLS // len(self._header))
        first = 0
        with self.reading():
            records = islice(self._records(), 1, None)
            while piece := list(islice(records, step)):
                yield self._rows([line for line, _ in piece], [cells for _, cells in piece], first)
                first += len(piece)

    def _rows(self, lines: list[int], records: list[list[str]], first: int) -> Rows:
        paths = self._cells("path", records) if "path" in self._positions else []
        log_vars = None
        if self.has_log_var:
            values = self._numbers(lines, records, self._log_var_columns)
            log_vars = self.vectors(values, "z_log_var", first)
        return Rows(
            self._cells(self._id, records),
            self.vectors(self._numbers(lines, records, self._mean_columns), "z_mean", first),
            log_vars,
            paths if any(paths) else None,
            columns={key: self._column(key, self._cells(key, records)) for key in self.types},
        )

    def _cells(self, name: str, records: list[list[str]]) -> list[str]:
        position = self._positions[name]
        return [record[position] for record in records]

    def _numbers(
        self, lines: list[int], records: list[list[str]], columns: list[int]
    ) -> NDArray[np.float64]:
        if columns == list(range(columns[0], columns[0] + len(columns))):
            cells = [record[columns[0] : columns[-1] + 1] for record in records]
        else:
            cells = [[record[column] for column in columns] for record in records]
        try:
            return np.array(cells, np.float64)
        except ValueError as error:
            for line, row in zip(lines, cells, strict=True):
                for column, cell in zip(columns, row, strict=True):
                    try:
                        float(cell)
                    except ValueError:
                        raise self.refuse(
                            f"line {line}: {self._header[column]} is {cell[:40]!r}, "
                            "expected a number"
                        ) from error
            raise

    def _column(self, key: str, cells: list[str]) -> Column:
        type_ = self.types[key]
        if type_ == "str":
            return text_column(key, [cell or None for cell in cells])
        try:
            values = [parse_cell(type_, cell) if cell else None for cell in cells]
            if type_ == "float":  # an infinity alone would not say so
                values = [None if value is None else float(value) for value in values]
            return make_column(key, values) or absent(type_, len(cells))
        except (ValueError, OverflowError) as error:
            raise self.refuse(f"changed while it was read ({key!r}): import it again") from error


def _next_record(reader: Iterator[list[str]]) -> list[str] | None:
    """The next record, whose cells may have up to `_MAX_CELL` characters."""
    # csv.field_size_limit is process-global: raise it for this read only.
    limit = csv.field_size_limit(_MAX_CELL)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(limit)
