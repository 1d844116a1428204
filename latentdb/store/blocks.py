"""The parts of a segment file: arrays of numbers, each checked before it is used.

A segment is an HDF5 file of contiguous numbers.  Its *layout* says where each
part lies, and a table has the checksum of every block of 64 KiB of it, so that
a reader maps the file and checks only the blocks it looks at: what a query
costs does not grow with the store, and no byte is used unchecked.  The
manifest has the checksum of the layout, the layout that of the table.
"""

from __future__ import annotations

import io
import json
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from latentdb.base.errors import CorruptStoreError, NotFoundError
from latentdb.base.files import checksum, map_checked, map_sized
from latentdb.store.manifest import FileEntry, LayoutEntry

Ints = NDArray[np.int64]
Numbers = NDArray[Any]

ALIGNMENT = 64  # bytes: a vector never straddles more cache lines than it must
BLOCK = 1 << 16  # bytes under one checksum
CHECKSUMS = "checksums"
LAYOUT = "layout"
BLOCKS = "blocks"
_OWN = (CHECKSUMS, LAYOUT, BLOCKS)
_MAX_LAYOUT = 16 << 20
_KINDS = "iuf"
_REST = 8  # once an eighth of the blocks was checked one by one, the rest is checked at once

Place = tuple[int, np.dtype[Any], tuple[int, ...]]  # offset in the file, type, shape


@dataclass(frozen=True)
class SegmentBytes:
    """A segment file: its bytes, and where in them its layout lies."""

    data: bytes
    layout: LayoutEntry


def dump(arrays: Mapping[str, Numbers]) -> SegmentBytes:
    """Arrays as a contiguous HDF5 file, made in memory.

    Parameters
    ----------
    arrays
        ArrayFile by name, little-endian numbers.
    """
    import h5py

    buffer = io.BytesIO()
    places: dict[str, list[Any]] = {}
    sums: list[int] = []
    with h5py.File(
        buffer,
        "w",
        libver=("v110", "v110"),
        alignment_threshold=1,
        alignment_interval=ALIGNMENT,
    ) as file:

        def write(name: str, values: Numbers) -> int:
            """Offset of the part; 0 where it has no bytes."""
            return file.create_dataset(name, data=values, track_times=False).id.get_offset() or 0

        for name, values in arrays.items():
            contiguous = np.ascontiguousarray(values)
            offset = write(name, contiguous)
            places[name] = [offset, contiguous.dtype.str, list(contiguous.shape), len(sums)]
            sums += _block_sums(contiguous.reshape(-1).view("u1"))
        write(CHECKSUMS, array_checksums(arrays))
        table = np.array(sums, "<u8")
        offset = write(BLOCKS, table)
        text = json.dumps(
            {"parts": places, "blocks": [offset, len(table), checksum(table.tobytes())]}
        ).encode()
        place = write(LAYOUT, np.frombuffer(text, "u1"))
    return SegmentBytes(buffer.getvalue(), LayoutEntry(place, len(text), checksum(text)))


def array_checksums(arrays: Mapping[str, Numbers]) -> NDArray[np.uint64]:
    """xxh3 of each array, in the order of their names: tells which part of a file is damaged."""
    digests = [
        xxhash.xxh3_64_intdigest(np.ascontiguousarray(arrays[name]).tobytes())
        for name in sorted(arrays)
    ]
    return np.array(digests, "<u8")


def _block_sums(raw: NDArray[np.uint8]) -> list[int]:
    digest = xxhash.xxh3_64_intdigest
    view = raw.data
    return [digest(view[start : start + BLOCK]) for start in range(0, len(raw), BLOCK)]


