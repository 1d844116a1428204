"""Rows in an HDF5 file: a data set for each of id, path, z_mean, z_log_var and metadata key."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError
from latentdb.base.hdf5 import HeapText, SafeReader, is_variable
from latentdb.exchange.naming import ColumnNames
from latentdb.exchange.row_reader import BATCH_BYTES, RowReader, number_column, text_column
from latentdb.exchange.row_writer import has_log_var, model_attributes, read_blocks
from latentdb.store.cells import parse_cell
from latentdb.store.columns import Column, Value, absent, escape_key, make_column, unescape_key
from latentdb.store.dates import LIMITS
from latentdb.store.rows import Ints, Rows
from latentdb.store.snapshot import Snapshot

_DATA = ("id", "path", "z_mean", "z_log_var")
_MISSING = ".missing"
_TYPE = "metadata_type"  # attribute of text that is dates


class H5Reader(RowReader):
    """Data sets of ids, paths, z_mean, z_log_var and metadata (``KEY`` or ``metadata/KEY``)."""

    def __init__(self, path: Path, columns: ColumnNames) -> None:
        import h5py

        super().__init__(path)
        with self.reading():
            self._size = path.stat().st_size
            self._text_bytes = 0
            self._heap_texts: dict[str, HeapText] = {}
            self._raw = path.open("rb")
            try:
                self._file = h5py.File(path, "r", locking=False)
            except BaseException:
                self._raw.close()
                raise
            try:
                self._open(columns)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        self._file.close()
        self._raw.close()

    def _open(self, columns: ColumnNames) -> None:
        self._arrays: dict[str, Any] = {}
        self._names: dict[str, str] = {}  # of data sets, by metadata key
        reader = SafeReader(self._size, self._refused, groups=["metadata"], any_layout=True)
        for name, item in reader.data_sets(self._file.id):
            self._arrays[name] = self._checked(reader, name, item)
        self._find(columns)
        shape: tuple[int, ...] = self._arrays["z_mean"].shape or ()
        if len(shape) != 2:
            raise self.refuse(
                f"{self.named['z_mean']} has shape {list(shape)}, expected [rows, dimensions]"
            )
        self.check_dim(int(shape[1]), "z_mean")
        self.rows = self._count = int(shape[0])
        self._leave_out()
        for name, data in self._arrays.items():
            wanted = shape if name in ("z_mean", "z_log_var") else shape[:1]
            found = data.shape or ()
            if found != wanted:
                raise self.refuse(
                    f"{name} has shape {list(found)}, expected {list(wanted)} as of z_mean"
                )
        self.has_log_var = "z_log_var" in self._arrays
        self._read_types()
        self.fingerprint = self._attribute(self._file, "encoder_fingerprint")

    def _find(self, columns: ColumnNames) -> None:
        """Find the data sets of ids and vectors, and call them ``id`` and ``z_mean``."""
        arrays, names = self._arrays, list(self._arrays)
        kinds = {
            name: (len(data.shape or ()), "S" if data.dtype.kind == "O" else data.dtype.kind)
            for name, data in arrays.items()
        }
        vector = columns.find_vector(
            names,
            self.refuse,
            noun="data set",
            holds=lambda name: kinds[name] in ((2, "f"), (2, "i"), (2, "u")),
        )
        id_ = columns.require_id(
            names,
            self.refuse,
            noun="data set",
            holds=lambda name: kinds[name] in ((1, "S"), (1, "i"), (1, "u")),
        )
        self.name_columns(id_, vector)
        for role, name in self.named.items():
            if role == name:
                continue
            if role in arrays:
                self.left_out.append(role)
            arrays[role] = arrays[name] if name == "path" else arrays.pop(name)
            self._heap_texts.pop(role, None)
            if name in self._heap_texts:
                self._heap_texts[role] = self._heap_texts[name]

    def _leave_out(self) -> None:
        """Drop what is no row's, in a file of another program; refuse it in an export."""
        for name, data in list(self._arrays.items()):
            if name in _DATA or name.startswith("metadata/"):
                continue
            if self.is_own:
                raise self.refuse(
                    f"{name!r} is none of {', '.join(_DATA)}, metadata/KEY: move or remove it"
                )
            is_value = data.shape == (self._count,) and data.dtype.kind in "biufSO"
            if not is_value or f"metadata/{name}" in self._arrays:
                del self._arrays[name]
                self.left_out.append(name)

    def _read_types(self) -> None:
        accepted = {"id": ("str", "int"), "path": ("str",)}
        numbers = ("float", "int")
        for name, data in self._arrays.items():
            type_ = self._value_type(name, data)
            if name in _DATA and type_ not in accepted.get(name, numbers):
                raise self.refuse(
                    f"{name} holds {type_}, expected {accepted.get(name, numbers)[0]}"
                )
            if name in _DATA:
                continue
            if not name.endswith(_MISSING):
                prefixed = name.startswith("metadata/")
                key = unescape_key(name.removeprefix("metadata/")) if prefixed else name
                if not self.accepts(key):
                    continue
                written = self._attribute(data, _TYPE)
                self.types[key] = written if type_ == "str" and written in LIMITS else type_
                self._names[key] = name
            elif name.removesuffix(_MISSING) not in self._arrays or type_ not in ("bool", "int"):
                raise self.refuse(
                    f"{name} must hold booleans, and have {name.removesuffix(_MISSING)} beside it"
                )

    def _checked(self, reader: SafeReader, name: str, item: Any) -> Any:
        """The data set, once it is known to be inside the file and no larger than it."""
        import h5py

        shape = reader.check(name, item).shape
        if is_variable(item) and 0 not in shape:
            file = self._raw.fileno()
            text = HeapText(name, item, reader, lambda start, count: os.pread(file, count, start))
            self._heap_texts[name] = text
            self._text_bytes += text.total()
            if self._text_bytes > self._size:
                raise self._refused(f"the texts up to {name!r} are longer than the file")
        return h5py.Dataset(item)

    def _refused(self, message: str) -> Exception:
        return self.refuse(f"refused, {message}")

    def _value_type(self, name: str, data: Any) -> str:
        import h5py

        if data.id.get_type().get_class() == h5py.h5t.STRING:
            return "str"
        type_ = {"b": "bool", "i": "int", "u": "int", "f": "float"}.get(data.dtype.kind)
        is_enum = h5py.check_enum_dtype(data.dtype) is not None
        if type_ is None or is_enum:
            found = "an enumeration" if is_enum else data.dtype
            raise self.refuse(f"{name} holds {found}, expected text, numbers or booleans")
        return type_

    @staticmethod
    def _attribute(item: Any, name: str) -> str | None:
        """A text attribute of the file or a data set; None if it has none of fixed length."""
        import h5py

        if not h5py.h5a.exists(item.id, name.encode()):
            return None
        attribute = h5py.h5a.open(item.id, name.encode())
        type_ = attribute.get_type()
        # Text of variable length would be read from a heap, which may be damaged.
        if attribute.shape != () or type_.get_class() != h5py.h5t.STRING or type_.is_variable_str():
            return None
        value = item.attrs[name]
        return value.decode() if isinstance(value, bytes) else str(value)

    @property
    def batch_rows(self) -> int:
        column_bytes = [
            data.dtype.itemsize * math.prod(data.shape[1:])
            for data in self._arrays.values()
            if data.dtype.kind != "O"
        ]
        row_bytes = sum(column_bytes) + self._text_bytes // max(1, self._count)
        return max(1, min(super().batch_rows, int(BATCH_BYTES // max(1, row_bytes))))

    def _slices(self) -> Iterator[slice]:
        for start in range(0, self._count, self.batch_rows):
            yield slice(start, min(self._count, start + self.batch_rows))

    def _texts(self, name: str, positions: slice) -> list[str]:
        if name in self._heap_texts:
            return [value.decode() for value in self._heap_texts[name].texts(positions)]
        values = self._arrays[name][positions].tolist()
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values]

    def ids(self) -> Iterator[list[str]]:
        for positions in self._slices():
            with self.reading():
                names = self._texts("id", positions)
            yield names

    def pieces(self) -> Iterator[Rows]:
        for positions in self._slices():
            with self.reading():
                paths = self._texts("path", positions) if "path" in self._arrays else None
                log_vars = None
                if self.has_log_var:
                    values = self._arrays["z_log_var"][positions]
                    log_vars = self.vectors(values, "z_log_var", positions.start)
                rows = Rows(
                    self._texts("id", positions),
                    self.vectors(self._arrays["z_mean"][positions], "z_mean", positions.start),
                    log_vars,
                    paths if paths and any(paths) else None,
                    columns={key: self._column(key, positions) for key in self.types},
                )
            yield rows

    def _column(self, key: str, positions: slice) -> Column:
        name = self._names[key]
        missing: NDArray[np.bool_] | None = None
        if name + _MISSING in self._arrays:
            missing = self._arrays[name + _MISSING][positions].astype(bool)
        if self.types[key] in LIMITS:
            cells: list[str | None] = list(self._texts(name, positions))
            if missing is not None:
                cells = [None if m else cell for cell, m in zip(cells, missing, strict=True)]
            return self._dates(key, cells)
        if self.types[key] != "str":
            where = f"{self.path}: {name}"
            return number_column(self.types[key], self._arrays[name][positions], missing, where)
        values: list[str | None] = list(self._texts(name, positions))
        if missing is not None:
            values = [None if m else value for value, m in zip(values, missing, strict=True)]
        return text_column(key, values)

    def _dates(self, key: str, cells: list[str | None]) -> Column:
        type_ = self.types[key]
        try:
            values = [None if cell is None else parse_cell(type_, cell) for cell in cells]
        except ValueError as error:
            raise self.refuse(f"{self._names[key]}: {error}") from error
        return make_column(key, values) or absent(type_, len(values))


def write(snapshot: Snapshot, rows: Ints, file: IO[bytes]) -> None:
    """Write the data sets that `H5Reader` reads, and the fingerprint of the encoder."""
    with _DeferredErrors(file) as raw:
        _fill(snapshot, rows, raw)
        raw.check()


def _fill(snapshot: Snapshot, rows: Ints, raw: _DeferredErrors) -> None:
    import h5py

    text = h5py.string_dtype("utf-8")
    dtypes = {
        "str": text,
        "int": "<i8",
        "float": "<f8",
        "bool": "?",
        "date": text,
        "datetime": text,
    }
    fill: dict[str, Value] = {"int": 0, "float": np.nan, "bool": False}
    shape = (len(rows), snapshot.dim)
    columns = snapshot.manifest.columns
    with h5py.File(raw, "w") as file:
        file.attrs["format"] = "latentdb export"
        file.attrs["dim"] = snapshot.dim
        for name, value in model_attributes(snapshot).items():
            file.attrs[name] = np.bytes_(value.encode())
        means = file.create_dataset("z_mean", shape, "<f4")
        ids = file.create_dataset("id", shape[:1], text)
        paths = file.create_dataset("path", shape[:1], text)
        log_vars = None
        if has_log_var(snapshot):
            log_vars = file.create_dataset("z_log_var", shape, "<f4")
        for key, kind in columns.items():
            data = file.create_dataset(f"metadata/{escape_key(key)}", shape[:1], dtypes[kind])
            if kind in LIMITS:
                data.attrs[_TYPE] = np.bytes_(kind.encode())
        for block in read_blocks(snapshot, rows):
            means[block.positions] = block.z_mean
            if log_vars is not None:
                log_vars[block.positions] = block.z_log_var
            raw.check()
            ids[block.positions] = block.ids
            paths[block.positions] = [path or "" for path in block.paths]
            for key, values in block.metadata.items():
                if any(isinstance(value, str) and "\0" in value for value in values):
                    raise InvalidInputError(
                        f"metadata {key!r} has text with a null, which HDF5 text cannot hold: "
                        "export to .parquet or .csv"
                    )
                name = f"metadata/{escape_key(key)}"
                filler = fill.get(columns[key], "")
                filled = [filler if value is None else _plain(value) for value in values]
                file[name][block.positions] = filled
                if None in values:
                    name += _MISSING
                    missing = file.require_dataset(name, shape[:1], bool)
                    missing[block.positions] = [value is None for value in values]
            raw.check()


def _plain(value: Value) -> Value:
    return value.isoformat() if isinstance(value, date) else value


class _DeferredErrors(io.RawIOBase):
    """A file that reports no failed write to HDF5, which would end the process.

    The first error is raised by `check`; nothing more is written after it.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = io.FileIO(file.fileno(), "r+b", closefd=False)
        self._error: OSError | None = None

    def close(self) -> None:
        self._file.close()
        super().close()

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size, end = len(rest), self._file.tell() + len(rest)
        try:
            while rest and self._error is None:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._error = error
        self._file.seek(end)
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer) or 0

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
