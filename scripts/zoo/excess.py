"""Model files that would exhaust the stack, memory, time or a terminal if they were believed."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from zoo.case import Case, ModelFiles

Json = dict[str, Any]
Make = Callable[[Path], ModelFiles]
MEGABYTE = 1 << 20


def layer(kind: str, name: str, *before: str, nodes: Any = None, **settings: Any) -> Json:
    """A layer of Keras 3 that is called once on the outputs of others."""
    tensors = [_tensor(one) for one in before]
    call = {"args": [tensors] if len(tensors) > 1 else tensors, "kwargs": {}}
    return {
        "class_name": kind,
        "module": "keras.layers",
        "name": name,
        "config": {"name": name, **settings},
        "inbound_nodes": nodes if nodes is not None else [call] if before else [],
    }


def _tensor(name: str, node: Any = 0, number: Any = 0) -> Json:
    return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, node, number]}}


def image(*sides: Any) -> Json:
    return layer("InputLayer", "x", batch_shape=[None, *(sides or (28, 28, 1))])


def model(layers: list[Any], *outputs: str, **more: Any) -> Json:
    ends = {"input_layers": [["x", 0, 0]], "output_layers": [[name, 0, 0] for name in outputs]}
    config = {"name": "encoder", "layers": layers, **ends, **more}
    return {"class_name": "Functional", "module": "keras", "config": config, "name": "encoder"}


def packed(
    config: Json | bytes, weights: bytes | None = None, *, method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    """A .keras file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("config.json", config if isinstance(config, bytes) else json.dumps(config))
        archive.writestr("model.weights.h5", arrays() if weights is None else weights)
    return buffer.getvalue()


def arrays(**named: Any) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, values in named.items():
            file[name.replace("__", "/")] = values
    return buffer.getvalue()


def written(make: Callable[[], bytes], suffix: str = ".keras") -> Make:
    def write(folder: Path) -> ModelFiles:
        path = folder / f"encoder{suffix}"
        path.write_bytes(make())
        return ModelFiles(path)

    return write


def graph(*layers: Json, outputs: tuple[str, ...] = ("z_mean",), **named: Any) -> Make:
    """A file of an input and these layers, and these arrays."""
    return written(lambda: packed(model([image(), *layers], *outputs), arrays(**named)))


def one(kind: str, **settings: Any) -> Make:
    """A file of one layer between the image and z_mean."""
    return graph(layer(kind, "odd", "x", **settings), layer("Flatten", "z_mean", "odd"))


def convolution(kind: str = "Conv2D", array: Any = None, **settings: Any) -> Make:
    weights = np.zeros((3, 3, 1, 1), np.float32) if array is None else array
    given = {"filters": 1, "kernel_size": [3, 3], "padding": "same", "use_bias": False, **settings}
    place = {f"layers__{'conv2d' if kind == 'Conv2D' else 'depthwise_conv2d'}__vars__0": weights}
    if kind != "Conv2D":
        del given["filters"]
    return graph(layer(kind, "odd", "x", **given), layer("Flatten", "z_mean", "odd"), **place)


def nested_activation(depth: int) -> Json:
    value: Any = "relu"
    for _ in range(depth):
        value = {"class_name": "Activation", "module": "keras.layers",
                 "config": {"activation": value}}  # fmt: skip
    return layer("Activation", "z_mean", "flat", activation=value)


