"""A segment: rows as one immutable HDF5 file.

The file is built in memory and written in one piece.  Its arrays are mapped, those of
a small file read, and verified as far as they are read: see `latentdb.store.blocks`.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from latentdb.base.errors import CorruptStoreError, InvalidInputError
from latentdb.base.files import read_limited
from latentdb.base.wording import clipped
from latentdb.store.blocks import (
    BLOCKS,
    CHECKSUMS,
    LAYOUT,
    ArrayFile,
    MappedArray,
    SegmentBytes,
    array_checksums,
    hdf5_layout,
)
from latentdb.store.blocks import dump as dump_arrays
from latentdb.store.columns import DTYPES, Column, Value, absent, escape_key, plain_value
from latentdb.store.dates import LIMITS
from latentdb.store.manifest import FLOAT16, FLOAT32, SegmentEntry
from latentdb.store.rows import FileStats, Floats, Ints, Rows
from latentdb.store.texts import Texts, encode

_TYPES = {FLOAT32: "<f4", FLOAT16: "<f2"}
_FEW = 8  # ids that are looked up one by one, in the blocks where they must be
MAX_COLUMNS = 1_000  # each is up to six HDF5 objects, of at most 10,000


def hash_ids(ids: Sequence[str]) -> NDArray[np.uint64]:
    """64-bit xxh3 of each id; text with lone surrogates, which is no Unicode, has one too."""
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter(
        (digest(name.encode(errors="surrogatepass")) for name in ids), np.uint64, len(ids)
    )


def dump(rows: Rows, numbers: Ints, dtype: str = FLOAT32) -> SegmentBytes:
    """Write rows into a segment file in memory.

    Parameters
    ----------
    rows
        At least one.
    numbers
        int64 ``[n]``: their row numbers, ascending.
    dtype
        Of z_mean and z_log_var in the file.

    Raises
    ------
    InvalidInputError
        If a value is too large for it.
    """
    hashes = hash_ids(rows.ids) if rows.hashes is None else rows.hashes
    order = np.argsort(hashes, kind="stable")
    arrays: dict[str, NDArray[Any]] = {
        "row": numbers.astype("<i8"),
        "z_mean": _latents(rows.z_mean, "z_mean", dtype, rows.ids),
        "id/hashes": hashes[order].astype("<u8"),
        "id/order": order.astype("<i4"),
    }
    if rows.z_log_var is not None:
        arrays["z_log_var"] = _latents(rows.z_log_var, "z_log_var", dtype, rows.ids)
    arrays.update(_text_arrays("id", rows.ids))
    if rows.paths is not None:
        arrays.update(_text_arrays("path", rows.paths))
    if rows.file_stats is not None:
        arrays["file/sizes"] = rows.file_stats.sizes.astype("<i8")
        arrays["file/mtimes_ns"] = rows.file_stats.mtimes_ns.astype("<i8")
        arrays["file/digests"] = rows.file_stats.digests.astype("<u8")
    for key, column in rows.columns.items():
        name = _column_name(key)
        arrays[f"{name}/{column.type}"] = column.values.astype(DTYPES[column.type])
        if column.missing is not None:
            arrays[f"{name}/missing"] = column.missing.astype("u1")
        if column.type == "str":
            arrays.update(_text_arrays(f"{name}/categories", column.categories))
    return dump_arrays(arrays)


def _latents(values: Floats, name: str, dtype: str, ids: Sequence[str]) -> NDArray[Any]:
    """Latents as they are stored."""
    if dtype == FLOAT32:
        return np.ascontiguousarray(values, _TYPES[dtype])
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(values, _TYPES[dtype])
    beyond = np.argwhere(~np.isfinite(stored))
    if len(beyond):
        row, column = beyond[0].tolist()
        raise InvalidInputError(
            f"{name} of {clipped(ids[row])!r} has the value {values[row, column]:g}, and this "
            "store keeps float16, which ends at 65,504: make one with dtype float32 "
            "(--dtype float32)"
        )
    return stored


def _column_name(key: str) -> str:
    """What the names of a column's arrays begin with."""
    return f"metadata/{escape_key(key)}"


