"""The configuration and the weights of a SavedModel folder, as Keras 2 wrote it.

Beside the graph, which is a program and not read, Keras 2 wrote each layer's configuration
as JSON, into ``keras_metadata.pb`` (TensorFlow 2.5 to 2.15) or ``saved_model.pb`` (2.0 to
2.4).  The arrays lie in a checkpoint: an index, which is a sorted table of LevelDB, and
shards of plain bytes.  Field numbers are those of saved_metadata.proto, saved_model.proto,
saved_object_graph.proto, trackable_object_graph.proto and tensor_bundle.proto.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentdb.base.errors import ModelError
from latentdb.base.hdf5 import StoredArray
from latentdb.base.protobuf import FieldReader, varint
from latentdb.base.wording import clipped
from latentdb.kerasfile.container import (
    MAX_CONFIG,
    MAX_PARAMETERS,
    MAX_UNPACKED,
    ModelFile,
    Weights,
    other_kind,
    parse_json,
    read_file,
)

GRAPH = "saved_model.pb"
METADATA = "keras_metadata.pb"
_INDEX = "variables/variables.index"
_ADVICE = "in the program that made it, save the Keras model with model.save('x.keras') or 'x.h5'"
_OBJECTS = b"_CHECKPOINTABLE_OBJECT_GRAPH"  # the checkpoint's key of its object graph
_VALUE = "VARIABLE_VALUE"
_MAX_INDEX = 16 << 20  # bytes
_MAX_FIELDS = 500_000  # of protobuf in a file; a VAE of 40 layers has 3,000
_MAX_ENTRIES = 50_000  # arrays of a checkpoint
_MAX_KEY = 4096  # bytes
_MAX_SHARDS = 1000
_MAX_LAYERS = 10_000
_MAX_PATH = 512  # characters of a layer's path
_MAX_DEPTH = 16  # models in models
_MAX_STEPS = 1_000_000  # from object to object
_FOOTER = 48  # bytes at the end of a sorted table
_MAGIC = 0xDB4775248B80FB57
_TYPES = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "<u1",
    5: "<i2",
    6: "<i1",
    9: "<i8",
    10: "|b1",
    19: "<f2",
}
_STRING = 7  # in DataType
_ERRORS = (ValueError, KeyError, TypeError, IndexError, RecursionError, struct.error)


@dataclass(frozen=True)
class _Entry:
    """An array of a checkpoint: its type, shape and place in the shards."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int


@dataclass(frozen=True)
class _Object:
    """An object of a checkpoint: its parts, and the key of its value if it is a variable."""

    children: Mapping[str, int]
    key: str | None


def is_saved_model(path: object) -> bool:
    """Whether a path is a folder with a SavedModel."""
    try:
        return (Path(str(path)) / GRAPH).is_file()
    except OSError:
        return False


def read_saved_model(folder: Path) -> ModelFile:
    """A SavedModel of Keras 2, read as data: nothing of its graph is loaded.

    Raises
    ------
    ModelError
        If it holds no configuration of Keras, is damaged, or exceeds a limit of this module.
    """
    name = str(folder)
    try:
        layers = _metadata(folder)
        if "root" not in layers:
            raise ModelError(
                f"{name} is a SavedModel without Keras's configuration, which is a program and "
                f"not data: {_ADVICE}"
            )
        config, is_graph = _config(layers, name)
        count, entries = _entries(_bytes(folder, _INDEX, _MAX_INDEX))
        shards = _Shards(folder, count, name)
        objects = _objects(shards, entries[_OBJECTS])
        arrays = shards.arrays(_keys(layers, objects, by_attribute=not is_graph), entries)
    except _ERRORS as error:
        if isinstance(error, ModelError):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{name} is not a SavedModel of Keras: {reason}; {_ADVICE}") from error
    return ModelFile(name, config, Weights(shards.data, arrays), True)


