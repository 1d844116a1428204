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
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import ModelError, NotFoundError
from latentdb.base.hdf5 import SafeReader, StoredArray, heap_collection, is_variable

MAX_CONFIG = 16 << 20  # bytes; ResNet-152 has 0.3 MB
MAX_PARAMETERS = 500_000_000
MAX_UNPACKED = 4 << 30
_MAX_RATIO = 50  # unpacked to packed bytes
_MIN_RATIO_CHECKED = 64 << 20  # bytes: the ratio of less is not checked, for zeros pack well
_MAX_ENTRIES = 1000
_HDF5 = b"\x89HDF\r\n\x1a\n"  # an .h5 begins with
_LFS = b"version https://git-lfs"
_LOCAL_HEADER = 30  # bytes, before the name and extra fields, whose lengths are at 26
_BLOCK = 1 << 16  # packed bytes unpacked at a time
_MAX_OBJECTS = 20_000  # EfficientNetB7 has about 4,000 groups and arrays
_MAX_DEPTH = 64
_MAX_VALUES = 1_000_000  # in a configuration; ResNet-152 has 30,000
_MAX_NESTING = 200  # brackets inside brackets in a configuration; 16 nested models have 70
_MAX_MENTIONS = 1000  # of the name of an .h5's configuration
_MAX_HEAPS = 2 * MAX_CONFIG  # bytes of heap collections that may hold it
_TEXTS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_ATTRIBUTE_REACH = 512  # bytes between an attribute's name and its value
_REFERENCE = struct.Struct("<IQI")  # length, address of a heap collection, number in it
_ADVICE = "save it with model.save('x.keras')"
_PARSE_ERRORS = (
    ValueError, KeyError, TypeError, OSError, EOFError, RuntimeError, RecursionError,
    NotImplementedError, OverflowError, zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip


class Weights:
    """Arrays by name, read from the bytes of an HDF5 file on demand.

    Parameters
    ----------
    data
        The file.
    arrays
        Offset, type and shape of each array.
    """

    def __init__(self, data: bytes, arrays: Mapping[str, StoredArray]) -> None:
        self._data = data
        self._arrays = dict(arrays)

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def array(self, name: str) -> NDArray[Any]:
        entry = self._arrays[name]
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
class Content:
    """A model file in memory.

    Attributes
    ----------
    name
        What it is, for messages.
    data
        Its bytes.
    """

    name: str
    data: bytes


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


def read_file(path: str | os.PathLike[str], expected: str, limit: int = MAX_UNPACKED) -> bytes:
    """The bytes of a model file.

    Parameters
    ----------
    path
        The file.
    expected
        What it should be, for the error.
    limit
        Its bytes, at most.

    Raises
    ------
    NotFoundError
        If it does not exist.
    ModelError
        If it is a folder, too large, or cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        raise ModelError(f"{path} is a folder: expected {expected}")
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist: expected {expected}")
    try:
        if path.stat().st_size > limit:
            raise ModelError(f"{path} is over {limit >> 20:,} MiB: expected {expected}")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error


def parse(data: bytes, name: str, architecture: bytes | None = None) -> ModelFile:
    """Read a model file as data.

    Parameters
    ----------
    data
        Its bytes.
    name
        The file, for errors.
    architecture
        What ``model.to_json()`` gave, of a file that holds weights only.

    Raises
    ------
    ModelError
        If it has neither format, is damaged, or exceeds a limit of this module.
    """
    advice = other_kind(data, name)
    if advice is not None:
        raise ModelError(f"{name} {advice}")
    try:
        if architecture is not None:
            return _parse_weights(data, architecture, name)
        if data.startswith(_HDF5):
            return _parse_h5(data, name)
        return _parse_zip(data, name)
    except _PARSE_ERRORS as error:
        if isinstance(error, ModelError):
            raise
        message = " ".join(str(error).split())[:200] or type(error).__name__
        kind = "an .h5" if data.startswith(_HDF5[:4]) else "a .keras"
        raise ModelError(f"{name} is not {kind} model file: {message}; {_ADVICE}") from error


def other_kind(data: bytes, name: str) -> str | None:
    """What a file is that people give for a Keras model, and what to do; None for others."""
    if data.startswith(_LFS):
        return "is a pointer of Git LFS, not the file itself: run git lfs pull"
    suffix = os.path.splitext(name)[1].lower()
    export = "in the program that made it, export it as .onnx (latentdb/onnx/README.md shows how)"
    if data[:4] == b"PK\x03\x04" and b"data.pkl" in data[:300]:
        return f"is a file of PyTorch, which is a program and not data: {export}"
    if data[4:8] == b"TFL3":
        return f"is a TensorFlow Lite model: give the Keras model that it was made from ({_ADVICE})"
    if data.startswith((_HDF5, b"PK")):
        return None
    if suffix in (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".safetensors", ".bin"):
        return f"holds weights, or objects of Python, but no model as data: {export}"
    if suffix == ".index" or ".data-00000" in name:
        return f"is a part of a TensorFlow checkpoint, which has no architecture: {_ADVICE}"
    if suffix == ".json" and data[:1] == b"{":
        return (
            "is an architecture without weights: give the .weights.h5 as the encoder, and this "
            "as --architecture"
        )
    if suffix == ".pb":
        return f"is a graph of TensorFlow, a program: give the folder that it is in, or {_ADVICE}"
    return None


def _parse_zip(data: bytes, name: str) -> ModelFile:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        if len(entries) > _MAX_ENTRIES or len({entry.filename for entry in entries}) < len(entries):
            raise ModelError(
                f"{name} is refused: it holds over {_MAX_ENTRIES:,} files, or two of one name"
            )
        config = _unpack(archive, "config.json", MAX_CONFIG, name)
        if "model.weights.h5" not in archive.namelist():
            raise ModelError(f"{name} is refused: it holds no model.weights.h5; {_ADVICE}")
        weights = _unpack(archive, "model.weights.h5", MAX_UNPACKED, name)
    return ModelFile(name, parse_config(config, name), _weights(weights, name), False)


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
        raise _ratio_error(name, member, entry.compress_size, entry.file_size)
    return _inflate(archive, entry, name)


def _inflate(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> bytes:
    """The bytes of an entry: the sizes that its header claims may be false."""
    with archive.open(entry) as stream:
        stored = entry.compress_type == zipfile.ZIP_STORED
        if stored or entry.file_size <= _MIN_RATIO_CHECKED:
            return stream.read(entry.file_size + 1)
    # Where the packed bytes end is known when they are unpacked.
    source = archive.fp
    assert source is not None
    source.seek(entry.header_offset)
    head = source.read(_LOCAL_HEADER)
    source.seek(sum(struct.unpack_from("<HH", head, 26)), os.SEEK_CUR)
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    parts: list[bytes] = []
    packed = unpacked = 0
    pending = b""
    while not unpacker.eof:
        if not pending:
            pending = source.read(_BLOCK)
            packed += len(pending)
            if not pending:
                raise zlib.error("its packed bytes are truncated")
        part = unpacker.decompress(pending, 64 * _BLOCK)
        pending = unpacker.unconsumed_tail
        unpacked += len(part)
        parts.append(part)
        used = packed - len(pending) - len(unpacker.unused_data)
        if unpacked > max(_MIN_RATIO_CHECKED, _MAX_RATIO * used):
            raise _ratio_error(name, entry.filename, used, unpacked)
    data = b"".join(parts)
    if zlib.crc32(data) != entry.CRC or len(data) != entry.file_size:
        raise zipfile.BadZipFile(f"bad CRC-32 or size of {entry.filename}")
    return data


def _ratio_error(name: str, member: str, packed: int, unpacked: int) -> ModelError:
    return ModelError(
        f"{name} is refused: {member} unpacks from {packed:,} bytes to {unpacked:,} and more, "
        f"expected at most {_MAX_RATIO} times as many"
    )


def parse_config(text: bytes, name: str) -> dict[str, Any]:
    """The configuration of a model from JSON; raises as `parse_json`."""
    config = parse_json(text, name)
    if not isinstance(config, dict) or not isinstance(config.get("config"), dict | list):
        raise ModelError(f"{name} has no model configuration; {_ADVICE}")
    return config


def parse_json(text: bytes, name: str) -> Any:
    """The value of a JSON text, whose size is checked before it is parsed.

    Raises
    ------
    ModelError
        If it exceeds a limit of this module.
    ValueError
        If it is no JSON.
    """
    if len(text) > MAX_CONFIG:
        raise ModelError(
            f"{name} is refused: its configuration has {len(text):,} bytes, "
            f"expected at most {MAX_CONFIG:,}"
        )
    values, nesting = _count(text)
    if nesting > _MAX_NESTING:
        raise ModelError(
            f"{name} is refused: its configuration nests too deeply, over {_MAX_NESTING} levels"
        )
    if values > _MAX_VALUES:
        raise ModelError(
            f"{name} is refused: its configuration has {values:,} values, "
            f"expected at most {_MAX_VALUES:,}"
        )
    return json.loads(text)


def _count(text: bytes) -> tuple[int, int]:
    """How many values a JSON text has, and how many brackets are open at once, both at most."""
    plain = np.frombuffer(_TEXTS.sub(b"", text), np.uint8)
    opens = (plain == ord("[")) | (plain == ord("{"))
    closes = (plain == ord("]")) | (plain == ord("}"))
    steps = opens.astype(np.int32) - closes
    values = int(opens.sum()) + int((plain == ord(",")).sum()) + 1
    return values, int(steps.cumsum(dtype=np.int32).max(initial=0))


def _parse_h5(data: bytes, name: str) -> ModelFile:
    text = _model_config(data, name)
    return ModelFile(
        name, parse_config(text, name), _weights(data, name, group="model_weights"), True
    )


def _parse_weights(data: bytes, architecture: bytes, name: str) -> ModelFile:
    """Weights of Keras 3 and of tf-keras are numbered, those of Keras 2 are named by layer."""
    if not data.startswith(_HDF5):
        raise ModelError(f"{name} is no file of weights: with an architecture, give a .weights.h5")
    weights = _weights(data, name)
    numbered = any("/vars/" in f"/{path}" for path in weights)
    if not numbered and any(path.startswith("model_weights/") for path in weights):
        weights = _weights(data, name, group="model_weights")
    try:
        config = parse_config(architecture, f"the architecture of {name}")
    except (ValueError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"the architecture of {name} is not JSON: give the file that model.to_json() made"
        ) from error
    return ModelFile(name, config, weights, not numbered)


def _model_config(data: bytes, name: str) -> bytes:
    """The attribute that holds the configuration.

    It is variable-length text in a heap, which HDF5 itself may read forever if
    it is damaged: so the reference to it is searched for, and the heap read here.
    """
    import h5py

    with h5py.File(io.BytesIO(data), "r") as file:
        if not h5py.h5a.exists(file.id, b"model_config"):
            raise ModelError(
                f"{name} holds weights only, no architecture: save the whole model with "
                "model.save('x.keras'), or give --architecture x.json, written by model.to_json()"
            )
        attribute = h5py.h5a.open(file.id, b"model_config")
        if attribute.shape != () or attribute.get_type().get_class() != h5py.h5t.STRING:
            raise ModelError(f"{name} has no model configuration; {_ADVICE}")
        if not is_variable(attribute):
            if attribute.get_type().get_size() > MAX_CONFIG:
                raise ModelError(f"{name} is refused: its configuration is over {MAX_CONFIG} bytes")
            value = file.attrs["model_config"]
            return value if isinstance(value, bytes) else str(value).encode()

    def read(offset: int, count: int) -> bytes:
        return data[offset : offset + count]

    start, budget = 0, _MAX_HEAPS
    heaps: dict[int, dict[int, bytes]] = {}  # several attributes may share one
    for _ in range(_MAX_MENTIONS):
        start = data.find(b"model_config\0", start)
        if start < 0:
            break
        start += len(b"model_config")
        for offset in range(start, min(start + _ATTRIBUTE_REACH, len(data) - _REFERENCE.size)):
            length, address, number = _REFERENCE.unpack_from(data, offset)
            if 0 < length <= MAX_CONFIG and budget >= 0:
                if address not in heaps and data[address : address + 4] == b"GCOL":
                    count, heaps[address] = heap_collection(read, len(data), address, budget)
                    budget -= count
                text = heaps.get(address, {}).get(number, b"")
                if len(text) == length and text[:1] == b"{":
                    return text.split(b"\0", 1)[0]
    raise ModelError(f"{name} is refused: its configuration is damaged or over {MAX_CONFIG} bytes")


def _weights(data: bytes, name: str, group: str = "") -> Weights:
    """All arrays of an HDF5 file, or of one group in it."""
    import h5py

    def refused(message: str) -> ModelError:
        return ModelError(f"{name} is refused: {message}")

    reader = SafeReader(len(data), refused, max_objects=_MAX_OBJECTS, max_depth=_MAX_DEPTH)
    arrays: dict[str, StoredArray] = {}
    with h5py.File(io.BytesIO(data), "r") as file:
        if not group or file.id.links.exists(group.encode()):
            root = reader.open(file.id, group.encode(), group) if group else file.id
            arrays = {path: reader.check(path, item) for path, item in reader.data_sets(root)}
    count = sum(math.prod(array.shape) for array in arrays.values())
    if count > MAX_PARAMETERS:
        raise ModelError(
            f"{name} is refused: it has {count:,} parameters, expected at most {MAX_PARAMETERS:,}"
        )
    return Weights(data, arrays)
