"""Rows in an HDF5 file: a data set for each of id, path, z_mean, z_log_var and metadata key."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError
from latentdb.base.hdf5 import HeapText, SafeReader, is_variable
from latentdb.exchange.row_reader import BATCH_BYTES, RowReader, number_column, text_column
from latentdb.exchange.row_writer import has_log_var, model_attributes, read_blocks
from latentdb.store.columns import Column, Value
from latentdb.store.segment import Ints, Rows
from latentdb.store.snapshot import Snapshot

_DATA = ("id", "path", "z_mean", "z_log_var")
_MISSING = ".missing"


class H5Reader(RowReader):
    """Data sets ``id``, ``path``, ``z_mean``, ``z_log_var`` and ``metadata/KEY``."""

    def __init__(self, path: Path) -> None:
        import h5py

        super().__init__(path)
        with self.reading():
            self._size = path.stat().st_size
            self._text = 0
            self._heap_texts: dict[str, HeapText] = {}
            self._raw = path.open("rb")
            try:
                self._file = h5py.File(path, "r", locking=False)
            except BaseException:
                self._raw.close()
                raise
            try:
                self._open()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        self._file.close()
        self._raw.close()

    def _open(self) -> None:

        self._sets: dict[str, Any] = {}
        reader = SafeReader(self._size, self._refused, groups=["metadata"], any_layout=True)
        for name, item in reader.data_sets(self._file.id):
            if name not in _DATA and not name.startswith("metadata/"):
                raise self.refuse(
                    f"{name!r} is none of {', '.join(_DATA)}, metadata/KEY: move or remove it"
                )
            self._sets[name] = self._checked(reader, name, item)
        for name in ("id", "z_mean"):
            if name not in self._sets:
                raise self.refuse(f"has no data set {name!r}, expected id and z_mean")
        shape: tuple[int, ...] = self._sets["z_mean"].shape or ()
        if len(shape) != 2:
            raise self.refuse(f"z_mean has shape {list(shape)}, expected [rows, dimensions]")
        self.check_dim(int(shape[1]), "z_mean")
        self.rows = self._count = int(shape[0])
        for name, data in self._sets.items():
            wanted = shape if name in ("z_mean", "z_log_var") else shape[:1]
            found = data.shape or ()
            if found != wanted:
                raise self.refuse(
                    f"{name} has shape {list(found)}, expected {list(wanted)} as of z_mean"
                )
        self.has_log_var = "z_log_var" in self._sets
        self._read_types()
        self.fingerprint = self._attribute(b"encoder_fingerprint")

    def _read_types(self) -> None:
        wanted = {"id": ("str", "int"), "path": ("str",)}
        numbers = ("float", "int")
        for name, data in self._sets.items():
            kind = self._kind(name, data)
            if name in _DATA and kind not in wanted.get(name, numbers):
                raise self.refuse(f"{name} holds {kind}, expected {wanted.get(name, numbers)[0]}")
            key = name.removeprefix("metadata/")
            if name in _DATA:
                continue
            if not key.endswith(_MISSING):
                self.types[key] = kind
            elif name.removesuffix(_MISSING) not in self._sets or kind not in ("bool", "int"):
                raise self.refuse(f"{name} says of no metadata which values are missing")
        self.check_keys(self.types)

    def _checked(self, reader: SafeReader, name: str, item: Any) -> Any:
        """A data set that can be read: nothing but it, and no more than the file holds."""
        import h5py

        shape = reader.check(name, item).shape
        if is_variable(item) and 0 not in shape:
            file = self._raw.fileno()
            text = HeapText(name, item, reader, lambda start, count: os.pread(file, count, start))
            self._heap_texts[name] = text
            self._text += text.total()
            if self._text > self._size:
                raise self._refused(f"the texts up to {name!r} are longer than the file")
        return h5py.Dataset(item)

    def _refused(self, message: str) -> Exception:
        return self.refuse(f"refused, {message}")

    def _kind(self, name: str, data: Any) -> str:
        import h5py

        if data.id.get_type().get_class() == h5py.h5t.STRING:
            return "str"
        kind = {"b": "bool", "i": "int", "u": "int", "f": "float"}.get(data.dtype.kind)
        named = h5py.check_enum_dtype(data.dtype) is not None
        if kind is None or named:
            found = "an enumeration" if named else data.dtype
            raise self.refuse(f"{name} holds {found}, expected text, numbers or truth values")
        return kind

    def _attribute(self, name: bytes) -> str | None:
        """A short text that the file says of itself."""
        import h5py

        if not h5py.h5a.exists(self._file.id, name):
            return None
        attribute = h5py.h5a.open(self._file.id, name)
        kind = attribute.get_type()
        # One of any length would be read from a heap, which may be damaged.
        if attribute.shape != () or kind.get_class() != h5py.h5t.STRING or kind.is_variable_str():
            return None
        value = self._file.attrs[name.decode()]
        return value.decode() if isinstance(value, bytes) else str(value)

    @property
    def batch_rows(self) -> int:
        sizes = [
            data.dtype.itemsize * math.prod(data.shape[1:])
            for data in self._sets.values()
            if data.dtype.kind != "O"
        ]
        each = sum(sizes) + self._text // max(1, self._count)
        return max(1, min(super().batch_rows, int(BATCH_BYTES // max(1, each))))

    def _slices(self) -> Iterator[slice]:
        for start in range(0, self._count, self.batch_rows):
            yield slice(start, min(self._count, start + self.batch_rows))

    def _texts(self, name: str, part: slice) -> list[str]:
        if name in self._heap_texts:
            return [value.decode() for value in self._heap_texts[name].texts(part)]
        values = self._sets[name][part].tolist()
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values]

    def ids(self) -> Iterator[list[str]]:
        for part in self._slices():
            with self.reading():
                names = self._texts("id", part)
            yield names

    def pieces(self) -> Iterator[Rows]:
        for part in self._slices():
            with self.reading():
                paths = self._texts("path", part) if "path" in self._sets else None
                log_vars = None
                if self.has_log_var:
                    values = self._sets["z_log_var"][part]
                    log_vars = self.vectors(values, "z_log_var", part.start)
                rows = Rows(
                    self._texts("id", part),
                    self.vectors(self._sets["z_mean"][part], "z_mean", part.start),
                    log_vars,
                    paths if paths and any(paths) else None,
                    columns={key: self._column(key, part) for key in self.types},
                )
            yield rows

    def _column(self, key: str, part: slice) -> Column:
        name = f"metadata/{key}"
        missing: NDArray[np.bool_] | None = None
        if name + _MISSING in self._sets:
            missing = self._sets[name + _MISSING][part].astype(bool)
        if self.types[key] != "str":
            where = f"{self.path}: {name}"
            return number_column(self.types[key], self._sets[name][part], missing, where)
        values: list[str | None] = list(self._texts(name, part))
        if missing is not None:
            values = [
                None if lacking else value for value, lacking in zip(values, missing, strict=True)
            ]
        return text_column(key, values)


def write(snapshot: Snapshot, rows: Ints, file: IO[bytes]) -> None:
    """Write the data sets that `H5Reader` reads, and the fingerprint of the encoder."""
    with _DeferredErrors(file) as raw:
        _fill(snapshot, rows, raw)
        raw.check()


def _fill(snapshot: Snapshot, rows: Ints, raw: _DeferredErrors) -> None:
    import h5py

    text = h5py.string_dtype("utf-8")
    dtypes = {"str": text, "int": "<i8", "float": "<f8", "bool": "?"}
    fill: dict[str, Value] = {"str": "", "int": 0, "float": np.nan, "bool": False}
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
            file.create_dataset(f"metadata/{key}", shape[:1], dtypes[kind])
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
                filler = fill[columns[key]]
                filled = [filler if value is None else value for value in values]
                file[f"metadata/{key}"][block.positions] = filled
                if None in values:
                    name = f"metadata/{key}{_MISSING}"
                    missing = file.require_dataset(name, shape[:1], bool)
                    missing[block.positions] = [value is None for value in values]
            raw.check()


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
