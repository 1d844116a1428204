"""The arrays of a segment file, verified block by block before they are used.

A segment is an HDF5 file of contiguous arrays of numbers.  Its *layout* has the
offset, dtype and shape of each array; a table has the checksum of every block
of 64 KiB of them.  A reader maps the file and verifies only the blocks that it
reads, so the cost of a query does not grow with the store, and no byte is used
unverified.  The manifest has the checksum of the layout, the layout that of the
table.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from latentdb.base.errors import CorruptStoreError
from latentdb.base.files import checksum, compare_checksum, map_checked, read_or_map
from latentdb.store.manifest import FileEntry, LayoutEntry

Ints = NDArray[np.int64]
Numbers = NDArray[Any]

ALIGNMENT = 64  # bytes: a vector never straddles more cache lines than it must
BLOCK = 1 << 16  # bytes under one checksum
CHECKSUMS = "checksums"
LAYOUT = "layout"
BLOCKS = "blocks"
_INTERNAL = (CHECKSUMS, LAYOUT, BLOCKS)
_MAX_LAYOUT = 16 << 20
# np.dtype would parse other text as Python, and raise what that raises.
_DTYPE = re.compile(r"(\|[iu]1|<[iu][248]|<f[248])\Z")
_VERIFY_ALL = 8  # past an eighth of the blocks, verifying the rest in order is faster

ArrayLayout = tuple[int, np.dtype[Any], tuple[int, ...]]  # offset in the file, dtype, shape


@dataclass(frozen=True)
class SegmentBytes:
    """A segment file in memory, and the entry of its layout for the manifest."""

    data: bytes
    layout: LayoutEntry


def dump(arrays: Mapping[str, Numbers]) -> SegmentBytes:
    """Write arrays into a contiguous HDF5 file in memory.

    Parameters
    ----------
    arrays
        Little-endian numbers, by name.
    """
    import h5py

    buffer = io.BytesIO()
    entries: dict[str, list[Any]] = {}
    sums: list[int] = []
    with h5py.File(
        buffer,
        "w",
        libver=("v110", "v110"),
        alignment_threshold=1,
        alignment_interval=ALIGNMENT,
    ) as file:

        def write(name: str, values: Numbers) -> int:
            """Write an array; its offset, 0 where it has no bytes."""
            return file.create_dataset(name, data=values, track_times=False).id.get_offset() or 0

        for name, values in arrays.items():
            contiguous = np.ascontiguousarray(values)
            offset = write(name, contiguous)
            entries[name] = [offset, contiguous.dtype.str, list(contiguous.shape), len(sums)]
            sums += _block_sums(contiguous.reshape(-1).view("u1"))
        write(CHECKSUMS, array_checksums(arrays))
        table = np.array(sums, "<u8")
        offset = write(BLOCKS, table)
        text = json.dumps(
            {"parts": entries, "blocks": [offset, len(table), checksum(table.tobytes())]}
        ).encode()
        start = write(LAYOUT, np.frombuffer(text, "u1"))
    return SegmentBytes(buffer.getvalue(), LayoutEntry(start, len(text), checksum(text)))


def array_checksums(arrays: Mapping[str, Numbers]) -> NDArray[np.uint64]:
    """xxh3 of each array, in the order of their names: shows which array is damaged."""
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
    """One array of a mapped file, verified as far as it is read.

    Threads may share it: each works on the mask of checked blocks that it saw first, which
    another may drop meanwhile, and verifies a block twice at worst.

    Parameters
    ----------
    array
        The array, in the mapping.
    sums
        uint64: checksum of each block; None where the whole file was verified.
    name
        File and array, for errors.
    """

    def __init__(self, array: Numbers, sums: NDArray[np.uint64] | None, name: str) -> None:
        self._array = array
        self._raw: memoryview = array.reshape(-1).view("u1").data
        self._name = name
        self._sums = sums
        self._checked = None if sums is None else np.zeros(len(sums), bool)
        self._single_checks = 0

    def __len__(self) -> int:
        return len(self._array)

    def whole(self) -> Numbers:
        """The whole array, mapped.

        Raises
        ------
        CorruptStoreError
            If the checksum of a block does not match.
        """
        checked = self._checked
        if checked is not None:
            self._verify(np.flatnonzero(~checked).tolist(), checked)
            self._checked = None
        return self._array

    @property
    def verified(self) -> Numbers | None:
        """The whole array, mapped; None where a block of it was not verified yet."""
        return self._array if self._checked is None else None

    def take(self, positions: Ints) -> Numbers:
        """Copies of the rows at some positions, which must exist.

        Raises
        ------
        CorruptStoreError
            As `whole`.
        """
        checked = self._checked
        if checked is not None:
            row_bytes = self._array.itemsize * math.prod(self._array.shape[1:])
            if row_bytes > BLOCK:
                self.whole()
            else:
                blocks = positions * row_bytes // BLOCK
                if row_bytes and BLOCK % row_bytes:  # a row may end in the next block
                    last = (positions * row_bytes + row_bytes - 1) // BLOCK
                    blocks = np.concatenate([blocks, last])
                if not checked[blocks].all():
                    self._verify_few(blocks, checked)
        return self._array.take(positions, axis=0)

    def range(self, start: int, stop: int) -> Numbers:
        """The items from start to stop of a one-dimensional array, mapped.

        Raises
        ------
        CorruptStoreError
            As `whole`.
        """
        checked = self._checked
        if checked is not None and stop > start:
            size = self._array.itemsize
            first, last = start * size // BLOCK, (stop * size - 1) // BLOCK
            if not checked[first : last + 1].all():
                self._verify_few(np.arange(first, last + 1), checked)
        return self._array[start:stop]

    def with_ranges(self, ranges: Iterable[tuple[int, int]]) -> Numbers:
        """The whole array, mapped, of which only the items in some ranges may be used.

        Raises
        ------
        CorruptStoreError
            As `whole`.
        """
        if self._checked is not None:
            for start, stop in ranges:
                self.range(start, stop)
        return self._array

    def search(self, wanted: np.uint64) -> int:
        """Index of the first item that is not below a number, of hashes that ascend.

        Hashes are spread evenly, so that their block can be told, and is the only one read.

        Raises
        ------
        CorruptStoreError
            As `whole`.
        """
        checked, count = self._checked, len(self)
        if checked is None:
            return int(self._array.searchsorted(wanted))
        each = BLOCK // self._array.itemsize
        guess = int(wanted) * count >> 64
        for block in (
            guess // each,
            max(0, guess - each // 8) // each,
            (guess + each // 8) // each,
        ):
            start, stop = block * each, min((block + 1) * each, count)
            if start >= stop:
                continue
            items = self.range(start, stop)
            if (start == 0 or items[0] < wanted) and (stop == count or items[-1] >= wanted):
                return start + int(items.searchsorted(wanted))
        return int(self.whole().searchsorted(wanted))

    def _verify_few(self, blocks: Ints, checked: NDArray[np.bool_]) -> None:
        # Not np.unique, which imports numpy.ma: 10 ms of a cold query.
        new = sorted(set(blocks[~checked[blocks]].tolist()))
        self._single_checks += len(new)
        if self._single_checks * _VERIFY_ALL > len(checked):
            self.whole()
        else:
            self._verify(new, checked)

    def _verify(self, blocks: list[int], checked: NDArray[np.bool_]) -> None:
        sums = self._sums
        if sums is None:
            return
        digest = xxhash.xxh3_64_intdigest
        for number in blocks:
            start = number * BLOCK
            if digest(self._raw[start : start + BLOCK]) != sums[number]:
                raise CorruptStoreError(
                    f"{self._name} is damaged: the checksum of the block "
                    f"from byte {start} of it does not match"
                )
            checked[number] = True


@dataclass(frozen=True)
class _Table:
    """What the layout of a file says: each array, its first block, and the sums of all blocks."""

    layouts: dict[str, ArrayLayout]
    first_blocks: dict[str, int]
    sums: NDArray[np.uint64] | None  # None where the whole file was verified


class ArrayFile:
    """The arrays of one mapped file.

    The file is mapped at once, so that it stays readable when its name is deleted; its layout
    is read when an array is asked for.

    Parameters
    ----------
    path, entry
        The file, and its entry in the manifest.
    layout
        Entry of its layout; None for a file of format version 1, which has no
        layout and is verified whole.

    Raises
    ------
    NotFoundError
        If the file is missing.
    CorruptStoreError
        If it has another size; every method raises it if the file is damaged, or holds
        anything but contiguous numbers.
    """

    def __init__(self, path: Path, entry: FileEntry, layout: LayoutEntry | None) -> None:
        self._path = path
        self._layout = layout
        self._opened: dict[str, MappedArray] = {}
        self.content: bytes | mmap.mmap  # small files are read, and need no descriptor
        if layout is None:
            self.content = map_checked(path, entry.bytes, entry.checksum)
        else:
            self.content = read_or_map(path, entry.bytes)

    @cached_property
    def _table(self) -> _Table:
        if self._layout is None:
            return _Table(hdf5_layout(self._path, self.content), {}, None)
        return self._read(self._layout)

    @property
    def _layouts(self) -> dict[str, ArrayLayout]:
        return self._table.layouts

    def _read(self, layout: LayoutEntry) -> _Table:
        end = layout.offset + layout.bytes
        if layout.bytes > _MAX_LAYOUT or end > len(self.content):
            raise CorruptStoreError(f"{self._path}: refused, its layout lies outside the file")
        text = self.content[layout.offset : end]
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
            layouts: dict[str, ArrayLayout] = {}
            first_blocks: dict[str, int] = {}
            for name, (start, dtype_text, shape, first) in document["parts"].items():
                if _DTYPE.match(dtype_text) is None:
                    raise ValueError(f"{name} is of type {dtype_text!r}")
                dtype = np.dtype(dtype_text)
                found = (_natural(start), dtype, tuple(_natural(side) for side in shape))
                blocks = -(-self._numbers(name, found).nbytes // BLOCK)
                if not 0 <= _natural(first) <= count - blocks:
                    raise ValueError(f"{name} has no checksums")
                layouts[name], first_blocks[name] = found, first
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, CorruptStoreError):
                raise
            reason = " ".join(str(error).split())[:200]
            raise CorruptStoreError(f"{self._path}: refused, invalid layout: {reason}") from error
        return _Table(layouts, first_blocks, table)

    def __contains__(self, name: str) -> bool:
        return name in self._layouts

    def names(self) -> set[str]:
        """Names of the arrays, without checksums and layout."""
        return set(self._layouts).difference(_INTERNAL)

    def length(self, name: str) -> int:
        """Length of the first dimension of an array; 0 where it is missing."""
        return self._layouts[name][2][0] if name in self._layouts and self._layouts[name][2] else 0

    def get(self, name: str, dtype: str, shape: tuple[int, ...]) -> MappedArray:
        """An array, which must have this dtype and shape.

        Raises
        ------
        CorruptStoreError
            If it has not, or is missing.
        """
        opened = self._opened.get(name)
        if opened is not None:
            return opened
        if name not in self._layouts:
            raise CorruptStoreError(f"{self._path}: {name!r} is missing")
        layout = self._layouts[name]
        if layout[1] != np.dtype(dtype) or layout[2] != shape:
            raise CorruptStoreError(
                f"{self._path}: refused, {name!r} is {layout[1]} {layout[2]}, "
                f"expected {dtype} {shape}"
            )
        array = self._numbers(name, layout)
        sums = self._table.sums
        if sums is not None:
            first = self._table.first_blocks[name]
            sums = sums[first : first + -(-array.nbytes // BLOCK)]
        mapped = self._opened[name] = MappedArray(array, sums, f"{self._path}: {name}")
        return mapped

    def _numbers(self, name: str, layout: ArrayLayout) -> Numbers:
        offset, dtype, shape = layout
        count = math.prod(shape)
        if not 0 <= offset <= len(self.content) - count * dtype.itemsize:
            raise CorruptStoreError(f"{self._path}: refused, {name!r} lies outside the file")
        found = np.frombuffer(self.content, dtype, count, offset if count else 0)
        return found.reshape(shape)

    def check(self, entry: FileEntry) -> None:
        """Verify the whole file, and that its layout agrees with its HDF5 structure.

        Raises
        ------
        CorruptStoreError
            If either does not hold.
        """
        compare_checksum(self._path, checksum(self.content), entry.checksum)
        found = hdf5_layout(self._path, self.content)
        if {name: found[name] for name in found if name not in _INTERNAL} != {
            name: self._layouts[name] for name in self.names()
        }:
            raise CorruptStoreError(f"{self._path}: refused, its layout differs from its HDF5")


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"{value!r} is out of bounds")
    return value


def hdf5_layout(path: Path, data: bytes | mmap.mmap) -> dict[str, ArrayLayout]:
    """Offset, type and shape of every data set; refuse whatever else HDF5 can express.

    Virtual data sets, external links and external storage read other files;
    filters, variable lengths and chunks unpack to any size.

    Parameters
    ----------
    path
        Name of the file, for errors.
    data
        Its content.  HDF5 opens no file, so that an error of the system (no free
        descriptor, a failing disk) is never mistaken for damage.

    Raises
    ------
    CorruptStoreError
        If it is refused.
    """
    import h5py

    from latentdb.base.hdf5 import SafeReader  # not at the head: a query reads no HDF5

    def refused(message: str) -> CorruptStoreError:
        return CorruptStoreError(f"{path}: refused, {message}")

    reader = SafeReader(len(data), refused)
    image = io.BytesIO(data)
    try:
        with h5py.File(image, "r") as file:
            return {name: reader.check(name, item) for name, item in reader.data_sets(file.id)}
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, CorruptStoreError):
            raise
        message = " ".join(str(error).split())[:200]
        raise CorruptStoreError(f"{path} is not a readable HDF5 file: {message}") from error
