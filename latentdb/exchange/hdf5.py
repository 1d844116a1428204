"""Rows in an HDF5 file: a data set for each of id, path, z_mean, z_log_var and metadata key.

An HDF5 file can name other files (links, external storage, virtual data sets),
unpack a kilobyte to terabytes (filters, unallocated chunks), and let a million
texts be the same megabyte.  All of it is refused before any data is read.
"""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError
from latentdb.exchange.row_reader import BATCH_BYTES, RowReader, number_column, text_column
from latentdb.exchange.row_writer import has_log_var, model_attributes, read_blocks
from latentdb.store.columns import Column, Value
from latentdb.store.segment import Ints, Rows
from latentdb.store.snapshot import Snapshot

_DATA = ("id", "path", "z_mean", "z_log_var")
_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
_MOST_RATIO = 1100  # deflate reaches 1032
_MOST_CHUNK = 256 << 20
_MOST_OBJECTS = 10_000
# Where a text of any length is: how long, in which collection, which of its objects.
_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("number", "<u4")])
_OBJECT = struct.Struct("<HHIQ")  # number, references, nothing, size
_MISSING = ".missing"


class H5Reader(RowReader):
    """Data sets ``id``, ``path``, ``z_mean``, ``z_log_var`` and ``metadata/KEY``."""

    def __init__(self, path: Path) -> None:
        import h5py

        super().__init__(path)
        with self.reading():
            self._size = path.stat().st_size
            self._text = 0
            self._references: dict[str, NDArray[Any]] = {}
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
        import h5py

        self._sets: dict[str, Any] = {}
        for name, item in self._children(self._file.id, ""):
            if name == "metadata" and isinstance(item, h5py.h5g.GroupID):
                for inner, child in self._children(item, "metadata/"):
                    self._sets[inner] = self._checked(inner, child)
            elif name in _DATA:
                self._sets[name] = self._checked(name, item)
            else:
                raise self.refuse(
                    f"{name!r} is none of {', '.join(_DATA)}, metadata/KEY: move or remove it"
                )
        for name in ("id", "z_mean"):
            if name not in self._sets:
                raise self.refuse(f"has no data set {name!r}, expected id and z_mean")
        shape = self._sets["z_mean"].shape
        if len(shape) != 2:
            raise self.refuse(f"z_mean has shape {list(shape)}, expected [rows, dimensions]")
        self.check_dim(int(shape[1]), "z_mean")
        self.rows = self._count = int(shape[0])
        for name, data in self._sets.items():
            wanted = shape if name in ("z_mean", "z_log_var") else shape[:1]
            if data.shape != wanted:
                raise self.refuse(
                    f"{name} has shape {list(data.shape)}, expected {list(wanted)} as of z_mean"
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

    @staticmethod
    def _children(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        import h5py

        for number, key in enumerate(group):
            name = prefix + key.decode(errors="replace")
            if number >= _MOST_OBJECTS:
                raise ValueError(f"{name!r} is one object too many")
            if group.links.get_info(key).type != h5py.h5l.TYPE_HARD:
                raise ValueError(f"refused, {name!r} is a soft or external link")
            yield name, h5py.h5o.open(group, key)

    def _checked(self, name: str, item: Any) -> Any:
        """A data set, after nothing but it and no more than the file holds would be read."""
        import h5py

        if not isinstance(item, h5py.h5d.DatasetID):
            raise self.refuse(f"refused, {name!r} is no data set")
        plist = item.get_create_plist()
        layout = plist.get_layout()
        if layout not in (h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED, h5py.h5d.COMPACT):
            raise self.refuse(f"refused, {name!r} is a virtual data set, which reads other files")
        if plist.get_external_count():
            raise self.refuse(f"refused, {name!r} has external storage, which reads other files")
        filters = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
        if not set(filters) <= set(_FILTERS) or len(set(filters)) != len(filters):
            raise self.refuse(
                f"refused, {name!r} has filters {filters}, expected {', '.join(_FILTERS.values())}"
            )
        kind = item.get_type().get_class()
        if kind not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING, h5py.h5t.ENUM):
            raise self.refuse(f"refused, {name!r} holds neither numbers nor text")
        loose = kind == h5py.h5t.STRING and item.get_type().is_variable_str()
        each = _REFERENCE.itemsize if loose else item.get_type().get_size()
        shape = tuple(int(side) for side in item.shape or ())
        declared = math.prod(shape) * each
        if layout == h5py.h5d.CHUNKED and math.prod(plist.get_chunk()) * each > _MOST_CHUNK:
            raise self.refuse(f"refused, {name!r} has chunks over {_MOST_CHUNK} bytes")
        stored = item.get_storage_size()
        if layout == h5py.h5d.CONTIGUOUS and declared:
            offset = item.get_offset()
            stored = 0 if offset is None else min(stored, self._size - offset)
        most = stored * _MOST_RATIO if filters else stored
        if declared > most or stored > self._size:
            raise self.refuse(
                f"refused, {name!r} of shape {list(shape)} is {declared} bytes, "
                f"of which the file holds {stored}"
            )
        if loose and declared:
            self._find_texts(name, item, compressed=bool(filters))
        return h5py.Dataset(item)

    def _find_texts(self, name: str, item: Any, *, compressed: bool) -> None:
        """Learn where texts are; refuse such as are more than the file, being one many times."""
        import h5py

        layout = item.get_create_plist().get_layout()
        if compressed or layout == h5py.h5d.COMPACT or self._file.userblock_size:
            raise self.refuse(
                f"refused, {name!r} is text of any length under a filter, in a header or after a "
                "user block: write it without, or as text of a fixed length"
            )
        if len(item.shape) != 1:
            raise self.refuse(f"{name} has shape {list(item.shape)}, expected one text a row")
        areas: list[tuple[int, int, int]] = []
        if layout == h5py.h5d.CONTIGUOUS:
            areas.append((0, item.get_offset(), item.get_storage_size()))
        else:
            item.chunk_iter(
                lambda chunk: areas.append((chunk.chunk_offset[0], chunk.byte_offset, chunk.size))
            )
        references = np.zeros(item.shape, _REFERENCE)
        for first, offset, size in areas:
            rows = min(size // _REFERENCE.itemsize, len(references) - first)
            data = os.pread(self._raw.fileno(), max(0, rows) * _REFERENCE.itemsize, offset)
            part = np.frombuffer(data[: len(data) // _REFERENCE.itemsize * 16], _REFERENCE)
            references[first : first + len(part)] = part
        self._references[name] = references
        self._text += int(references["length"].sum(dtype=np.int64))
        if self._text > self._size:
            raise self.refuse(f"refused, the texts up to {name!r} are longer than the file")

    def _loose_texts(self, name: str, part: slice) -> list[bytes]:
        """Texts of any length; HDF5 itself would read a damaged heap of them for ever."""
        references = self._references[name][part]
        texts = [b""] * len(references)
        filled = np.flatnonzero(references["length"])
        filled = filled[np.argsort(references["address"][filled], kind="stable")]
        held, data = -1, b""
        objects: dict[int, tuple[int, int]] = {}
        budget = self._size
        for place, (length, address, number) in zip(
            filled.tolist(), references[filled].tolist(), strict=True
        ):
            if address != held:
                data, objects = self._heap(name, address)
                held, budget = address, budget - len(data)
            start, size = objects.get(number, (0, -1))
            if size != length or budget < 0:
                raise self.refuse(f"the text of row {part.start + place} of {name} is damaged")
            texts[place] = data[start : start + size].split(b"\0", 1)[0]
        return texts

    def _heap(self, name: str, address: int) -> tuple[bytes, dict[int, tuple[int, int]]]:
        """A collection of texts: its bytes, and where each is in them."""
        data = b""
        if address < self._size:
            head = os.pread(self._raw.fileno(), 16, address)
            size = int.from_bytes(head[8:], "little")
            if head[:5] == b"GCOL\x01" and 16 <= size <= self._size - address:
                data = os.pread(self._raw.fileno(), size, address)
        if not data:
            raise self.refuse(f"the texts of {name} are damaged")
        objects: dict[int, tuple[int, int]] = {}
        at = 16
        while at + _OBJECT.size <= len(data):
            number, _, _, size = _OBJECT.unpack_from(data, at)
            at += _OBJECT.size
            if not number or size > len(data) - at:
                break  # what follows is free
            objects[number] = (at, size)
            at += (size + 7) // 8 * 8
        return data, objects

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
        if name in self._references:
            return [value.decode() for value in self._loose_texts(name, part)]
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