def nested_list(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


FLAT = layer("Flatten", "flat", "x")


def _deep_keyword() -> bytes:
    call = {"args": [_tensor("flat")], "kwargs": {"deep": nested_list(900)}}
    return packed(model([image(), FLAT, layer("Dense", "z_mean", nodes=[call])], "z_mean"))


def _history() -> bytes:
    call = {"args": [_tensor("flat", float("inf"))], "kwargs": {}}
    text = json.dumps(model([image(), FLAT, layer("Dense", "z_mean", nodes=[call])], "z_mean"))
    return packed(text.replace("Infinity", "1e999").encode())


def _branches(count: int, size: int) -> Make:
    ups = [layer("UpSampling2D", f"up{n}", "x", size=[size, size]) for n in range(count)]
    joined = layer("Concatenate", "joined", *(f"up{n}" for n in range(count)), axis=-1)
    return graph(*ups, joined, layer("GlobalAveragePooling2D", "z_mean", "joined"))


def _multiplications() -> bytes:
    side = 51
    layers = [
        image(),
        layer("UpSampling2D", "up", "x", size=[140, 140]),
        layer("Conv2D", "slow", "up", filters=4, kernel_size=[side, side], padding="same",
              use_bias=False),
        layer("GlobalAveragePooling2D", "z_mean", "slow"),
    ]  # fmt: skip
    return packed(
        model(layers, "z_mean"), arrays(layers__conv2d__vars__0=np.zeros((side, side, 1, 4), "f4"))
    )


def _claimed_size() -> bytes:
    """A bomb whose header claims that its packed bytes are as many as its unpacked ones / 40."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts, checksum, size = [], 0, 300 * MEGABYTE
    block = bytes(MEGABYTE)
    for _ in range(size // MEGABYTE):
        parts.append(stream.compress(block))
        checksum = zlib.crc32(block, checksum)
    data = b"".join([*parts, stream.flush()])
    claimed = size // 40
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("config.json", json.dumps(model([image()], "x")))
        archive.writestr("model.weights.h5", data + bytes(claimed - len(data)))
        entry = archive.getinfo("model.weights.h5")
        entry.compress_type, entry.file_size, entry.CRC = zipfile.ZIP_DEFLATED, size, checksum
    return buffer.getvalue()


def _forged(offset: int, value: int) -> bytes:
    """A .keras whose central directory has another number for its first file."""
    data = bytearray(packed(model([image(), FLAT], "flat"), method=zipfile.ZIP_STORED))
    start = data.index(b"PK\x01\x02")
    struct.pack_into("<I" if offset >= 16 else "<H", data, start + offset, value)
    return bytes(data)


def _many_entries() -> bytes:
    buffer = io.BytesIO(packed(model([image(), FLAT], "flat")))
    with zipfile.ZipFile(buffer, "a") as archive:
        for number in range(5000):
            archive.writestr(f"{number}", b"")
    return buffer.getvalue()


def _many_groups() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for number in range(30_000):
            file.create_group(f"g{number}")
    return packed(model([image(), FLAT], "flat"), buffer.getvalue())


def _log_vars() -> bytes:
    heads = [layer("Activation", f"log_var_{n}", f"log_var_{n - 1}" if n else "flat",
                   activation="relu") for n in range(4000)]  # fmt: skip
    return packed(model([image(), FLAT, *heads, layer("Dense", "z_mean", "log_var_3999", units=2)],
                        "z_mean"))  # fmt: skip


def _identities() -> bytes:
    drops = [layer("Dropout", f"d{n}", f"d{n - 1}" if n else "flat") for n in range(4000)]
    odd = [layer("Odd", f"odd{n}", "d3999") for n in range(4000)]
    return packed(model([image(), FLAT, *drops, *odd], "odd0"))


def _after_z_mean() -> bytes:
    chain = [layer("Odd" if n % 2 else "Activation", f"a{n}", f"a{n - 1}" if n else "z_mean",
                   activation="relu") for n in range(4000)]  # fmt: skip
    return packed(model([image(), layer("Dense", "z_mean", "x", units=-1), *chain], "a3999"))


def _models_in_models() -> bytes:
    inner = model([image(), FLAT], "flat")
    for _ in range(20):
        call = {"args": [_tensor("x")], "kwargs": {}}
        inner = model([image(), {**inner, "name": "encoder", "inbound_nodes": [call]}], "encoder")
    return packed(inner)


def _legacy(text: str) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["model_config"] = text
    return buffer.getvalue()


def _hidden(data: bytes) -> bytes:
    """An .h5 whose configuration is not where its name is."""
    return data.replace(b"model_config\0", b"model_confi_\0", 1)


def _mentions() -> bytes:
    data = bytearray(_legacy(json.dumps({"config": []})))
    at = data.index(b"GCOL")
    data[at : at + 4] = b"gone"
    return bytes(data) + b"model_config\0" * (2 * MEGABYTE)


def _heaps() -> bytes:
    """Thousands of references beside the name, each to a collection of a million objects."""
    data = bytearray(_legacy(json.dumps({"config": []})))
    at = data.index(b"GCOL")
    data[at : at + 4] = b"gone"
    heap = b"GCOL\x01\0\0\0" + struct.pack("<Q", 4 * MEGABYTE)
    heap += struct.pack("<HHIQ", 1, 0, 0, 0) * ((4 * MEGABYTE - 16) // 16)
    start = len(data)
    data += b"".join(
        b"model_config\0" + struct.pack("<IQI", 64, start + 200_000 + 32 * n, 3) * 30
        for n in range(300)
    )
    data += bytes(start + 200_000 - len(data)) + heap
    return bytes(data)


def _wide_call() -> bytes:
    call = {"args": [[_tensor("x") for _ in range(50_000)]], "kwargs": {}}
    return packed(model([image(), layer("Add", "z_mean", nodes=[call])], "z_mean"))


def _many_inputs() -> bytes:
    return packed(model([image(), FLAT], "flat", input_layers=[["x", 0, 0]] * 50_000))


def _brackets() -> bytes:
    return packed(b'{"class_name": "Functional", "config": {"layers": [' + b"[]," * (5 << 20)
                  + b"[]]}}")  # fmt: skip


def _many_layers() -> bytes:
    tail = [layer("Flatten", f"f{n}", "x") for n in range(30_000)]
    return packed(model([image(), *tail], "f0"))


ESCAPES = "a\x1b[2J\x07\r\nb\u202e\u2028c"
LONG = "n" * MEGABYTE
NOT_KERAS = "keras does not write"

EXCESS = (
    Case("keras_history of 1e999", written(_history), NOT_KERAS),
    Case("an argument nested 900 deep", written(_deep_keyword), "nests too deeply"),
    Case("input of negative size", written(lambda: packed(model([image(-28, 28, 1), FLAT],
         "flat"))), "expected sizes"),
    Case("input of size 0", written(lambda: packed(model([image(0, 28, 1), FLAT], "flat"))),
         "expected sizes"),
    Case("input of size 1e30", written(lambda: packed(model([image(1e30), FLAT], "flat"))),
         "expected sizes"),
    Case("input of 16,000 x 16,000", written(lambda: packed(model([image(16_000, 16_000, 1), FLAT],
         "flat"))), "for one image, at most"),
    Case("40 activations inside each other", graph(FLAT, nested_activation(40)),
         "has an activation inside an activation"),
    Case("200 activations inside each other", graph(FLAT, nested_activation(200)),
         "nests too deeply"),
    Case("layers that are no list", written(lambda: packed(model({}, "x"))),  # type: ignore[arg-type]
         "holds only the name of the class"),
    Case("a layer that is a number", written(lambda: packed(model([image(), 5], "x"))), NOT_KERAS),
    Case("calls that are a number", graph(layer("Flatten", "z_mean", nodes=7)), NOT_KERAS),
    Case("an output that no layer gives", graph(FLAT, outputs=("gone",)), "has no layer 'gone'"),
    Case("two layers of one name", graph(FLAT, FLAT, outputs=("flat",)), "two layers of one name"),
    Case("a kernel size of text", convolution(kernel_size="evil"), "is refused: Conv2D 'odd'"),
    Case("a kernel of negative size", convolution(kernel_size=[-3, -3]), "cannot be built"),
    Case("strides of 0", convolution(strides=[0, 0]), "cannot be built"),
    Case("0 groups", convolution(groups=0), "is refused: Conv2D 'odd'"),
    Case("an unknown padding", convolution(padding="evil"), "cannot be built"),
    Case("channels first", convolution(data_format="channels_first"), "channels first"),
    Case("an axis of 99", one("UnitNormalization", axis=99), "cannot be built"),
    Case("a shape of two unknowns", one("Reshape", target_shape=[-1, -1]), "cannot be built"),
    Case("an integer of 400 digits", one("UpSampling2D", size=[10**400, 1]), "is refused"),
    Case("weights that are not finite", convolution(array=np.full((3, 3, 1, 1), np.nan, "f4")),
         "weights that are not finite"),
    Case("quantised weights", convolution(dtype={"config": {"name": "int8_from_float32"}}),
         "is quantised"),
    Case("Conv2D with a dilation of 5,000", convolution(dilation_rate=[5000, 5000]),
         "for one image, at most"),
    Case("DepthwiseConv2D with a dilation of 9,000",
         convolution("DepthwiseConv2D", dilation_rate=[9000, 9000]), "for one image, at most"),
    Case("padding by 1,000,000", one("ZeroPadding2D", padding=[1_000_000, 1_000_000]),
         "for one image, at most"),
    Case("a vector repeated a billion times", graph(FLAT, layer("RepeatVector", "z_mean", "flat",
         n=1_000_000_000)), "for one image, at most"),
    Case("resizing to 60,000", one("Resizing", height=60_000, width=60_000),
         "for one image, at most"),
    Case("60 branches of 11 million numbers", _branches(60, 120), "its tensors hold"),
    Case("a convolution of 160 billion multiplications", written(_multiplications),
         "multiplications, at most"),
    Case("weights of 300 MB whose header claims 7.5 MB packed", written(_claimed_size),
         "expected at most 50 times"),
    Case("a configuration of another size than claimed", written(lambda: _forged(24, 10)),
         "is not a .keras model file"),
    Case("a false checksum", written(lambda: _forged(16, 1)), "is not a .keras model file"),
    Case("an encrypted configuration", written(lambda: _forged(8, 1)),
         "is not a .keras model file"),
    Case("5,000 files in one .keras", written(_many_entries), "holds over 1,000 files"),
    Case("30,000 groups of weights", written(_many_groups), "one object too many"),
    Case("4,000 log variances in a chain", written(_log_vars), "at most 2,000"),
    Case("4,000 identities before 4,000 custom layers", written(_identities), "has a cycle"),
    Case("4,000 layers downstream of z_mean", written(_after_z_mean), "is refused"),
    Case("20 models inside each other", written(_models_in_models), "nests too many models"),
    Case("2 million mentions of model_config in an .h5", written(_mentions, ".h5"),
         "its configuration is damaged"),
    Case("thousands of references to a heap of 260,000 objects", written(_heaps, ".h5"),
         "its configuration is damaged"),
    Case("an .h5 with its configuration misnamed",
         written(lambda: _hidden(_legacy('{"config": []}')), ".h5"), "holds weights only"),
    Case("a call on 50,000 tensors", written(_wide_call), "is refused"),
    Case("a model of 50,000 inputs", written(_many_inputs), "expected 1 to 100"),
    Case("16 MB of brackets", written(_brackets), "values, expected at most"),
    Case("30,000 layers", written(_many_layers), "more than 10,000 layers"),
    Case("control characters in a layer's name", graph(layer("Odd", ESCAPES, "x"),
         outputs=(ESCAPES,)), "is not a layer that latentdb supports"),
    Case("a layer's name of 1 MB", graph(layer("Odd", LONG, "x"), outputs=(LONG,)),
         "is not a layer that latentdb supports"),
    Case("a class name of 1 MB", graph(layer(LONG, "z_mean", "x")),
         "is not a layer that latentdb supports"),
    Case("an activation's name of 1 MB", graph(FLAT, layer("Activation", "z_mean", "flat",
         activation=LONG)), "which is not supported"),
    Case("a setting's name of 1 MB", one("Flatten", **{LONG: 5}), "that is not supported"),
    Case("control characters in an array's name", written(lambda: packed(
         model([image(), FLAT], "flat"), arrays(**{"a\x1b[2J\n": ["text"]}))), "is refused"),
)  # fmt: skip