class MappedArray:
    """One array of a file.

    Parameters
    ----------
    array
        Mapped.
    sums
        uint64: the checksum of each block; None where the file was checked whole.
    name
        For errors.
    """

    def __init__(self, array: Numbers, sums: NDArray[np.uint64] | None, name: str) -> None:
        self._array = array
        self._raw: memoryview = array.reshape(-1).view("u1").data
        self._name = name
        self._sums = sums
        self._checked = None if sums is None else np.zeros(len(sums), bool)
        self._one_by_one = 0

    def __len__(self) -> int:
        return len(self._array)

    def whole(self) -> Numbers:
        """All of it.

        Raises
        ------
        CorruptStoreError
            If a block is not what was written.
        """
        if self._checked is not None:
            self._check(np.flatnonzero(~self._checked).tolist())
            self._checked = None
        return self._array

    def take(self, positions: Ints) -> Numbers:
        """Copies of the rows at some positions, which must be inside.

        Raises
        ------
        CorruptStoreError
            As `whole`.
        """
        if self._checked is not None:
            width = self._array.itemsize * math.prod(self._array.shape[1:])
            if width > BLOCK:
                self.whole()
            else:
                blocks = positions * width // BLOCK
                if width and BLOCK % width:  # a row may end in the next block
                    last = (positions * width + width - 1) // BLOCK
                    blocks = np.concatenate([blocks, last])
                if not self._checked[blocks].all():
                    self._touch(blocks)
        return self._array.take(positions, axis=0)

    def part(self, start: int, stop: int) -> Numbers:
        """The rows from start to stop, of a part that is one-dimensional.

        Raises
        ------
        CorruptStoreError
            As `whole`.
        """
        if self._checked is not None and stop > start:
            size = self._array.itemsize
            first, last = start * size // BLOCK, (stop * size - 1) // BLOCK
            if not self._checked[first : last + 1].all():
                self._touch(np.arange(first, last + 1))
        return self._array[start:stop]

    def _touch(self, blocks: Ints) -> None:
        checked = self._checked
        if checked is None:
            return
        # Not np.unique, which imports numpy.ma: 10 ms of a cold query.
        new = sorted(set(blocks[~checked[blocks]].tolist()))
        self._one_by_one += len(new)
        if self._one_by_one * _REST > len(checked):
            self.whole()
        else:
            self._check(new)

    def _check(self, blocks: list[int]) -> None:
        sums, checked = self._sums, self._checked
        if sums is None or checked is None:
            return
        digest = xxhash.xxh3_64_intdigest
        for number in blocks:
            start = number * BLOCK
            if digest(self._raw[start : start + BLOCK]) != sums[number]:
                raise CorruptStoreError(
                    f"{self._name} is damaged: its checksum does not hold "
                    f"from byte {start} of it on"
                )
            checked[number] = True