def _bytes(folder: Path, name: str, limit: int) -> memoryview:
    data = read_file(folder / name, "a file of a SavedModel", limit)
    kind = other_kind(data, "")
    if kind is not None:
        raise ModelError(f"{folder / name} {kind}")
    return memoryview(data)


# --- the configuration -------------------------------------------------------------------


def _metadata(folder: Path) -> dict[str, dict[str, Any]]:
    """What Keras wrote of each layer, by its path (``root.encoder.layer-1``)."""
    reader = FieldReader(_MAX_FIELDS)
    texts: dict[str, memoryview] = {}
    if (folder / METADATA).exists():
        for node in reader.messages(_bytes(folder, METADATA, 4 * MAX_CONFIG), 1):
            fields = reader.last(node)
            texts[_text(fields[3])] = _part(fields[5])
    else:
        texts = dict(_old_metadata(reader, _bytes(folder, GRAPH, MAX_UNPACKED)))
    texts = {
        path: text
        for path, text in texts.items()
        if bytes(text[:1]) == b"{" and len(path) <= _MAX_PATH and path.count(".") <= _MAX_DEPTH
    }
    if len(texts) > _MAX_LAYERS:
        raise ModelError(f"{folder} is refused: it has more than {_MAX_LAYERS:,} layers")
    values = parse_json(b"[" + b",".join(texts.values()) + b"]", str(folder))
    if len(values) != len(texts) or not all(isinstance(one, dict) for one in values):
        raise ValueError("its configuration is no JSON")
    return {path: _plain(value) for path, value in zip(texts, values, strict=True)}


def _old_metadata(reader: FieldReader, data: memoryview) -> Iterator[tuple[str, memoryview]]:
    """The same from the object graph of a ``saved_model.pb``: the shortest path of each object."""
    graphs = [graph for meta in reader.messages(data, 2) for graph in reader.messages(meta, 7)]
    nodes = [node for graph in graphs[:1] for node in reader.messages(graph, 1)]
    pending, seen = [("root", 0)][: len(nodes)], {0}
    for path, number in pending:
        for user in reader.messages(nodes[number], 4):
            fields = reader.last(user)
            if 3 in fields and _text(fields.get(1, b"")).startswith("_tf_keras"):
                yield path, _part(fields[3])
        for child, name in _children(reader, nodes[number]):
            known = child in seen or child >= len(nodes)
            if not known and len(path) + len(name) < _MAX_PATH:
                seen.add(child)
                pending.append((f"{path}.{name}", child))


def _children(reader: FieldReader, node: memoryview) -> Iterator[tuple[int, str]]:
    for item in reader.messages(node, 1):
        fields = reader.last(item)
        number = fields.get(1, 0)
        if isinstance(number, int):
            yield number, _text(fields[2])


def _part(value: Any) -> memoryview:
    if not isinstance(value, memoryview):
        raise ValueError("it has a number in the place of a text")
    return value


def _text(value: Any) -> str:
    return bytes(value).decode() if not isinstance(value, int) else str(value)


