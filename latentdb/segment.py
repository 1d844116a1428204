"""A segment: some rows as one immutable HDF5 file.

Written in memory, byte for byte, and opened only after its checksum held and
its structure proved to be nothing but contiguous numbers inside the file.
"""

from __future__ import annotations

import io
import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from latentdb.errors import CorruptStoreError, InvalidInputError, NotFoundError
from latentdb.files import map_checked, read_whole
from latentdb.manifest import SegmentEntry
from latentdb.metadata import DTYPES, Column, absent

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_ALIGNMENT = 64  # bytes: a vector never straddles more cache lines than it must
CHECKSUMS = "checksums"
_MAX_OBJECTS = 10_000
MAX_COLUMNS = 1_000  # each is up to six objects


@dataclass(frozen=True, eq=False)
class FileFacts:
    """What is known of the image files behind some rows.

    Attributes
    ----------
    sizes, mtimes_ns
        int64 ``[n]``: bytes, and nanoseconds of the last change.
    digests
        uint64 ``[n]``: xxh3 of the content.
    """

    sizes: Ints
    mtimes_ns: Ints
    digests: NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows on their way into a store.

    Attributes
    ----------
    ids
        Different from each other.
    z_mean, z_log_var
        float32 ``[n, d]``; z_log_var may be absent.
    paths
        Absolute path of the image of each row, if they have any.
    facts
        Of those images.
    columns
        Metadata.
    """

    ids: Sequence[str]
    z_mean: Floats
    z_log_var: Floats | None = None
    paths: Sequence[str] | None = None
    facts: FileFacts | None = None
    columns: Mapping[str, Column] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def slice(self, start: int, stop: int) -> Rows:
        """Some of the rows, in order."""
        part = slice(start, stop)
        facts = self.facts
        if facts is not None:
            facts = FileFacts(facts.sizes[part], facts.mtimes_ns[part], facts.digests[part])
        return Rows(
            self.ids[part],
            self.z_mean[part],
            None if self.z_log_var is None else self.z_log_var[part],
            None if self.paths is None else self.paths[part],
            facts,
            {key: column.take(part) for key, column in self.columns.items()},
        )

    def take(self, positions: Ints) -> Rows:
        """Some of the rows, by position."""
        facts = self.facts
        if facts is not None:
            facts = FileFacts(
                facts.sizes[positions], facts.mtimes_ns[positions], facts.digests[positions]
            )
        return Rows(
            [self.ids[place] for place in positions],
            self.z_mean[positions],
            None if self.z_log_var is None else self.z_log_var[positions],
            None if self.paths is None else [self.paths[place] for place in positions],
            facts,
            {key: column.take(positions) for key, column in self.columns.items()},
        )


def hash_ids(ids: Sequence[str]) -> NDArray[np.uint64]:
    """64-bit xxh3 of each id, by which rows are looked up; text that is no Unicode has one too."""
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter(
        (digest(name.encode(errors="surrogatepass")) for name in ids), np.uint64, len(ids)
    )


def dump(rows: Rows, numbers: Ints) -> bytes:
    """The bytes of a segment file.

    Parameters
    ----------
    rows
        At least one.
    numbers
        int64 ``[n]``: their row numbers, ascending.
    """
    hashes = hash_ids(rows.ids)
    order = np.argsort(hashes, kind="stable")
    arrays: dict[str, NDArray[Any]] = {
        "row": numbers.astype("<i8"),
        "z_mean": np.ascontiguousarray(rows.z_mean, "<f4"),
        "id/hashes": hashes[order].astype("<u8"),
        "id/order": order.astype("<i4"),
    }
    if rows.z_log_var is not None:
        arrays["z_log_var"] = np.ascontiguousarray(rows.z_log_var, "<f4")
    arrays.update(_text_arrays("id", rows.ids))
    if rows.paths is not None:
        arrays.update(_text_arrays("path", rows.paths))
    if rows.facts is not None:
        arrays["file/sizes"] = rows.facts.sizes.astype("<i8")
        arrays["file/mtimes_ns"] = rows.facts.mtimes_ns.astype("<i8")
        arrays["file/digests"] = rows.facts.digests.astype("<u8")
    for key, column in rows.columns.items():
        arrays[f"metadata/{key}/{column.kind}"] = column.values.astype(DTYPES[column.kind])
        if column.missing is not None:
            arrays[f"metadata/{key}/missing"] = column.missing.astype("u1")
        if column.kind == "str":
            arrays.update(_text_arrays(f"metadata/{key}/categories", column.categories))
    return _file_of(arrays)


def _file_of(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays as the bytes of a contiguous HDF5 file, with the checksum of each."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(
        buffer,
        "w",
        libver=("v110", "v110"),
        alignment_threshold=1,
        alignment_interval=_ALIGNMENT,
    ) as file:
        for name, values in {**arrays, CHECKSUMS: _part_checksums(arrays)}.items():
            file.create_dataset(name, data=values, track_times=False)
    return buffer.getvalue()


def _part_checksums(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint64]:
    """xxh3 of each array, in the order of their names: tells which part of a file is damaged."""
    digests = [
        xxhash.xxh3_64_intdigest(np.ascontiguousarray(arrays[name]).tobytes())
        for name in sorted(arrays)
    ]
    return np.array(digests, "<u8")


def salvage(path: Path, entry: SegmentEntry) -> bytes:
    """Make a damaged segment again, if all that is damaged in it is derived.

    Parameters
    ----------
    path
        The file, whose checksum did not hold.
    entry
        What the manifest says of it.

    Returns
    -------
    bytes
        The segment, with its id look-up made anew from its ids.

    Raises
    ------
    CorruptStoreError
        If anything else is damaged.
    """
    data = read_whole(path, entry.file.bytes)
    arrays = {
        name: np.frombuffer(data, dtype, int(np.prod(shape)), offset).reshape(shape)
        for name, (offset, dtype, shape) in _layout(path, len(data)).items()
    }
    stored = arrays.pop(CHECKSUMS, np.empty(0, "<u8"))
    actual = _part_checksums(arrays)
    if len(stored) != len(actual):
        raise CorruptStoreError(f"{path}: its parts cannot be told apart")
    damaged = {name for name, bad in zip(sorted(arrays), stored != actual, strict=True) if bad}
    if not damaged <= {"id/hashes", "id/order"}:
        raise CorruptStoreError(f"{path}: {', '.join(sorted(damaged))} is damaged")
    hashes = hash_ids(list(Texts(arrays["id/offsets"], arrays["id/bytes"], str(path))))
    order = np.argsort(hashes, kind="stable")
    arrays["id/hashes"], arrays["id/order"] = hashes[order].astype("<u8"), order.astype("<i4")
    return _file_of(arrays)


def _text_arrays(name: str, texts: Sequence[str]) -> dict[str, NDArray[Any]]:
    parts = [text.encode() for text in texts]
    offsets = np.zeros(len(parts) + 1, "<i8")
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    blob = np.frombuffer(b"".join(parts), "u1")
    return {f"{name}/offsets": offsets, f"{name}/bytes": blob}


class Texts:
    """Texts kept as one UTF-8 blob and offsets into it."""

    def __init__(self, offsets: Ints, blob: NDArray[np.uint8], name: str) -> None:
        if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != len(blob):
            raise CorruptStoreError(f"{name}: its text offsets do not fit its text")
        self._offsets = offsets
        self._blob = blob
        self._name = name

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, position: int) -> str:
        start, stop = int(self._offsets[position]), int(self._offsets[position + 1])
        if not 0 <= start <= stop <= len(self._blob):
            raise CorruptStoreError(f"{self._name}: its text offsets do not ascend")
        try:
            return self._blob[start:stop].tobytes().decode()
        except UnicodeDecodeError as error:
            raise CorruptStoreError(f"{self._name}: its text is not UTF-8") from error

    def __iter__(self) -> Iterator[str]:
        return (self[position] for position in range(len(self)))


def _layout(path: Path, size: int) -> dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]]:
    """Offset, type and shape of every data set; refuse whatever else HDF5 can express.

    Virtual data sets, external links and external storage read other files;
    filters, variable lengths and chunks unpack to any size.
    """
    import h5py

    found: dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]] = {}
    seen = 0

    def refuse(name: str, why: str) -> CorruptStoreError:
        return CorruptStoreError(f"{path}: refused, {name!r} {why}")

    def visit(group: Any, prefix: str, depth: int) -> None:
        nonlocal seen
        for key in group:
            name = prefix + key.decode(errors="replace")
            seen += 1
            if seen > _MAX_OBJECTS or depth > 4:
                raise refuse(name, "is one object too many")
            if group.links.get_info(key).type != h5py.h5l.TYPE_HARD:
                raise refuse(name, "is a soft or external link")
            item = h5py.h5o.open(group, key)
            if isinstance(item, h5py.h5g.GroupID):
                visit(item, name + "/", depth + 1)
            elif isinstance(item, h5py.h5d.DatasetID):
                found[name] = contiguous(item, name)
            else:
                raise refuse(name, "is neither group nor data set")

    def contiguous(item: Any, name: str) -> tuple[int, np.dtype[Any], tuple[int, ...]]:
        plist = item.get_create_plist()
        if plist.get_layout() != h5py.h5d.CONTIGUOUS:
            raise refuse(name, "is virtual, chunked or compact, not contiguous")
        if plist.get_external_count() or plist.get_nfilters():
            raise refuse(name, "has external storage or filters")
        if item.get_type().get_class() not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT):
            raise refuse(name, "holds something else than numbers")
        shape = tuple(int(side) for side in item.shape)
        count = 1
        for side in shape:
            count *= side
        offset = item.get_offset()
        if count == 0:
            return 0, item.dtype, shape
        if offset is None or not 0 <= offset <= size - count * item.dtype.itemsize:
            raise refuse(name, f"of shape {shape} lies outside the file")
        return int(offset), item.dtype, shape

    try:
        with h5py.File(path, "r", locking=False) as file:
            visit(file.id, "", 0)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is missing") from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, CorruptStoreError):
            raise
        told = " ".join(str(error).split())[:200]
        raise CorruptStoreError(f"{path} is not a readable HDF5 file: {told}") from error
    return found


class Segment:
    """An open segment: arrays mapped from the file, nothing copied.

    Parameters
    ----------
    folder
        Of the store.
    entry
        What the manifest says of it.
    dim
        Dimensions of z_mean.
    columns
        Kinds of metadata, as the manifest says.

    Raises
    ------
    CorruptStoreError
        If the file is not the one that was written, or holds anything else
        than this class reads.
    """

    def __init__(
        self, folder: Path, entry: SegmentEntry, dim: int, columns: Mapping[str, str]
    ) -> None:
        self.entry = entry
        self.name = str(folder / entry.file.name)
        path = folder / entry.file.name
        self._map: mmap.mmap = map_checked(path, entry.file.bytes, entry.file.checksum)
        self._layout = _layout(path, entry.file.bytes)
        self.columns = dict(columns)
        count = entry.rows
        self.rows: Ints = self._array("row", "<i8", (count,))
        self.z_mean: Floats = self._array("z_mean", "<f4", (count, dim))
        self.z_log_var: Floats | None = (
            self._array("z_log_var", "<f4", (count, dim)) if "z_log_var" in self._layout else None
        )
        self._hashes: NDArray[np.uint64] = self._array("id/hashes", "<u8", (count,))
        self._order: NDArray[np.int32] = self._array("id/order", "<i4", (count,))
        self.ids = self._texts("id", count)
        self.paths = self._texts("path", count) if "path/offsets" in self._layout else None
        self._check_names()
        if self.rows[0] != entry.first_row or self.rows[-1] != entry.last_row:
            raise CorruptStoreError(f"{self.name}: its row numbers are not the manifest's")

    def __len__(self) -> int:
        return self.entry.rows

    def with_columns(self, columns: Mapping[str, str]) -> Segment:
        """The same open segment under the metadata kinds of a later version."""
        other = copy(self)
        other.columns = dict(columns)
        return other

    def _check_names(self) -> None:
        known = {
            CHECKSUMS,
            "row",
            "z_mean",
            "z_log_var",
            "id/hashes",
            "id/order",
            "id/offsets",
            "id/bytes",
        }
        known |= {"path/offsets", "path/bytes", "file/sizes", "file/mtimes_ns", "file/digests"}
        for key, kind in self.columns.items():
            parts = ("int", kind, "missing", "categories/offsets", "categories/bytes")
            known |= {f"metadata/{key}/{part}" for part in parts}
        unknown = sorted(set(self._layout) - known)
        if unknown:
            raise CorruptStoreError(f"{self.name}: refused, {unknown[0]!r} is no part of a segment")

    def _array(self, name: str, dtype: str, shape: tuple[int, ...]) -> Any:
        if name not in self._layout:
            raise CorruptStoreError(f"{self.name}: {name!r} is missing")
        offset, found, actual = self._layout[name]
        if found != np.dtype(dtype) or actual != shape:
            raise CorruptStoreError(
                f"{self.name}: refused, {name!r} is {found} {actual}, expected {dtype} {shape}"
            )
        count = int(np.prod(shape))
        return np.frombuffer(self._map, dtype, count, offset if count else 0).reshape(shape)

    def _texts(self, name: str, count: int) -> Texts:
        offsets = self._array(f"{name}/offsets", "<i8", (count + 1,))
        size = math.prod(self._layout.get(f"{name}/bytes", (0, None, (0,)))[2])
        return Texts(offsets, self._array(f"{name}/bytes", "u1", (size,)), self.name)

    @cached_property
    def facts(self) -> FileFacts | None:
        """What is known of the image files, if the rows came from images."""
        if "file/sizes" not in self._layout:
            return None
        shape = (len(self),)
        return FileFacts(
            self._array("file/sizes", "<i8", shape),
            self._array("file/mtimes_ns", "<i8", shape),
            self._array("file/digests", "<u8", shape),
        )

    def column(self, key: str) -> Column:
        """A metadata column; all missing where the segment has none.

        Raises
        ------
        InvalidInputError
            If the store has no such key.
        """
        if key not in self.columns:
            raise InvalidInputError(f"metadata {key!r} is not in this store")
        kind = self.columns[key]
        prefix = f"metadata/{key}"
        shape = (len(self),)
        stored = next((part for part in (kind, "int") if f"{prefix}/{part}" in self._layout), None)
        if stored is None:
            return absent(kind, len(self))
        values = self._array(f"{prefix}/{stored}", DTYPES[stored].str, shape)
        missing = None
        if f"{prefix}/missing" in self._layout:
            missing = self._array(f"{prefix}/missing", "u1", shape).astype(bool)
        categories: tuple[str, ...] = ()
        if kind == "str":
            count = (
                math.prod(self._layout.get(f"{prefix}/categories/offsets", (0, None, (1,)))[2]) - 1
            )
            categories = tuple(self._texts(f"{prefix}/categories", count))
            known = values if missing is None else values[~missing]
            if len(known) and not 0 <= known.min() <= known.max() < len(categories):
                raise CorruptStoreError(f"{self.name}: {key!r} has codes without a category")
        # A column of whole numbers may have been written before numbers came in.
        return Column(stored, values, missing, categories).cast(kind, key)

    def find(self, ids: Sequence[str], hashes: NDArray[np.uint64]) -> Ints:
        """Positions of ids, by bisection over their hashes; -1 where one is not here."""
        positions = np.full(len(ids), -1, np.int64)
        left = np.searchsorted(self._hashes, hashes)
        inside = np.minimum(left, len(self) - 1)
        for number in np.flatnonzero(self._hashes[inside] == hashes):
            place = int(left[number])
            while place < len(self) and self._hashes[place] == hashes[number]:
                position = int(self._order[place])
                if not 0 <= position < len(self):
                    raise CorruptStoreError(f"{self.name}: its id order is out of bounds")
                if self.ids[position] == ids[int(number)]:
                    positions[number] = position
                    break
                place += 1
        return positions

    def own_hashes(self) -> NDArray[np.uint64]:
        """The hash of each id, by position."""
        hashes = np.empty(len(self), np.uint64)
        hashes[self._order] = self._hashes
        return hashes

    def check(self) -> None:
        """Check what the arrays say, beyond their checksums.

        Raises
        ------
        CorruptStoreError
            Names the first thing that cannot be.
        """
        everything = np.arange(len(self))
        holds = (
            (bool((np.diff(self.rows) > 0).all()), "its row numbers do not ascend"),
            (bool(np.isfinite(self.z_mean).all()), "a z_mean is not finite"),
            (
                self.z_log_var is None or bool(np.isfinite(self.z_log_var).all()),
                "a z_log_var is not finite",
            ),
            (bool((self._hashes[1:] >= self._hashes[:-1]).all()), "its id hashes do not ascend"),
            (np.array_equal(np.sort(self._order), everything), "its id order is none"),
        )
        for true, what in holds:
            if not true:
                raise CorruptStoreError(f"{self.name}: {what}")
        if not np.array_equal(hash_ids(list(self.ids)), self.own_hashes()):
            raise CorruptStoreError(f"{self.name}: an id hash is not that of its id")
        if self.paths is not None:
            list(self.paths)
        for key in self.columns:
            self.column(key)

    def holds(self, numbers: Ints) -> NDArray[np.bool_]:
        """Which row numbers are here."""
        places = np.minimum(np.searchsorted(self.rows, numbers), len(self) - 1)
        return np.asarray(self.rows[places] == numbers)

    def positions(self, numbers: Ints) -> Ints:
        """Positions of row numbers, all of which must be here.

        Raises
        ------
        CorruptStoreError
            If one is not.
        """
        places = np.searchsorted(self.rows, numbers)
        inside = np.minimum(places, len(self) - 1)
        if not np.array_equal(self.rows[inside], numbers):
            raise CorruptStoreError(f"{self.name}: a row number is not where the manifest says")
        return places