class ArrayFile:
    """The parts of one file, opened.

    Parameters
    ----------
    path, entry
        The file, and what the manifest says of it.
    layout
        Where its layout is; None for a file of format version 1, which has none
        and is checked whole.

    Raises
    ------
    NotFoundError
        If the file is missing.
    CorruptStoreError
        If it is damaged, or holds anything else than contiguous numbers.
    """

    def __init__(self, path: Path, entry: FileEntry, layout: LayoutEntry | None) -> None:
        self._path = path
        self._sums: NDArray[np.uint64] | None = None
        self._firsts: dict[str, int] = {}
        self._opened: dict[str, MappedArray] = {}
        self._map: mmap.mmap
        if layout is None:
            self._map = map_checked(path, entry.bytes, entry.checksum)
            self._places = hdf5_layout(path, entry.bytes)
        else:
            self._map = map_sized(path, entry.bytes)
            self._places = self._read(layout)

    def _read(self, layout: LayoutEntry) -> dict[str, Place]:
        end = layout.offset + layout.bytes
        if layout.bytes > _MAX_LAYOUT or end > len(self._map):
            raise CorruptStoreError(f"{self._path}: refused, its layout lies outside the file")
        text = self._map[layout.offset : end]
        if checksum(text) != layout.checksum:
            raise CorruptStoreError(f"{self._path} is damaged: the checksum of its layout is wrong")
        try:
            document = json.loads(text)
            offset, count, expected = document["blocks"]
            table = self._numbers(BLOCKS, (offset, np.dtype("<u8"), (count,)))
            if checksum(table.tobytes()) != expected:
                raise CorruptStoreError(
                    f"{self._path} is damaged: the checksum of its table of blocks is wrong"
                )
            places: dict[str, Place] = {}
            for name, (start, kind, shape, first) in document["parts"].items():
                dtype = np.dtype(str(kind))
                if dtype.kind not in _KINDS or dtype.hasobject:
                    raise ValueError(f"{name} is of type {dtype}")
                place = (_whole(start), dtype, tuple(_whole(side) for side in shape))
                blocks = -(-self._numbers(name, place).nbytes // BLOCK)
                if not 0 <= _whole(first) <= count - blocks:
                    raise ValueError(f"{name} has no checksums")
                places[name], self._firsts[name] = place, first
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, CorruptStoreError):
                raise
            told = " ".join(str(error).split())[:200]
            raise CorruptStoreError(f"{self._path}: refused, its layout is none: {told}") from error
        self._sums = table
        return places

    def is_intact(self) -> bool:
        """Whether the file still has the size it was mapped with: a system call."""
        return self._map.size() == len(self._map)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def names(self) -> set[str]:
        """Names of all parts but those that only check the others."""
        return set(self._places).difference(_OWN)

    def length(self, name: str) -> int:
        """First side of a part; 0 where there is none."""
        return self._places[name][2][0] if name in self._places and self._places[name][2] else 0

    def get(self, name: str, dtype: str, shape: tuple[int, ...]) -> MappedArray:
        """A part, which must be of this type and shape.

        Raises
        ------
        CorruptStoreError
            If it is not, or is missing.
        """
        opened = self._opened.get(name)
        if opened is not None:
            return opened
        if name not in self._places:
            raise CorruptStoreError(f"{self._path}: {name!r} is missing")
        place = self._places[name]
        if place[1] != np.dtype(dtype) or place[2] != shape:
            raise CorruptStoreError(
                f"{self._path}: refused, {name!r} is {place[1]} {place[2]}, "
                f"expected {dtype} {shape}"
            )
        array = self._numbers(name, place)
        sums = None
        if self._sums is not None:
            first = self._firsts[name]
            sums = self._sums[first : first + -(-array.nbytes // BLOCK)]
        part = self._opened[name] = MappedArray(array, sums, f"{self._path}: {name}")
        return part

    def _numbers(self, name: str, place: Place) -> Numbers:
        offset, dtype, shape = place
        count = math.prod(shape)
        if not 0 <= offset <= len(self._map) - count * dtype.itemsize:
            raise CorruptStoreError(f"{self._path}: refused, {name!r} lies outside the file")
        found = np.frombuffer(self._map, dtype, count, offset if count else 0)
        return found.reshape(shape)

    def check(self, entry: FileEntry) -> None:
        """Check all of the file, and that HDF5 says of it what its layout says.

        Raises
        ------
        CorruptStoreError
            If anything is not as it was written.
        """
        map_checked(self._path, entry.bytes, entry.checksum)
        found = hdf5_layout(self._path, entry.bytes)
        if {name: found[name] for name in found if name not in _OWN} != {
            name: self._places[name] for name in self.names()
        }:
            raise CorruptStoreError(f"{self._path}: refused, its layout is not that of its HDF5")


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"{value!r} is out of bounds")
    return value


def hdf5_layout(path: Path, size: int) -> dict[str, Place]:
    """Offset, type and shape of every data set; refuse whatever else HDF5 can express.

    Virtual data sets, external links and external storage read other files;
    filters, variable lengths and chunks unpack to any size.

    Raises
    ------
    NotFoundError, CorruptStoreError
        If there is no such file, or it is refused.
    """
    import h5py

    from latentdb.base.hdf5 import SafeReader  # not at the head: a query reads no HDF5

    def refused(message: str) -> CorruptStoreError:
        return CorruptStoreError(f"{path}: refused, {message}")

    reader = SafeReader(size, refused)
    try:
        with h5py.File(path, "r", locking=False) as file:
            return {name: reader.check(name, item) for name, item in reader.data_sets(file.id)}
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is missing") from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, CorruptStoreError):
            raise
        message = " ".join(str(error).split())[:200]
        raise CorruptStoreError(f"{path} is not a readable HDF5 file: {message}") from error