def _plain(value: Any) -> Any:
    """JSON with lists in place of the tuples and shapes that Keras 2 wrote as objects."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        if value.get("class_name") in ("__tuple__", "TensorShape") and "items" in value:
            return _plain(value["items"])
        return {key: _plain(item) for key, item in value.items()}
    return value


def _config(layers: Mapping[str, dict[str, Any]], name: str) -> tuple[dict[str, Any], bool]:
    """The configuration of the model, and whether it is a graph of layers.

    A subclass of ``keras.Model`` has the models in its attributes for a configuration.
    """
    root = layers["root"]
    if _is_graph(root):
        return _model(root), True
    models = {
        path.split(".")[1]: _model(layer)
        for path, layer in layers.items()
        if path.count(".") == 1 and _is_graph(layer)
    }
    if not models:
        raise ModelError(
            f"{name} is a SavedModel of the class {clipped(root.get('class_name'))}, whose layers "
            "are in code: in the program that made it, save model.encoder and model.decoder each "
            "as .keras"
        )
    return {"class_name": root.get("class_name"), "config": models}, False


def _is_graph(layer: Mapping[str, Any]) -> bool:
    config = layer.get("config")
    return isinstance(config, dict) and isinstance(config.get("layers"), list)


def _model(layer: Mapping[str, Any]) -> dict[str, Any]:
    config = dict(layer["config"])
    config.setdefault("build_input_shape", layer.get("build_input_shape"))
    return {"class_name": layer.get("class_name"), "config": config}


# --- the arrays --------------------------------------------------------------------------


def _entries(data: memoryview) -> tuple[int, dict[bytes, _Entry]]:
    """How many shards a checkpoint has, and the arrays that its index names."""
    reader, count = FieldReader(_MAX_FIELDS), 0
    entries = {}
    for key, value in _table(data):
        fields = reader.last(value)
        if not key:  # the header
            if fields.get(2, 0):
                raise ValueError("its numbers are big-endian")
            count = _number(fields.get(1, 0))
            continue
        if 7 in fields:
            raise ValueError(f"{clipped(key.decode(errors='replace'))} is saved in slices")
        shape = _part(fields.get(2, memoryview(b"")))
        sides = tuple(_number(reader.last(side).get(1, 0)) for side in reader.messages(shape, 2))
        dtype, shard, offset, size = (_number(fields.get(number, 0)) for number in (1, 3, 4, 5))
        entries[key] = _Entry(dtype, sides, shard, offset, size)
    return count, entries


def _number(value: Any) -> int:
    if not isinstance(value, int) or value >= 1 << 48:
        raise ValueError("it has a size out of range")
    return value


def _table(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Keys and values of a sorted table (LevelDB's table_format.md)."""
    if len(data) < _FOOTER or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise ValueError("variables.index is truncated, or no index of a checkpoint")
    place = len(data) - _FOOTER
    for _ in range(2):  # the handle of the table's metadata is not used
        _, place = varint(data, place)
    budget = len(data)  # blocks do not overlap
    count = 0
    for _, handle in _block(data, place):
        offset, used = varint(handle, 0)
        size, _ = varint(handle, used)
        budget -= size
        if budget < 0:
            raise ValueError("the blocks of variables.index overlap")
        for key, value in _rows(data, offset, size):
            count += 1
            if count > _MAX_ENTRIES:
                raise ValueError(f"variables.index has more than {_MAX_ENTRIES:,} entries")
            yield key, value


def _block(data: memoryview, place: int) -> Iterator[tuple[bytes, memoryview]]:
    """The rows of the block whose handle is at a place."""
    offset, place = varint(data, place)
    size, _ = varint(data, place)
    return _rows(data, offset, size)


def _rows(data: memoryview, offset: int, size: int) -> Iterator[tuple[bytes, memoryview]]:
    if size < 4 or offset + size + 5 > len(data):
        raise ValueError("a block of variables.index is outside of the file")
    if data[offset + size]:
        raise ValueError("variables.index is compressed")
    block = data[offset : offset + size]
    restarts = struct.unpack("<I", block[-4:])[0]
    end, place, key = size - 4 - 4 * restarts, 0, b""
    if end < 0:
        raise ValueError("a block of variables.index is damaged")
    while place < end:
        shared, place = varint(block, place)
        unshared, place = varint(block, place)
        length, place = varint(block, place)
        if shared > len(key) or shared + unshared > _MAX_KEY or place + unshared + length > end:
            raise ValueError("a block of variables.index is damaged")
        key = key[:shared] + bytes(block[place : place + unshared])
        place += unshared
        yield key, block[place : place + length]
        place += length


