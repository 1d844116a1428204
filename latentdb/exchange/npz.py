"""Rows in an ``.npz`` file of numpy: an array each of ids, vectors and metadata."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from latentdb.exchange.naming import ColumnNames
from latentdb.exchange.row_reader import BATCH_BYTES, RowReader, number_column, text_column
from latentdb.images.arrays import npy_header
from latentdb.store.columns import Column
from latentdb.store.rows import Rows

_TYPES = {"b": "bool", "i": "int", "u": "int", "f": "float", "U": "str", "S": "str"}
_MAX_TEXT = 4 << 20  # bytes of one text
_MAX_ARRAYS = 10_000


@dataclass(frozen=True)
class _Array:
    """An array of the archive: where it is, and what its header says."""

    member: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape[1:])


class NpzReader(RowReader):
    """Vectors ``[n, d]``, and arrays ``[n]`` of ids and metadata; without ids, row numbers."""

    def __init__(self, path: Path, columns: ColumnNames) -> None:
        super().__init__(path)
        with self.reading():
            self._archive = zipfile.ZipFile(path)
            try:
                self._open(columns)
            except BaseException:
                self._archive.close()
                raise

    def close(self) -> None:
        self._archive.close()

    def _open(self, columns: ColumnNames) -> None:
        infos = [info for info in self._archive.infolist() if info.filename.endswith(".npy")]
        if len(infos) > _MAX_ARRAYS:
            raise self.refuse(f"has {len(infos):,} arrays, expected at most {_MAX_ARRAYS:,}")
        arrays = {info.filename.removesuffix(".npy"): self._header(info) for info in infos}
        names = list(arrays)
        vector = columns.find_vector(
            names,
            self.refuse,
            noun="array",
            holds=lambda name: len(arrays[name].shape) == 2 and arrays[name].dtype.kind in "fiu",
        )
        id_ = columns.find_id(
            names,
            self.refuse,
            noun="array",
            holds=lambda name: len(arrays[name].shape) == 1 and arrays[name].dtype.kind in "iuUSO",
        )
        means = arrays.pop(vector)
        if means.dtype.kind not in "fiu" or len(means.shape) != 2:
            raise self.refuse(
                f"{vector} holds {means.dtype} of shape {list(means.shape)}, "
                "expected numbers, [rows, dimensions]"
            )
        self.named = {"z_mean": vector}
        self.check_dim(means.shape[1], "z_mean")
        self.rows = self._count = means.shape[0]
        self._data = {"z_mean": means}
        if id_ is not None:
            self._data["id"] = arrays[id_]
            self.named["id"] = id_
            if id_ != "path":
                del arrays[id_]
        for role in ("z_log_var", "path"):
            if role in arrays:
                self._data[role] = arrays.pop(role)
        self.has_log_var = "z_log_var" in self._data
        if self.has_log_var and self._data["z_log_var"].shape != means.shape:
            shape = list(self._data["z_log_var"].shape)
            raise self.refuse(f"z_log_var has shape {shape}, expected {list(means.shape)}")
        for role, accepted in (("id", "iuUS"), ("path", "US")):
            data = self._data.get(role, None)
            if data and (data.shape != (self._count,) or data.dtype.kind not in accepted):
                if data.dtype.kind == "O":
                    raise self.refuse(
                        f"{self.shown(role)} holds Python objects, which only running "
                        "code would read: save it as text (.astype(str))"
                    )
                raise self.refuse(
                    f"{self.shown(role)} holds {data.dtype} of shape {list(data.shape)}, "
                    f"expected text of shape [{self._count}]"
                )
        for key, array in arrays.items():
            kind = _TYPES.get(array.dtype.kind)
            if array.shape == (self._count,) and kind is not None and self.accepts(key):
                self.types[key] = kind
                self._data[f"metadata/{key}"] = array
            elif key not in self.left_out:
                self.left_out.append(key)
        for name, array in self._data.items():
            if array.fortran and len(array.shape) > 1:
                raise self.refuse(
                    f"{name} is in Fortran order: save it in C order (np.ascontiguousarray)"
                )
            if array.dtype.kind in "US" and array.row_bytes > _MAX_TEXT:
                raise self.refuse(f"{name} has texts of {array.row_bytes:,} bytes, expected less")

    def _header(self, info: zipfile.ZipInfo) -> _Array:
        with self._archive.open(info.filename) as stream:
            shape, fortran, dtype = npy_header(stream)
            needed = math.prod(shape) * dtype.itemsize
            held = info.file_size - stream.tell()
        if dtype.kind != "O" and (any(side < 0 for side in shape) or needed != held):
            raise self.refuse(
                f"{info.filename} declares shape {list(shape)}, {needed} bytes, and has {held}"
            )
        return _Array(info.filename, shape, fortran, dtype)

    @property
    def batch_rows(self) -> int:
        row_bytes = sum(array.row_bytes for array in self._data.values())
        return max(1, min(super().batch_rows, BATCH_BYTES // max(1, row_bytes)))

    def _batches(self, names: list[str]) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """First row, and the arrays of these names, of each batch."""
        with ExitStack() as stack:
            streams: dict[str, IO[bytes]] = {}
            for name in names:
                stream = stack.enter_context(self._archive.open(self._data[name].member))
                npy_header(stream)
                streams[name] = stream
            for first in range(0, self._count, self.batch_rows):
                rows = min(self.batch_rows, self._count - first)
                yield first, {name: self._read(name, streams[name], rows) for name in names}

    def _read(self, name: str, stream: IO[bytes], rows: int) -> NDArray[Any]:
        array = self._data[name]
        data = stream.read(rows * array.row_bytes)
        if len(data) != rows * array.row_bytes:
            raise EOFError("unexpected end of data")
        return np.frombuffer(data, array.dtype).reshape(rows, *array.shape[1:])

    def _ids(self, first: int, arrays: dict[str, NDArray[Any]], rows: int) -> list[str]:
        if "id" not in arrays:
            return [str(number) for number in range(first, first + rows)]
        return _texts(arrays["id"])

    def ids(self) -> Iterator[list[str]]:
        if "id" not in self._data:
            for first in range(0, self._count, self.batch_rows):
                yield self._ids(first, {}, min(self.batch_rows, self._count - first))
            return
        with self.reading():
            for first, arrays in self._batches(["id"]):
                yield self._ids(first, arrays, len(arrays["id"]))

    def pieces(self) -> Iterator[Rows]:
        with self.reading():
            for first, arrays in self._batches(list(self._data)):
                paths = _texts(arrays["path"]) if "path" in arrays else None
                log_vars = None
                if self.has_log_var:
                    log_vars = self.vectors(arrays["z_log_var"], "z_log_var", first)
                yield Rows(
                    self._ids(first, arrays, len(arrays["z_mean"])),
                    self.vectors(arrays["z_mean"], "z_mean", first),
                    log_vars,
                    paths if paths and any(paths) else None,
                    columns={
                        key: self._column(key, arrays[f"metadata/{key}"]) for key in self.types
                    },
                )

    def _column(self, key: str, values: NDArray[Any]) -> Column:
        type_ = self.types[key]
        if type_ == "str":
            return text_column(key, _texts(values))
        return number_column(type_, values, None, f"{self.path}: {key}")


def _texts(values: NDArray[Any]) -> list[str]:
    """The texts of an array of text, bytes of UTF-8, or whole numbers."""
    texts = [
        value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()
    ]
    "".join(texts).encode()  # a lone surrogate is no text
    return texts