def rebuild_segment(path: Path, entry: SegmentEntry) -> SegmentBytes:
    """Rebuild a segment of which only the id look-up is damaged.

    Parameters
    ----------
    path
        The file, whose checksum does not match.
    entry
        Its entry in the manifest.

    Returns
    -------
    SegmentBytes
        The segment, with the id look-up computed from its ids.

    Raises
    ------
    CorruptStoreError
        If anything else is damaged.
    """
    data = read_limited(path, entry.file.bytes)
    arrays = {
        name: np.frombuffer(data, dtype, int(np.prod(shape)), offset).reshape(shape)
        for name, (offset, dtype, shape) in hdf5_layout(path, data).items()
        if name not in (LAYOUT, BLOCKS)
    }
    stored = arrays.pop(CHECKSUMS, np.empty(0, "<u8"))
    actual = array_checksums(arrays)
    if len(stored) != len(actual):
        raise CorruptStoreError(f"{path}: it has no checksum of each array")
    damaged = {name for name, bad in zip(sorted(arrays), stored != actual, strict=True) if bad}
    if not damaged <= {"id/hashes", "id/order"}:
        raise CorruptStoreError(f"{path}: {', '.join(sorted(damaged))} is damaged")
    if not {"id/offsets", "id/bytes"} <= arrays.keys():
        raise CorruptStoreError(f"{path}: it has no ids")
    texts = [MappedArray(arrays[f"id/{name}"], None, str(path)) for name in ("offsets", "bytes")]
    hashes = hash_ids(list(Texts(texts[0], texts[1], str(path))))
    order = np.argsort(hashes, kind="stable")
    arrays["id/hashes"], arrays["id/order"] = hashes[order].astype("<u8"), order.astype("<i4")
    return dump_arrays(arrays)


def _text_arrays(name: str, texts: Iterable[str]) -> dict[str, NDArray[Any]]:
    blob, offsets = encode(texts)
    return {f"{name}/offsets": offsets.astype("<i8"), f"{name}/bytes": blob}


def _as_float32(values: NDArray[Any]) -> Floats:
    return values.astype(np.float32, copy=False)


