"""Images in arrays of bytes: .npy, .npz, and the IDX files of MNIST."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import IO, Any

import numpy as np

from latentdb.base.errors import ImageError
from latentdb.images.discover import BadFile
from latentdb.images.members import (
    Found,
    Member,
    Values,
    check_size,
    is_number,
    member_path,
    reading,
)

_LABEL_NAMES = (("images", "labels"), ("image", "label"), ("x", "y"), ("data", "labels"))
_MAX_LABELS = 64 << 20  # bytes


class _Frames:
    """The images of one array in a stream, one after the other.

    Parameters
    ----------
    stream
        At the first pixel.
    shape
        ``(n, h, w)`` or ``(n, h, w, channels)`` of uint8 in C order.
    """

    def __init__(self, stream: IO[bytes], shape: Sequence[int]) -> None:
        self._stream = stream
        self._shape = tuple(shape)
        self.count = self._shape[0]
        self.bytes = int(np.prod(self._shape[1:], dtype=object))

    def next(self) -> bytes:
        """The next image as the content of a file."""
        data = self._stream.read(self.bytes)
        if len(data) != self.bytes:
            raise EOFError("unexpected end of data")
        return _as_file(data, self._shape[1:])

    def skip(self, count: int) -> None:
        self._stream.seek(count * self.bytes, os.SEEK_CUR)


def _as_file(data: bytes, shape: Sequence[int]) -> bytes:
    """Pixels as a portable any-map, which holds them as they are; with alpha, as PNG."""
    height, width, *rest = shape
    channels = rest[0] if rest else 1
    if channels == 4:
        from PIL import Image

        file = io.BytesIO()
        pixels = np.frombuffer(data, np.uint8).reshape(height, width, channels)
        Image.fromarray(pixels).save(file, "PNG", compress_level=1)
        return file.getvalue()
    kind = b"P5" if channels == 1 else b"P6"
    return b"%s %d %d 255\n" % (kind, width, height) + data


def _check_shape(dtype: np.dtype[Any], shape: Sequence[int]) -> None:
    if dtype != np.uint8:
        raise ValueError(f"holds {dtype}, expected uint8: db.add_images takes other arrays")
    channels = shape[3] if len(shape) == 4 else 1
    if len(shape) not in (3, 4) or 0 in shape[1:] or channels not in (1, 3, 4):
        raise ValueError(f"has shape {list(shape)}, expected [n, h, w] or [n, h, w, 1, 3 or 4]")


def _npy_frames(stream: IO[bytes]) -> _Frames:
    shape, fortran, dtype = npy_header(stream)
    _check_shape(dtype, shape)
    if fortran:
        raise ValueError("is in Fortran order: save it in C order (np.ascontiguousarray)")
    return _Frames(stream, shape)


def npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and dtype; leaves the stream at the first value."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"is of .npy version {version}, expected (1, 0) or (2, 0)")


class _ArraySource:
    """What the sources of arrays share: images by array and number."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stem = os.path.basename(path).split(".")[0]

    def _arrays(self, stack: ExitStack) -> Iterator[tuple[str, Callable[[], _Frames], list[str]]]:
        """Name, opener and labels of every array; an empty name where there is only one."""
        raise NotImplementedError

    def members(self) -> Iterator[Member | BadFile | None]:
        """The images; ids are the name of the array, or of the file, and a number."""
        try:
            with reading(self._path), ExitStack() as stack:
                mtime = os.stat(self._path).st_mtime_ns
                for name, frames_of, labels in self._arrays(stack):
                    yield from self._frames(name, frames_of(), labels, mtime)
        except ImageError as error:
            yield BadFile(error.path, error.reason.replace("damaged or truncated archive ", ""))

    def _frames(
        self, name: str, frames: _Frames, labels: list[str], mtime: int
    ) -> Iterator[Member | BadFile]:
        digits = len(str(max(frames.count - 1, 0)))
        for number in range(frames.count):
            path = member_path(self._path, f"{name}/{number}" if name else str(number))
            bad = check_size(path, frames.bytes)
            if bad is not None:
                yield bad
                return
            values: Values = {"label": labels[number]} if labels else {}
            data = frames.next()
            identity = f"{name or self._stem}/{number:0{digits}d}"
            yield Member(identity, path, len(data), mtime, partial(bytes, data), values)

    def find(self, names: Collection[str]) -> Iterator[Found]:
        asked: dict[str, dict[int, str]] = {}  # by array and number
        for name in names:
            array, _, number = name.rpartition("/")
            if is_number(number):
                asked.setdefault(array, {})[int(number)] = name
        with ExitStack() as stack:
            for array, frames_of, _ in self._arrays(stack):
                if array not in asked:
                    continue
                frames, done = frames_of(), 0
                for place, name in sorted(asked[array].items()):
                    if place < frames.count:
                        frames.skip(place - done)
                        yield name, frames.next
                        done = place + 1