class _Shards:
    """The bytes of all arrays of a checkpoint, one shard after the other."""

    def __init__(self, folder: Path, count: int, name: str) -> None:
        self._name = name
        if not 0 < count <= _MAX_SHARDS:
            raise ValueError(f"it has {count:,} shards, expected 1 to {_MAX_SHARDS:,}")
        files = [f"variables/variables.data-{one:05d}-of-{count:05d}" for one in range(count)]
        parts = [_bytes(folder, file, MAX_UNPACKED) for file in files]
        self._starts = [sum(map(len, parts[:number])) for number in range(count + 1)]
        if self._starts[-1] > MAX_UNPACKED:
            raise ModelError(f"{name} is refused: its variables are over {MAX_UNPACKED >> 30} GiB")
        self.data = bytes(parts[0].obj) if count == 1 else b"".join(parts)

    def place(self, entry: _Entry) -> int:
        """Where an array begins in `data`."""
        if entry.shard >= len(self._starts) - 1:
            raise ValueError(f"an array is in shard {entry.shard:,}, of {len(self._starts) - 1}")
        start, end = self._starts[entry.shard : entry.shard + 2]
        if entry.offset + entry.size > end - start:
            raise ValueError("an array lies outside of its file")
        return start + entry.offset

    def arrays(
        self, keys: Mapping[str, str], entries: Mapping[bytes, _Entry]
    ) -> dict[str, StoredArray]:
        """The arrays of some keys, by the names given for them."""
        found, total = {}, 0
        for name, key in keys.items():
            entry = entries[key.encode()]
            text = _TYPES.get(entry.dtype)
            if text is None:
                continue
            dtype, count = np.dtype(text), math.prod(entry.shape)
            total += count
            if count * dtype.itemsize != entry.size:
                raise ValueError(
                    f"{clipped(name)} of shape {clipped(list(entry.shape))} has {entry.size:,} "
                    "bytes"
                )
            found[name] = StoredArray(self.place(entry), dtype, entry.shape)
        if total > MAX_PARAMETERS:
            raise ModelError(
                f"{self._name} is refused: it has {total:,} parameters, expected at most "
                f"{MAX_PARAMETERS:,}"
            )
        return found


def _objects(shards: _Shards, entry: _Entry) -> list[_Object]:
    """The objects of a checkpoint; the first is the model."""
    if entry.dtype != _STRING or entry.shape:
        raise ValueError("its object graph is no text")
    start = shards.place(entry)
    data = memoryview(shards.data)[start : start + entry.size]
    length, used = varint(data, 0)
    graph = data[used + 4 : used + 4 + length]  # after a checksum of the length
    reader = FieldReader(_MAX_FIELDS)
    found = []
    for node in reader.messages(graph, 1):
        children = {name: number for number, name in _children(reader, node)}
        keys = [
            _text(attribute.get(3, b""))
            for attribute in map(reader.last, reader.messages(node, 2))
            if _text(attribute.get(1, b"")) == _VALUE
        ]
        found.append(_Object(children, keys[0] if keys else None))
    return found


def _keys(
    layers: Mapping[str, Any], objects: list[_Object], *, by_attribute: bool
) -> dict[str, str]:
    """The checkpoint's key of each array, by names as in an .h5: ``encoder/dense/kernel:0``."""
    found: dict[str, str] = {}
    steps = 0
    for path in layers:
        parts = path.split(".")[1:]
        number = 0
        names: list[str] = []
        for depth, part in enumerate(parts):
            number = objects[number].children.get(part, -1)
            if not 0 <= number < len(objects):
                break
            layer = layers.get(".".join(["root", *parts[: depth + 1]]), {})
            names.append(part if by_attribute and not depth else str(layer.get("name", part)))
        else:
            steps += len(objects[number].children)
            if steps > _MAX_STEPS:
                raise ValueError(f"its objects have more than {_MAX_STEPS:,} parts")
            for local, child in objects[number].children.items():
                key = objects[child].key if 0 <= child < len(objects) else None
                if key is not None and names:
                    found["/".join([*names, f"{local}:0"])] = key
    return found
