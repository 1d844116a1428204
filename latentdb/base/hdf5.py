"""Read HDF5 files that are not trusted: `SafeReader` finds arrays, `HeapText` reads text.

An HDF5 file can name other files (links, external storage, virtual data sets),
unpack a kilobyte to terabytes (filters, unallocated chunks), let a million texts
be the same megabyte, and hold a damaged heap that HDF5 reads forever.  All of it
is refused by name before any data is read.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

_LAYOUTS = ("compact", "contiguous", "chunked", "virtual")  # by HDF5's number
_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
_MAX_RATIO = 1100  # deflate reaches 1032
_MAX_CHUNK = 256 << 20  # bytes, unpacked
# Variable-length text in a data set or attribute: its length, the address of a collection
# of the global heap, and the number of an object in it.
_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("number", "<u4")])
_OBJECT = struct.Struct("<HHIQ")  # number, reference count, reserved, size

Error = Callable[[str], Exception]
Read = Callable[[int, int], bytes]  # offset and number of bytes


class StoredArray(NamedTuple):
    """An array of a file; its offset is 0 unless it is contiguous."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class SafeReader:
    """Finds the data sets of an HDF5 file, and refuses what is not plain data inside it.

    Parameters
    ----------
    size
        Bytes of the file.
    error
        Makes an exception of a message, which starts with the object's name.
    max_objects, max_depth
        How many links are followed, and how deep.
    groups
        The groups that are entered; None for all.
    any_layout
        Accept chunks, compact layout, common filters, text and enumerations, too,
        not only contiguous numbers.
    """

    def __init__(
        self,
        size: int,
        error: Error,
        *,
        max_objects: int = 10_000,
        max_depth: int = 4,
        groups: Collection[str] | None = None,
        any_layout: bool = False,
    ) -> None:
        self.size, self.error = size, error
        self._max_objects, self._max_depth = max_objects, max_depth
        self._groups, self._any_layout = groups, any_layout
        self._seen = 0

    def open(self, group: Any, key: bytes, name: str) -> Any:
        """The object of a link, which must be a hard one."""
        import h5py

        if group.links.get_info(key).type != h5py.h5l.TYPE_HARD:
            raise self.error(f"{name!r} is a soft or external link, which may lead to other files")
        return h5py.h5o.open(group, key)

    def data_sets(self, group: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
        """Path and ``DatasetID`` of each data set in a group, not yet checked."""
        import h5py

        for key in group:
            name = prefix + key.decode(errors="replace")
            self._seen += 1
            if self._seen > self._max_objects or depth > self._max_depth:
                raise self.error(f"{name!r} is one object too many")
            item = self.open(group, key, name)
            if isinstance(item, h5py.h5d.DatasetID):
                yield name, item
            elif isinstance(item, h5py.h5g.GroupID) and (not self._groups or name in self._groups):
                yield from self.data_sets(item, name + "/", depth + 1)
            else:
                raise self.error(f"{name!r} is not a data set")

    def check(self, name: str, item: Any) -> StoredArray:
        """Refuse a data set that reads other files, or declares more than the file holds."""
        from h5py import h5d, h5t

        layouts, types, expected = [h5d.CONTIGUOUS], [h5t.INTEGER, h5t.FLOAT], "numbers"
        if self._any_layout:
            layouts += [h5d.CHUNKED, h5d.COMPACT]
            types, expected = [*types, h5t.STRING, h5t.ENUM], "numbers or text"
        plist, kind = item.get_create_plist(), item.get_type()
        layout = plist.get_layout()
        if layout not in layouts:
            accepted = ", ".join(_LAYOUTS[number] for number in layouts)
            raise self.error(f"{name!r} is {_LAYOUTS[layout]}, expected {accepted}")
        if plist.get_external_count():
            raise self.error(f"{name!r} has external storage, which reads other files")
        filters = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
        if not set(filters) <= set(_FILTERS) or len(set(filters)) != len(filters):
            accepted = ", ".join(_FILTERS.values())
            raise self.error(f"{name!r} has filters {filters}, expected {accepted}")
        if kind.get_class() not in types:
            raise self.error(f"{name!r} does not hold {expected}")
        each, dtype = _REFERENCE.itemsize if is_variable(item) else kind.get_size(), item.dtype
        if not self._any_layout and each != dtype.itemsize:
            raise self.error(f"{name!r} holds numbers of a type that numpy does not have")
        shape = (0,) if item.shape is None else tuple(int(side) for side in item.shape)
        declared = math.prod(shape) * each
        if layout == h5d.CHUNKED and math.prod(plist.get_chunk()) * each > _MAX_CHUNK:
            raise self.error(f"{name!r} has chunks over {_MAX_CHUNK:,} bytes")
        stored, offset = item.get_storage_size(), 0
        if layout == h5d.CONTIGUOUS and declared:
            offset = item.get_offset() or self.size
            stored = max(0, min(stored, self.size - offset))
        if declared > (stored * _MAX_RATIO if filters else stored) or stored > self.size:
            raise self.error(
                f"{name!r} of shape {list(shape)} is {declared:,} bytes, of which the file "
                f"holds {stored:,}"
            )
        return StoredArray(offset, dtype, shape)


def is_variable(item: Any) -> bool:
    """Whether a data set or an attribute holds text of variable length."""
    import h5py

    kind = item.get_type()
    return kind.get_class() == h5py.h5t.STRING and bool(kind.is_variable_str())


class HeapText:
    """The variable-length text of a data set that `SafeReader` accepted, read without HDF5.

    Parameters
    ----------
    name, item
        The data set.
    reader, read
        The reader that accepted it, and the file.
    """

    def __init__(self, name: str, item: Any, reader: SafeReader, read: Read) -> None:
        import h5py

        self._name, self._read, self._size, self._error = name, read, reader.size, reader.error
        plist, layout = item.get_create_plist(), item.get_create_plist().get_layout()
        user_block = h5py.h5i.get_file_id(item).get_create_plist().get_userblock()
        if plist.get_nfilters() or layout == h5py.h5d.COMPACT or user_block:
            raise self._error(
                f"{name!r} is text of variable length with a filter, in a header or after a user "
                "block: write it without, or as text of a fixed length"
            )
        if len(item.shape) != 1:
            raise self._error(f"{name!r} has shape {list(item.shape)}, expected one text a row")
        areas: list[tuple[int, int, int]] = []
        if layout == h5py.h5d.CONTIGUOUS:
            areas.append((0, item.get_offset(), item.get_storage_size()))
        else:
            item.chunk_iter(
                lambda chunk: areas.append((chunk.chunk_offset[0], chunk.byte_offset, chunk.size))
            )
        self._references = np.zeros(item.shape, _REFERENCE)
        for first, offset, stored in areas:
            rows = max(0, min(stored // _REFERENCE.itemsize, len(self._references) - first))
            data = read(offset, rows * _REFERENCE.itemsize)
            found = np.frombuffer(data, _REFERENCE, len(data) // _REFERENCE.itemsize)
            self._references[first : first + len(found)] = found

    def total(self) -> int:
        """Bytes of all texts."""
        return int(self._references["length"].sum(dtype=np.int64))

    def texts(self, rows: slice) -> list[bytes]:
        """The texts of some rows."""
        references = self._references[rows]
        texts = [b""] * len(references)
        filled = np.flatnonzero(references["length"])
        filled = filled[np.argsort(references["address"][filled], kind="stable")]
        current, budget = -1, self._size
        objects: dict[int, bytes] = {}
        for row, (length, address, number) in zip(
            filled.tolist(), references[filled].tolist(), strict=True
        ):
            if address != current:
                count, objects = heap_collection(self._read, self._size, address)
                current, budget = address, budget - count
            text = objects.get(number)
            if text is None or len(text) != length or budget < 0:
                raise self._error(f"the text of row {rows.start + row} of {self._name} is damaged")
            texts[row] = text.split(b"\0", 1)[0]
        return texts


def heap_collection(
    read: Read, size: int, address: int, most: int | None = None
) -> tuple[int, dict[int, bytes]]:
    """Bytes and objects of a global heap collection; none if it is damaged, or over `most` bytes.

    HDF5 file format specification, III.E.
    """
    head = read(address, 16) if address < size else b""
    length = int.from_bytes(head[8:], "little")
    longest = size - address if most is None else min(most, size - address)
    if head[:5] != b"GCOL\x01" or not 16 <= length <= longest:
        return 0, {}
    data = read(address, length)
    objects: dict[int, bytes] = {}
    start = 16
    while start + _OBJECT.size <= len(data):
        number, _, _, count = _OBJECT.unpack_from(data, start)
        start += _OBJECT.size
        if not number or count > len(data) - start:
            break  # the rest is free
        objects[number] = data[start : start + count]
        start += (count + 7) // 8 * 8
    return length, objects