class NpySource(_ArraySource):
    """A .npy file of uint8 ``[n, h, w]`` or ``[n, h, w, channels]``."""

    def _arrays(self, stack: ExitStack) -> Iterator[tuple[str, Callable[[], _Frames], list[str]]]:
        stream = stack.enter_context(_open(self._path))
        yield "", lambda: _npy_frames(stream), []


def _entry_frames(stack: ExitStack, archive: zipfile.ZipFile, name: str) -> _Frames:
    return _npy_frames(stack.enter_context(archive.open(name)))


class NpzSource(_ArraySource):
    """A .npz file: all arrays of images, with the labels of those that are named like labels."""

    def _arrays(self, stack: ExitStack) -> Iterator[tuple[str, Callable[[], _Frames], list[str]]]:
        archive = stack.enter_context(zipfile.ZipFile(self._path))
        headers = {}
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                with archive.open(info) as stream:
                    headers[info.filename.removesuffix(".npy")] = npy_header(stream)
        found = [name for name, (shape, _, _) in headers.items() if len(shape) in (3, 4)]
        if not found:
            shapes = ", ".join(f"{name} {list(shape)}" for name, (shape, _, _) in headers.items())
            raise ValueError(f"has no array of images among {shapes or 'none'}")
        for name in found:
            labels = self._labels(archive, name, headers)
            yield name, partial(_entry_frames, stack, archive, f"{name}.npy"), labels

    @staticmethod
    def _labels(archive: zipfile.ZipFile, name: str, headers: dict[str, Any]) -> list[str]:
        count = headers[name][0][0]
        for part, other in _LABEL_NAMES:
            label = name.replace(part, other, 1)
            if label == name or label not in headers:
                continue
            shape, _, dtype = headers[label]
            size = int(np.prod(shape, dtype=object))
            if size == count and dtype.kind in "iuU" and size * dtype.itemsize <= _MAX_LABELS:
                with archive.open(f"{label}.npy") as stream:
                    return [str(value) for value in np.lib.format.read_array(stream).reshape(-1)]
        return []


class IdxSource(_ArraySource):
    """A file of MNIST, also compressed: ``train-images-idx3-ubyte.gz`` with its labels beside."""

    def _arrays(self, stack: ExitStack) -> Iterator[tuple[str, Callable[[], _Frames], list[str]]]:
        yield "", lambda: self._frames_of(stack.enter_context(_open(self._path))), self._labels()

    @staticmethod
    def _frames_of(stream: IO[bytes]) -> _Frames:
        shape = _idx_shape(stream)
        _check_shape(np.dtype(np.uint8), shape)
        return _Frames(stream, shape)

    def _labels(self) -> list[str]:
        folder, base = os.path.split(self._path)
        for ending in ("", ".gz"):
            name = base.removesuffix(".gz").replace("images", "labels")
            name = name.replace("idx3", "idx1").replace("idx4", "idx1")
            other = os.path.join(folder, name) + ending
            if os.path.isfile(other):
                with _open(other) as stream:
                    (count,) = _idx_shape(stream)
                    data = stream.read(min(count, _MAX_LABELS))
                return [str(value) for value in data] if len(data) == count else []
        return []


def _open(path: str) -> IO[bytes]:
    return gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")  # type: ignore[return-value]


def _idx_shape(stream: IO[bytes]) -> tuple[int, ...]:
    head = stream.read(4)
    if len(head) != 4 or head[:2] != b"\0\0" or head[2] != 8 or not 1 <= head[3] <= 4:
        raise ValueError("is no IDX file of bytes")
    data = stream.read(4 * head[3])
    if len(data) != 4 * head[3]:
        raise EOFError("unexpected end of data")
    return struct.unpack(f">{head[3]}I", data)
