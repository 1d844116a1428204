"""SavedModel folders that would exhaust memory, time or trust if they were believed."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoo.case import Case, ModelFiles

MAGIC = 0xDB4775248B80FB57
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
FLOAT, STRING = 1, 7
GRAPH = b"\x08\x01"  # a saved_model.pb of version 1 and no graphs

Metadata = list[tuple[str, Any]]
Entry = Mapping[int, int | bytes]


def varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protobuf message of numbers and texts."""
    return b"".join(
        varint(number << 3) + varint(value)
        if isinstance(value, int)
        else varint(number << 3 | 2) + varint(len(value)) + value
        for number, value in fields
    )


def metadata(nodes: Metadata) -> bytes:
    """A keras_metadata.pb: paths of layers and what Keras wrote of each."""
    return b"".join(
        message((1, message((2, number), (3, path.encode()), (5, _text(value)))))
        for number, (path, value) in enumerate(nodes)
    )


def _text(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def table(rows: Mapping[str, bytes], *, kind: int = 0, copies: int = 1) -> bytes:
    """A sorted table of one block, which is named so many times."""
    block = b"".join(
        varint(0) + varint(len(key)) + varint(len(value)) + key.encode() + value
        for key, value in sorted(rows.items())
    ) + struct.pack("<II", 0, 1)
    handle = varint(0) + varint(len(block))
    index = b"".join(
        varint(0) + varint(4) + varint(len(handle)) + struct.pack(">I", copy) + handle
        for copy in range(copies)
    ) + struct.pack("<II", 0, 1)
    start = len(block) + 5
    data = block + bytes([kind]) + bytes(4) + index + bytes(5)
    handles = varint(0) + varint(0) + varint(start) + varint(len(index))
    return data + handles.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def entry(
    shape: tuple[int, ...], offset: int, size: int, dtype: int = FLOAT, shard: int = 0
) -> bytes:
    sides = b"".join(message((2, message((1, side)))) for side in shape)
    return message((1, dtype), (2, sides), (3, shard), (4, offset), (5, size))


def objects(nodes: list[tuple[Mapping[str, int], str]]) -> bytes:
    """An object graph as a text of a checkpoint: parts of each object, and its key."""
    graph = b"".join(
        message((1, b"".join(
            [message((1, message((1, child), (2, name.encode())))) for name, child in parts.items()]
            + ([message((2, message((1, b"VARIABLE_VALUE"), (3, key.encode()))))] if key else [])
        )))
        for parts, key in nodes
    )  # fmt: skip
    return varint(len(graph)) + bytes(4) + graph


LAYERS: list[Any] = [
    {"class_name": "InputLayer", "name": "x", "config": {"name": "x",
     "batch_input_shape": [None, 4, 4, 1]}, "inbound_nodes": []},
    {"class_name": "Flatten", "name": "flat", "config": {"name": "flat"},
     "inbound_nodes": [[["x", 0, 0, {}]]]},
    {"class_name": "Dense", "name": "z_mean", "config": {"name": "z_mean", "units": 2},
     "inbound_nodes": [[["flat", 0, 0, {}]]]},
]  # fmt: skip
ROOT: Any = {
    "class_name": "Functional", "name": "encoder",
    "config": {"name": "encoder", "layers": LAYERS, "input_layers": [["x", 0, 0]],
               "output_layers": [["z_mean", 0, 0]]},
}  # fmt: skip
NODES: Metadata = [("root", ROOT), ("root.layer-2", {"name": "z_mean", "class_name": "Dense"})]
PARTS: list[tuple[Mapping[str, int], str]] = [
    ({"layer-2": 1}, ""), ({"kernel": 2, "bias": 3}, ""), ({}, "kernel"), ({}, "bias"),
]  # fmt: skip
ARRAYS = bytes(4 * (16 * 2 + 2))


def folder_of(
    *,
    nodes: Metadata | bytes = NODES,
    parts: list[tuple[Mapping[str, int], str]] = PARTS,
    rows: Mapping[str, bytes] | None = None,
    shards: int = 1,
    index: Callable[[bytes], bytes] = bytes,
    graph: bytes = GRAPH,
    **more: Any,
) -> Callable[[Path], ModelFiles]:
    """A SavedModel, whole except for what is given."""

    def write(folder: Path) -> ModelFiles:
        path = folder / "encoder"
        (path / "variables").mkdir(parents=True)
        (path / "saved_model.pb").write_bytes(graph)
        if nodes:
            data = nodes if isinstance(nodes, bytes) else metadata(nodes)
            (path / "keras_metadata.pb").write_bytes(data)
        text = objects(parts)
        given = {
            "": message((1, shards)),
            "kernel": entry((16, 2), 0, 128),
            "bias": entry((2,), 128, 8),
            OBJECTS: entry((), len(ARRAYS), len(text), STRING),
            **(rows or {}),
        }
        (path / "variables/variables.index").write_bytes(index(table(given, **more)))
        (path / "variables/variables.data-00000-of-00001").write_bytes(ARRAYS + text)
        return ModelFiles(path)

    return write


def _nested(depth: int) -> bytes:
    return b'{"config": ' + b"[" * depth + b"]" * depth + b"}"


def _large(folder: Path) -> ModelFiles:
    files = folder_of()(folder)
    os.truncate(files.encoder / "keras_metadata.pb", 65 << 20)
    return files


def _pointer(folder: Path) -> ModelFiles:
    files = folder_of()(folder)
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    (files.encoder / "keras_metadata.pb").write_text(text)
    return files


def _old_graph(count: int) -> bytes:
    """A saved_model.pb whose objects are a chain, each a layer."""
    node = [
        message((1, message((1, number + 1), (2, b"n" * 400))),
                (4, message((1, b"_tf_keras_layer"), (3, b"{}"))))
        for number in range(count)
    ]  # fmt: skip
    graph = b"".join(message((1, one)) for one in node)
    return message((2, message((7, graph))))


LOOP: list[tuple[Mapping[str, int], str]] = [
    ({"a": 0, **{f"k{n}": 1 for n in range(20_000)}}, ""), ({}, "kernel")
]  # fmt: skip
WHOLE = folder_of()  # accepted, as the others would be
SAVED = (
    Case("SavedModel: metadata nested 900 deep", folder_of(nodes=[("root", _nested(900))]),
         "nests too deeply"),
    Case("SavedModel: metadata of 65 MB", _large, "is over 64 MiB"),
    Case("SavedModel: metadata of 600,000 fields", folder_of(nodes=b"\x10\x01" * 600_000),
         "more than 500,000 fields"),
    Case("SavedModel: metadata that is none", folder_of(nodes=b"\xff" * 50),
         "integer of more than"),
    Case("SavedModel: metadata of 20,000 layers",
         folder_of(nodes=[(f"root.layer-{n}", {}) for n in range(20_000)]),
         "more than 10,000 layers"),
    Case("SavedModel: text that ends the JSON", folder_of(nodes=[("root", b'{}],[{}')]),
         "not a SavedModel of Keras"),
    Case("SavedModel: a chain of 100,000 objects", folder_of(nodes=[], graph=_old_graph(100_000)),
         "whose layers are in code"),
    Case("SavedModel: without metadata", folder_of(nodes=[]), "without Keras's configuration"),
    Case("SavedModel: a pointer of Git LFS", _pointer, "run git lfs pull"),
    Case("SavedModel: a class without models", folder_of(nodes=[("root", {"class_name": "VAE"})]),
         "whose layers are in code"),
    Case("SavedModel: a cycle of objects",
         folder_of(nodes=[*NODES, *((f"root{'.a' * n}", {}) for n in range(1, 16))], parts=LOOP),
         "needs one array"),
    Case("SavedModel: a million parts",
         folder_of(nodes=[("root", ROOT), *((f"root.{n}.a", {}) for n in range(100))],
                   parts=[({str(n): 1 for n in range(100)}, ""), ({**LOOP[0][0], "a": 1}, "")]),
         "more than 1,000,000 parts"),
    Case("SavedModel: objects that are not there", folder_of(parts=[({"layer-2": 7}, "")]),
         "needs one array 'kernel': the file holds none"),
    Case("SavedModel: an object graph of numbers",
         folder_of(rows={OBJECTS: entry((2,), 0, 8)}), "object graph is no text"),
    Case("SavedModel: an array outside of its file",
         folder_of(rows={"kernel": entry((16, 2), 1 << 40, 128)}), "outside of its file"),
    Case("SavedModel: an array of 2^60 numbers",
         folder_of(rows={"kernel": entry((1 << 30, 1 << 30), 0, 128)}), "has 128 bytes"),
    Case("SavedModel: an array of negative size",
         folder_of(rows={"kernel": entry(((1 << 64) - 2,), 0, 128)}), "size out of range"),
    Case("SavedModel: an array of another shape",
         folder_of(rows={"kernel": entry((2, 16), 0, 128)}), "needs kernel of shape [16, 2]"),
    Case("SavedModel: an array in shard 900,000",
         folder_of(rows={"kernel": entry((16, 2), 0, 128, shard=900_000)}), "is in shard 900,000"),
    Case("SavedModel: 2^40 shards", folder_of(shards=1 << 40), "expected 1 to 1,000"),
    Case("SavedModel: shards that are missing", folder_of(shards=2), "of-00002 does not exist"),
    Case("SavedModel: big-endian", folder_of(rows={"": message((1, 1), (2, 1))}), "big-endian"),
    Case("SavedModel: a compressed index", folder_of(kind=1), "is compressed"),
    Case("SavedModel: one block 100,000 times", folder_of(copies=100_000), "blocks of variables"),
    Case("SavedModel: a truncated index", folder_of(index=lambda data: data[:-20]), "is truncated"),
    Case("SavedModel: a block outside of the index",
         folder_of(index=lambda data: data[:-48] + (varint(0) * 2 + varint(1 << 40) + varint(64))
                   .ljust(40, b"\0") + data[-8:]), "outside of the file"),
    Case("SavedModel: a key longer than the one before",
         folder_of(index=lambda data: b"\x7f" + data[1:]), "is damaged"),
)  # fmt: skip