class Segment:
    """An open segment: arrays mapped from the file, not copied; those of a small one are read.

    Nothing of a mapped file is read before it is asked for: a store has many segments, and a
    query needs few of them.

    Parameters
    ----------
    folder
        Folder of the store.
    entry
        The segment's entry in the manifest.
    dim
        Dimensions of z_mean.
    columns
        Metadata types by key, from the manifest.
    dtype
        Of z_mean and z_log_var in the file.

    Raises
    ------
    NotFoundError, CorruptStoreError
        If the file is missing, or of another size.  Whatever reads it raises
        `CorruptStoreError` if it is damaged, or holds anything that is not part of a segment.
    """

    def __init__(
        self,
        folder: Path,
        entry: SegmentEntry,
        dim: int,
        columns: Mapping[str, str],
        dtype: str = FLOAT32,
    ) -> None:
        self.entry = entry
        self.name = str(folder / entry.file.name)
        self._file = ArrayFile(folder / entry.file.name, entry.file, entry.layout)
        self._dim, self._dtype = dim, _TYPES[dtype]
        # Row numbers without a gap follow from the first one and need not be read.
        self.gapless = entry.last_row - entry.first_row + 1 == entry.rows
        self.columns = dict(columns)
        self._columns: dict[tuple[str, str], Column] = {}
        self._readers: dict[
            tuple[str, str], tuple[tuple[str, MappedArray, MappedArray | None] | None, Texts | None]
        ] = {}

    def __len__(self) -> int:
        return self.entry.rows

    @cached_property
    def _arrays(self) -> ArrayFile:
        """The arrays of the file, once their names were checked."""
        self._check_names(self._file)
        return self._file

    @cached_property
    def _z_mean(self) -> MappedArray:
        return self._arrays.get("z_mean", self._dtype, (len(self), self._dim))

    @cached_property
    def _z_log_var(self) -> MappedArray | None:
        if "z_log_var" not in self._arrays:
            return None
        return self._arrays.get("z_log_var", self._dtype, (len(self), self._dim))

    @cached_property
    def _hashes(self) -> MappedArray:
        return self._arrays.get("id/hashes", "<u8", (len(self),))

    @cached_property
    def _order(self) -> MappedArray:
        return self._arrays.get("id/order", "<i4", (len(self),))

    @cached_property
    def ids(self) -> Texts:
        """The id of each row."""
        return self._texts("id", len(self))

    @cached_property
    def paths(self) -> Texts | None:
        """Path of the image of each row; None where none has one."""
        return self._texts("path", len(self)) if "path/offsets" in self._arrays else None

    @property
    def rows(self) -> Ints:
        """int64 ``[n]``: row numbers, ascending; an array of the caller's own, or mapped."""
        if self.gapless:  # not kept: 8 bytes for each row of the store, in the end
            return np.arange(self.entry.first_row, self.entry.last_row + 1, dtype=np.int64)
        return self._numbers

    @cached_property
    def _numbers(self) -> Ints:
        entry = self.entry
        rows: Ints = self._arrays.get("row", "<i8", (len(self),)).whole()
        if rows[0] != entry.first_row or rows[-1] != entry.last_row:
            raise CorruptStoreError(f"{self.name}: its row numbers differ from the manifest")
        return rows

    @property
    def z_mean(self) -> Floats:
        """float32 ``[n, d]``, mapped, or a copy of float16; all of it is verified."""
        return _as_float32(self._z_mean.whole())

    @property
    def z_log_var(self) -> Floats | None:
        """As `z_mean`; None where there is none."""
        return None if self._z_log_var is None else _as_float32(self._z_log_var.whole())

    @property
    def has_log_var(self) -> bool:
        """Whether its rows have a z_log_var."""
        return self._z_log_var is not None

    def z_means(self, positions: Ints) -> Floats:
        """Copies of z_mean at some positions: float32 ``[n, d]``; only their blocks are read."""
        return _as_float32(self._z_mean.take(positions))

    @property
    def verified_z_mean(self) -> Floats | None:
        """float32 ``[n, d]``, mapped; None where it was not verified whole, or is float16."""
        return self._z_mean.verified if self._dtype == _TYPES[FLOAT32] else None

    def z_log_vars(self, positions: Ints) -> Floats | None:
        """As `z_means`, of z_log_var."""
        return None if self._z_log_var is None else _as_float32(self._z_log_var.take(positions))

    def scan(self, part: slice) -> Floats:
        """z_mean of a part of the rows, float32 ``[n, d]``; all of z_mean is verified."""
        return _as_float32(self._z_mean.whole()[part])

    def scan_log_vars(self, part: slice) -> Floats | None:
        """As `scan`, of z_log_var."""
        return None if self._z_log_var is None else _as_float32(self._z_log_var.whole()[part])

    def read(self, positions: Ints) -> Rows:
        """Copies of the rows at some positions, with all their metadata."""
        return Rows(
            self.ids.take(positions),
            self.z_mean[positions],
            None if self.z_log_var is None else self.z_log_var[positions],
            None if self.paths is None else self.paths.take(positions),
            None if self.file_stats is None else self.file_stats.take(positions),
            {key: self.column(key).take(positions) for key in self.columns},
        )

    def is_intact(self) -> bool:
        """Whether the file still has the size it was mapped with.

        Reading a mapped page of a file that was truncated ends the process with
        SIGBUS, so this is called before each use.  It takes half a microsecond.
        """
        return self.mapped is None or self.mapped.size() == len(self.mapped)

    @property
    def mapped(self) -> mmap.mmap | None:
        """The whole file; None where it is small, and was read."""
        content = self._file.content
        return None if isinstance(content, bytes) else content

    def with_columns(self, columns: Mapping[str, str]) -> Segment:
        """The same open segment under the metadata types of a later version."""
        other = copy(self)
        other.columns = dict(columns)
        return other

    def _check_names(self, file: ArrayFile) -> None:
        known = {"row", "z_mean", "z_log_var", "id/hashes", "id/order", "id/offsets", "id/bytes"}
        known |= {"path/offsets", "path/bytes", "file/sizes", "file/mtimes_ns", "file/digests"}
        for key, type_ in self.columns.items():
            names = ("int", type_, "missing", "categories/offsets", "categories/bytes")
            known |= {f"{_column_name(key)}/{name}" for name in names}
        unknown = sorted(file.names() - known)
        if unknown:
            raise CorruptStoreError(
                f"{self.name}: refused, {unknown[0]!r} is not part of a segment"
            )

    def _texts(self, name: str, count: int) -> Texts:
        offsets = self._arrays.get(f"{name}/offsets", "<i8", (count + 1,))
        size = self._arrays.length(f"{name}/bytes")
        return Texts(offsets, self._arrays.get(f"{name}/bytes", "u1", (size,)), self.name)

    @cached_property
    def file_stats(self) -> FileStats | None:
        """Stats of the image files; None where the rows came from no images."""
        if "file/sizes" not in self._arrays:
            return None
        shape = (len(self),)
        return FileStats(
            self._arrays.get("file/sizes", "<i8", shape).whole(),
            self._arrays.get("file/mtimes_ns", "<i8", shape).whole(),
            self._arrays.get("file/digests", "<u8", shape).whole(),
        )

    def column(self, key: str) -> Column:
        """A metadata column; every value is missing where the segment has no such column.

        Raises
        ------
        InvalidInputError
            If the store has no such key.
        """
        type_ = self._type(key)
        column = self._columns.get((key, type_))
        if column is None:
            column = self._columns[key, type_] = self._column(key, type_)
        return column

    def stores(self, key: str) -> bool:
        """Whether the file has values of a metadata column, and be they all missing."""
        name = _column_name(key)
        return any(f"{name}/{type_}" in self._arrays for type_ in DTYPES)

    def _type(self, key: str) -> str:
        if key not in self.columns:
            raise InvalidInputError(f"metadata {key!r} is not in this store")
        return self.columns[key]

    def _stored(self, key: str, type_: str) -> tuple[str, MappedArray, MappedArray | None] | None:
        """Type in the file, values, mask of missing ones; None where the segment has no column."""
        prefix = _column_name(key)
        # An int column may have been written before the first float made the column float.
        names = (type_, "int") if type_ == "float" else (type_,)
        stored = next((name for name in names if f"{prefix}/{name}" in self._arrays), None)
        if stored is None:
            return None
        shape = (len(self),)
        missing = None
        if f"{prefix}/missing" in self._arrays:
            missing = self._arrays.get(f"{prefix}/missing", "u1", shape)
        return stored, self._arrays.get(f"{prefix}/{stored}", DTYPES[stored].str, shape), missing

    def _categories(self, key: str) -> Texts:
        prefix = f"{_column_name(key)}/categories"
        return self._texts(prefix, max(self._arrays.length(f"{prefix}/offsets"), 1) - 1)

    def _column(self, key: str, type_: str) -> Column:
        stored = self._stored(key, type_)
        if stored is None:
            return absent(type_, len(self))
        values = stored[1].whole()
        missing = None if stored[2] is None else stored[2].whole().astype(bool)
        categories: tuple[str, ...] | Texts = ()
        if type_ == "str":
            categories = self._categories(key)
            categories.utf8()  # verified here, once
            known = values if missing is None else values[~missing]
            if len(known) and not 0 <= known.min() <= known.max() < len(categories):
                raise self._no_category(key)
        known = values if missing is None else values[~missing]
        self._check_dates(key, type_, known)
        return Column(stored[0], values, missing, categories).cast(type_, key)

    def _check_dates(self, key: str, type_: str, values: Sequence[int] | NDArray[Any]) -> None:
        if type_ in LIMITS and len(values):
            least, most = LIMITS[type_]
            numbers = np.asarray(values)
            if not least <= numbers.min() <= numbers.max() <= most:
                raise CorruptStoreError(f"{self.name}: {key!r} has a {type_} out of range")

    def _no_category(self, key: str) -> CorruptStoreError:
        return CorruptStoreError(f"{self.name}: {key!r} has codes without a category")

    def items(self, key: str, positions: Ints) -> list[Value]:
        """Values of some rows, without reading the whole column; None where one is missing."""
        type_ = self._type(key)
        found = self._readers.get((key, type_))
        if found is None:
            stored = self._stored(key, type_)
            texts = self._categories(key) if stored is not None and type_ == "str" else None
            found = self._readers[key, type_] = (stored, texts)
        stored, texts = found
        if stored is None:
            return [None] * len(positions)
        values: list[Any] = stored[1].take(positions).tolist()
        if stored[2] is not None:
            missing = stored[2].take(positions).tolist()
            values = [None if absent else v for v, absent in zip(values, missing, strict=True)]
        if texts is not None:
            codes = sorted(set(values) - {None})
            if codes and not 0 <= codes[0] <= codes[-1] < len(texts):
                raise self._no_category(key)
            named = dict(zip(codes, texts.take(np.array(codes, np.int64)), strict=True))
            return list(map(named.get, values))
        self._check_dates(key, type_, [value for value in values if value is not None])
        return [None if value is None else plain_value(type_, value) for value in values]

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """The hash of each id, ascending."""
        return self._hashes.whole()

    def find(self, ids: Sequence[str], hashes: NDArray[np.uint64]) -> Ints:
        """Positions of ids, by bisection over their hashes; -1 where one is not here."""
        if len(ids) <= _FEW:
            return np.array(list(map(self.find_one, ids, hashes)), np.int64)
        positions = np.full(len(ids), -1, np.int64)
        stored = self.hashes
        left = stored.searchsorted(hashes)
        inside = np.minimum(left, len(self) - 1)
        for number in np.flatnonzero(stored[inside] == hashes).tolist():
            positions[number] = self._position(ids[number], int(left[number]))
        return positions

    def find_one(self, name: str, wanted: np.uint64) -> int:
        """`find` of one id and its hash."""
        entry = self._hashes.search(wanted)
        if entry == len(self) or self._hashes.range(entry, entry + 1)[0] != wanted:
            return -1
        return self._position(name, entry)

    def _position(self, name: str, entry: int) -> int:
        """Position of an id, of those whose hashes equal that of a sorted one; -1 for none."""
        (wanted,) = self._hashes.range(entry, entry + 1)
        while entry < len(self) and self._hashes.range(entry, entry + 1)[0] == wanted:
            position = int(self._order.range(entry, entry + 1)[0])
            if not 0 <= position < len(self):
                raise CorruptStoreError(f"{self.name}: its id order is out of bounds")
            if self.ids[position] == name:
                return position
            entry += 1
        return -1

    def hashes_by_position(self) -> NDArray[np.uint64]:
        """The hash of each id, by position."""
        hashes = np.empty(len(self), np.uint64)
        hashes[self._order.whole()] = self.hashes
        return hashes

    def check_layout(self) -> None:
        """Verify that every array has its dtype and shape; of contents, row numbers are read.

        Raises
        ------
        CorruptStoreError
            If one has not.
        """
        _ = self._z_mean, self._z_log_var, self._hashes, self._order, self.ids, self.paths
        self._arrays.get("row", "<i8", (len(self),))
        if not self.gapless:
            _ = self._numbers
        for name, dtype in (("sizes", "<i8"), ("mtimes_ns", "<i8"), ("digests", "<u8")):
            if "file/sizes" in self._arrays:
                self._arrays.get(f"file/{name}", dtype, (len(self),))
        for key, type_ in self.columns.items():
            stored = self._stored(key, type_)
            if stored is not None and stored[0] == "str":
                self._categories(key)

    def check(self) -> None:
        """Verify the whole file and the content of its arrays.

        Raises
        ------
        CorruptStoreError
            Names the first violation.
        """
        self._arrays.check(self.entry.file)
        self.check_layout()
        numbers: Ints = self._arrays.get("row", "<i8", (len(self),)).whole()
        hashes, order = self.hashes, self._order.whole()
        conditions = (
            (bool((np.diff(numbers) > 0).all()), "its row numbers do not ascend"),
            (
                np.array_equal(numbers, self.rows),
                "its row numbers differ from the manifest",
            ),
            (bool(np.isfinite(self.z_mean).all()), "a z_mean is not finite"),
            (
                self.z_log_var is None or bool(np.isfinite(self.z_log_var).all()),
                "a z_log_var is not finite",
            ),
            (bool((hashes[1:] >= hashes[:-1]).all()), "its id hashes do not ascend"),
            (
                np.array_equal(np.sort(order), np.arange(len(self))),
                "its id order is not a permutation",
            ),
        )
        for holds, violation in conditions:
            if not holds:
                raise CorruptStoreError(f"{self.name}: {violation}")
        if not np.array_equal(hash_ids(list(self.ids)), self.hashes_by_position()):
            raise CorruptStoreError(f"{self.name}: an id hash is not that of its id")
        if self.paths is not None:
            self.paths.utf8()
        for key in self.columns:
            self.column(key)

    def overlaps(self, other: Segment) -> bool:
        """Whether the ranges of row numbers of two segments meet."""
        return (
            self.entry.first_row <= other.entry.last_row
            and other.entry.first_row <= self.entry.last_row
        )

    def holds(self, numbers: Ints) -> NDArray[np.bool_]:
        """Mask of the row numbers that are in this segment."""
        if self.gapless:
            return (numbers >= self.entry.first_row) & (numbers <= self.entry.last_row)
        nearest = np.minimum(np.searchsorted(self.rows, numbers), len(self) - 1)
        return np.asarray(self.rows[nearest] == numbers)

    def numbers(self, positions: Ints) -> Ints:
        """Row numbers at positions."""
        return positions + self.entry.first_row if self.gapless else self._numbers[positions]

    def positions(self, numbers: Ints) -> Ints:
        """Positions of row numbers, all of which must be in this segment.

        Raises
        ------
        CorruptStoreError
            If one is not, or the file was truncated since it was opened.
        """
        if not self.is_intact():
            raise CorruptStoreError(f"{self.name} was truncated while it was open: restore it")
        if self.gapless:
            positions = numbers - self.entry.first_row
            # Without a sign, those below 0 are the largest.
            if len(positions) and int(positions.view(np.uint64).max()) >= self.entry.rows:
                raise CorruptStoreError(f"{self.name}: a row number is not where it should be")
            return positions
        positions = np.searchsorted(self.rows, numbers)
        inside = np.minimum(positions, len(self) - 1)
        if not np.array_equal(self.rows[inside], numbers):
            raise CorruptStoreError(f"{self.name}: a row number is not where the manifest says")
        return positions
