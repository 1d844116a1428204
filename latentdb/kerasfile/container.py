"""The configuration and the weights of a Keras model file, read without building a layer.

There are two formats: ``.keras`` (a zip of ``config.json`` and
``model.weights.h5``), and the ``.h5`` of tf-keras and Keras 2.  The file is not
trusted: sizes are checked before anything is unpacked, and an array is read only
if it is contiguous numbers inside the file.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import ModelError, NotFoundError

MAX_CONFIG = 16 << 20  # bytes; ResNet-152 has 0.3 MB
MAX_PARAMETERS = 500_000_000
MAX_UNPACKED = 4 << 30
_MAX_RATIO = 50  # unpacked to packed bytes
_MIN_RATIO_CHECKED = 64 << 20  # bytes: the ratio of less is not checked, for zeros pack well
_MAX_ENTRIES = 1000
_MAX_OBJECTS = 100_000
_MAX_DEPTH = 64
_ATTRIBUTE_REACH = 512  # bytes between an attribute's name and its value
_REFERENCE = struct.Struct("<IQI")  # length, address of the heap, number in it
_OBJECT = struct.Struct("<HHIQ")
_HOW = "save it with model.save('x.keras')"
_PARSE_ERRORS = (
    ValueError, KeyError, TypeError, OSError, EOFError, RuntimeError, RecursionError,
    NotImplementedError, zipfile.BadZipFile, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class _DataSet:
    """Offset, type and shape of an array in the file."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Weights:
    """Arrays by name, read from the bytes of an HDF5 file on demand.

    Parameters
    ----------
    data
        The file.
    sets
        Offset, type and shape of each array.
    """

    def __init__(self, data: bytes, sets: Mapping[str, _DataSet]) -> None:
        self._data = data
        self._sets = dict(sets)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sets)

    def __contains__(self, name: str) -> bool:
        return name in self._sets

    def array(self, name: str) -> NDArray[Any]:
        entry = self._sets[name]
        count = math.prod(entry.shape)
        flat = np.frombuffer(self._data, entry.dtype, count, entry.offset if count else 0)
        return flat.reshape(entry.shape)

    def digest(self) -> str:
        """SHA-256 over names, types, shapes and values, whatever the file's layout."""
        digest = sha256()
        for key in sorted(self):
            if "seed_generator" in key:
                continue  # the state of a random generator changes with each use
            values = np.ascontiguousarray(self.array(key))  # makes a scalar's shape (1,)
            digest.update(f"{key} {values.dtype.str} {values.shape};".encode())
            digest.update(values.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A model file, read as data.

    Attributes
    ----------
    name
        The file, for errors.
    config
        ``{"class_name": ..., "config": {...}}``, as keras wrote it.
    weights
        Its arrays.
    legacy
        Whether it is an ``.h5``, whose arrays are named after their layers.
    """

    name: str
    config: dict[str, Any]
    weights: Weights
    legacy: bool


def read_file(path: str | os.PathLike[str], expected: str) -> bytes:
    """The bytes of a model file.

    Parameters
    ----------
    path
        The file.
    expected
        What it should be, for the error.

    Raises
    ------
    NotFoundError
        If it does not exist.
    ModelError
        If it is a folder, too large, or cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        if (path / "saved_model.pb").exists() or (path / "keras_metadata.pb").exists():
            raise ModelError(
                f"{path} is a SavedModel, which is a program and not data: in the program that "
                "made it, save the Keras model itself with model.save('x.keras') or 'x.h5'"
            )
        raise ModelError(f"{path} is a folder: expected {expected}")
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist: expected {expected}")
    try:
        if path.stat().st_size > MAX_UNPACKED:
            raise ModelError(f"{path} is over {MAX_UNPACKED >> 30} GiB: expected {expected}")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error


def parse(data: bytes, name: str) -> ModelFile:
    """Read a model file as data.

    Parameters
    ----------
    data
        Its bytes.
    name
        The file, for errors.

    Raises
    ------
    ModelError
        If it has neither format, is damaged, or exceeds a limit of this module.
    """
    try:
        if data[:8] == b"\x89HDF\r\n\x1a\n":
            return _parse_h5(data, name)
        return _parse_zip(data, name)
    except _PARSE_ERRORS as error:
        if isinstance(error, ModelError):
            raise
        message = " ".join(str(error).split())[:200] or type(error).__name__
        kind = "an .h5" if data[:4] == b"\x89HDF" else "a .keras"
        raise ModelError(f"{name} is not {kind} model file: {message}; {_HOW}") from error


def _parse_zip(data: bytes, name: str) -> ModelFile:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        if len(entries) > _MAX_ENTRIES or len({entry.filename for entry in entries}) < len(entries):
            raise ModelError(
                f"{name} is refused: it holds over {_MAX_ENTRIES:,} files, or two of one name"
            )
        config = _unpack(archive, "config.json", MAX_CONFIG, name)
        if "model.weights.h5" not in archive.namelist():
            raise ModelError(f"{name} is refused: it holds no model.weights.h5; {_HOW}")
        weights = _unpack(archive, "model.weights.h5", MAX_UNPACKED, name)
    return ModelFile(name, _json(config, name), _weights(weights, name), False)


def _unpack(archive: zipfile.ZipFile, member: str, limit: int, name: str) -> bytes:
    """A file of the archive, whose size is checked before it is unpacked."""
    entry = archive.getinfo(member)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ModelError(f"{name} is refused: {member} is packed with another method than deflate")
    if entry.file_size > limit:
        raise ModelError(
            f"{name} is refused: {member} unpacks to {entry.file_size:,} bytes, "
            f"expected at most {limit:,}"
        )
    if entry.file_size > max(_MIN_RATIO_CHECKED, _MAX_RATIO * entry.compress_size):
        raise ModelError(
            f"{name} is refused: {member} unpacks from {entry.compress_size:,} bytes to "
            f"{entry.file_size:,}, expected at most {_MAX_RATIO} times as many"
        )
    with archive.open(entry) as stream:
        return stream.read(entry.file_size + 1)


def _json(text: bytes, name: str) -> dict[str, Any]:
    if len(text) > MAX_CONFIG:
        raise ModelError(
            f"{name} is refused: its configuration has {len(text):,} bytes, "
            f"expected at most {MAX_CONFIG:,}"
        )
    config = json.loads(text)
    if not isinstance(config, dict) or not isinstance(config.get("config"), dict | list):
        raise ModelError(f"{name} has no model configuration; {_HOW}")
    return config


def _parse_h5(data: bytes, name: str) -> ModelFile:
    text = _model_config(data, name)
    return ModelFile(name, _json(text, name), _weights(data, name, under="model_weights"), True)


def _model_config(data: bytes, name: str) -> bytes:
    """The attribute that holds the architecture.

    It is text of any length, kept in a heap that HDF5 itself may read for ever
    if it is damaged: so the heap is read here.
    """
    import h5py

    with h5py.File(io.BytesIO(data), "r") as file:
        if not h5py.h5a.exists(file.id, b"model_config"):
            raise ModelError(
                f"{name} holds weights only, no architecture: save the whole model with "
                "model.save('x.keras') or model.save('x.h5')"
            )
        attribute = h5py.h5a.open(file.id, b"model_config")
        kind = attribute.get_type()
        if attribute.shape != () or kind.get_class() != h5py.h5t.STRING:
            raise ModelError(f"{name} has no model configuration; {_HOW}")
        if not kind.is_variable_str():
            if kind.get_size() > MAX_CONFIG:
                raise ModelError(f"{name} is refused: its configuration is over {MAX_CONFIG} bytes")
            value = file.attrs["model_config"]
            return value if isinstance(value, bytes) else str(value).encode()
    start = 0
    while (start := data.find(b"model_config\0", start)) >= 0:
        start += len(b"model_config")
        for place in range(start, min(start + _ATTRIBUTE_REACH, len(data) - _REFERENCE.size)):
            length, address, number = _REFERENCE.unpack_from(data, place)
            found = _heap_object(data, address, number) if 0 < length <= MAX_CONFIG else None
            if found is not None and len(found) == length and found[:1] == b"{":
                return found.split(b"\0", 1)[0]
    raise ModelError(f"{name} is refused: its configuration is damaged or over {MAX_CONFIG} bytes")


def _heap_object(data: bytes, address: int, wanted: int) -> bytes | None:
    """A text of a global heap collection (HDF5 file format specification, III.E)."""
    if data[address : address + 5] != b"GCOL\x01":
        return None
    end = min(len(data), address + int.from_bytes(data[address + 8 : address + 16], "little"))
    at = address + 16
    while at + _OBJECT.size <= end:
        number, _, _, size = _OBJECT.unpack_from(data, at)
        at += _OBJECT.size
        if not number or size > end - at:
            return None  # what follows is free
        if number == wanted:
            return data[at : at + size]
        at += (size + 7) // 8 * 8
    return None


def _weights(data: bytes, name: str, under: str = "") -> Weights:
    """Find every array of an HDF5 file; refuse what reads other files or unpacks.

    Parameters
    ----------
    under
        The group to look in; what lies elsewhere (an optimizer's state) is not
        looked at.
    """
    import h5py

    found: dict[str, _DataSet] = {}
    seen = 0

    def visit(group: Any, prefix: str, depth: int) -> None:
        nonlocal seen
        for key in group:
            path = prefix + key.decode(errors="replace")
            seen += 1
            if seen > _MAX_OBJECTS or depth > _MAX_DEPTH:
                raise ModelError(f"{name} is refused: {path!r} is one object too many")
            if group.links.get_info(key).type != h5py.h5l.TYPE_HARD:
                raise ModelError(
                    f"{name} is refused: {path!r} is a soft or external link, which may lead "
                    "to other files"
                )
            item = h5py.h5o.open(group, key)
            if isinstance(item, h5py.h5g.GroupID):
                visit(item, path + "/", depth + 1)
            elif isinstance(item, h5py.h5d.DatasetID):
                found[path] = _plain(item, path, len(data), name)
            else:
                raise ModelError(f"{name} is refused: {path!r} is neither group nor data set")

    with h5py.File(io.BytesIO(data), "r") as file:
        if under and file.id.links.exists(under.encode()):
            if file.id.links.get_info(under.encode()).type != h5py.h5l.TYPE_HARD:
                raise ModelError(f"{name} is refused: {under!r} is a soft or external link")
            visit(h5py.h5g.open(file.id, under.encode()), "", 1)
        elif not under:
            visit(file.id, "", 0)
    count = sum(math.prod(entry.shape) for entry in found.values())
    if count > MAX_PARAMETERS:
        raise ModelError(
            f"{name} is refused: it has {count:,} parameters, expected at most {MAX_PARAMETERS:,}"
        )
    return Weights(data, found)


def _plain(item: Any, path: str, size: int, name: str) -> _DataSet:
    """Where a data set lies: one piece of numbers inside the file, or an error."""
    import h5py

    plist = item.get_create_plist()
    if plist.get_layout() != h5py.h5d.CONTIGUOUS or plist.get_nfilters():
        raise ModelError(
            f"{name} is refused: {path!r} is virtual, chunked or packed, not numbers in one piece"
        )
    if plist.get_external_count():
        raise ModelError(
            f"{name} is refused: {path!r} has external storage, which reads other files"
        )
    if item.get_type().get_class() not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT):
        raise ModelError(f"{name} is refused: {path!r} holds something else than numbers")
    shape = tuple(int(side) for side in item.shape or ())
    count = math.prod(shape) if item.shape is not None else 0
    if not count:
        return _DataSet(0, item.dtype, shape if item.shape is not None else (0,))
    offset = item.get_offset()
    if offset is None or not 0 <= offset <= size - count * item.dtype.itemsize:
        raise ModelError(
            f"{name} is refused: {path!r} of shape {list(shape)} is more than the file holds"
        )
    return _DataSet(int(offset), item.dtype, shape)
