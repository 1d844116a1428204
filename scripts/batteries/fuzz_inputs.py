"""Input for `fuzz`: changes of bytes and of JSON, and small files of every format made by code."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

_NUMBERS = (0, 1, 2, 3, 7, 127, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62,
            2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
_TEXTS = ("", "x", "é\u202e", "a\0b", "\ud800", "a\nb", "../x", "/etc/passwd", "x" * 5000, "[1",
          "<f4", "(2,)f4", "f4,f4", "O", "V8", "nan", "1e999", "9" * 5000, "int32, ,",
          "int32[")  # fmt: skip
# Python's JSON takes NaN and integers of any length; a mark stands for what nests too deeply.
_DEEP = "@deep@"
_ODD: tuple[Any, ...] = (
    None, True, False, -1, 0.5, -0.0, 1e308, 10**30, 10**400, float("nan"), float("inf"), [], {},
    [[]], [None], [1, 2, 3], {"a": 1}, [[1]], {"class_name": "x", "config": {}}, _DEEP,
    *_NUMBERS, *_TEXTS,
)  # fmt: skip


@st.composite
def changed(
    draw: Callable[[st.SearchStrategy[Any]], Any],
    samples: Sequence[bytes],
    tokens: Sequence[bytes] = (),
) -> bytes:
    """A sample with one to four changes; tokens are put in whole."""
    data: bytes = draw(st.sampled_from(samples))
    kinds = ["byte", "bit", "number", "zeros", "cut", "drop", "again", "splice"]
    kinds += ["token"] * 4 if tokens else []
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 4)))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        size = draw(st.sampled_from((1, 2, 4, 8, 32, 512)))
        how = draw(st.sampled_from(kinds))
        if how == "byte":
            new, end = bytes([draw(st.integers(0, 255))]), at + 1
        elif how == "bit":
            new, end = bytes([data[at] ^ 1 << draw(st.integers(0, 7))]), at + 1
        elif how == "number":
            size = min(size, 8)
            number = draw(st.sampled_from(_NUMBERS)) % 256**size
            new, end = number.to_bytes(size, draw(st.sampled_from(("little", "big")))), at + size
        elif how == "zeros":
            new, end = bytes(size), at + size
        elif how == "cut":
            new, end = b"", len(data)
        elif how == "drop":
            new, end = b"", at + size
        elif how == "again":
            new, end = data[at : at + size] * draw(st.integers(2, 50)), at + size
        elif how == "splice":
            other = draw(st.sampled_from(samples))
            start = draw(st.integers(0, len(other) - 1))
            new, end = other[start : start + size], at + size
        else:
            new = draw(st.sampled_from(tokens))
            end = at + draw(st.sampled_from((0, len(new))))
        data = data[:at] + new + data[end:]
    return data


@st.composite
def changed_json(draw: Callable[[st.SearchStrategy[Any]], Any], document: Any) -> Any:
    """A JSON document with one to three values replaced, removed, moved or added."""
    whole = [copy.deepcopy(document)]
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        nodes = list(_nodes(whole))
        holder, key = nodes[draw(st.integers(0, len(nodes) - 1))]
        how = draw(st.sampled_from(("odd", "odd", "number", "other", "drop", "twice")))
        if how == "odd":
            holder[key] = copy.deepcopy(draw(st.sampled_from(_ODD)))
        elif how == "number" and type(holder[key]) in (int, float):
            holder[key] += draw(st.sampled_from((-1, 1, 0.5, -(2**31), 2**40)))
        elif how == "other":
            other, name = nodes[draw(st.integers(0, len(nodes) - 1))]
            holder[key] = copy.deepcopy(other[name])
        elif how == "drop" and holder is not whole:
            del holder[key]
        elif how == "twice" and isinstance(holder, list) and holder is not whole:
            holder.insert(key, copy.deepcopy(holder[key]))
        elif isinstance(holder, dict):
            holder[draw(st.sampled_from(_TEXTS))] = copy.deepcopy(holder[key])
    return whole[0]


def _nodes(holder: Any) -> Iterator[tuple[Any, Any]]:
    """Every value of a document, as what holds it and its key there."""
    pairs = holder.items() if isinstance(holder, dict) else enumerate(holder)
    for key, value in list(pairs):
        yield holder, key
        if isinstance(value, dict | list):
            yield from _nodes(value)


def dump_json(document: Any) -> str:
    """As text, in which the mark of deep nesting nests."""
    return json.dumps(document).replace(f'"{_DEEP}"', "[" * 50_000 + "]" * 50_000)


def is_deep(document: Any) -> bool:
    """Whether the document nests so deeply that no checksum of it can be computed."""
    return _DEEP in json.dumps(document)


# --- models -------------------------------------------------------------------------------


def onnx_file(operators: Sequence[str] = ("MatMul", "Relu"), fingerprint: str = "abc") -> bytes:
    """``y = relu(x @ w)`` in protobuf, by the field numbers of onnx.proto."""
    names = ["x", *(f"h{number}" for number in range(1, len(operators))), "y"]
    nodes = b""
    for number, operator in enumerate(operators):
        inputs = [names[number], "w"] if operator == "MatMul" else [names[number]]
        node = b"".join(_field(1, name) for name in inputs) + _field(2, names[number + 1])
        nodes += _field(1, node + _field(4, operator))
    weights = np.eye(4, dtype="<f4")
    tensor = _field(1, 4) * 2 + _field(2, 1) + _field(8, "w") + _field(9, weights.tobytes())
    graph = nodes + _field(2, "network") + _field(5, tensor)
    for number, name in ((11, "x"), (12, "y")):
        shape = _field(1, _field(2, "n")) + _field(1, _field(1, 4))
        graph += _field(
            number, _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, shape)))
        )
    entry = _field(1, "fingerprint") + _field(2, fingerprint)
    opset = _field(1, "") + _field(2, 17)
    return _field(1, 8) + _field(7, graph) + _field(8, opset) + _field(14, entry)


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    digits = b""
    while value > 0x7F:
        digits += bytes([value & 0x7F | 0x80])
        value >>= 7
    return digits + bytes([value])


def _layer(kind: str, name: str, *before: str, **settings: Any) -> dict[str, Any]:
    tensors = [
        {"class_name": "__keras_tensor__", "config": {"keras_history": [one, 0, 0]}}
        for one in before
    ]
    args = [tensors] if len(tensors) > 1 else tensors
    nodes = [{"args": args, "kwargs": {"mask": None}}] if before else []
    return {"class_name": kind, "module": "keras.layers", "config": {"name": name, **settings},
            "name": name, "registered_name": None, "inbound_nodes": nodes}  # fmt: skip


def _model(name: str, layers: list[Any], inputs: str, *outputs: str) -> dict[str, Any]:
    config = {"name": name, "layers": layers, "input_layers": [[inputs, 0, 0]],
              "output_layers": [[out, 0, 0] for out in outputs]}  # fmt: skip
    return {"class_name": "Functional", "module": "keras", "config": config, "name": name}


def keras_config() -> dict[str, Any]:
    """A whole variational autoencoder as keras 3 describes it."""
    encoder = _model(
        "encoder",
        [
            _layer("InputLayer", "x", batch_shape=[None, 4, 4, 1]),
            _layer("Rescaling", "scale", "x", scale=1 / 255, offset=0.0),
            _layer("Conv2D", "conv", "scale", filters=2, kernel_size=[3, 3], strides=[1, 1],
                   padding="same", activation="relu", use_bias=True, groups=1),
            _layer("Dropout", "drop", "conv", rate=0.5),
            _layer("Flatten", "flat", "drop"),
            _layer("Dense", "z_mean", "flat", units=2, activation="linear", use_bias=True),
            _layer("Dense", "z_log_var", "flat", units=2, activation="linear", use_bias=True),
            _layer("Sampling", "z", "z_mean", "z_log_var"),
        ],
        "x", "z_mean", "z_log_var", "z",
    )  # fmt: skip
    decoder = _model(
        "decoder",
        [
            _layer("InputLayer", "z_in", batch_shape=[None, 2]),
            _layer("Dense", "pixels", "z_in", units=16, activation="sigmoid", use_bias=True),
            _layer("Reshape", "image", "pixels", target_shape=[4, 4, 1]),
        ],
        "z_in", "image",
    )  # fmt: skip
    image = _layer("InputLayer", "image", batch_shape=[None, 4, 4, 1])
    encoder["inbound_nodes"] = _layer("", "", "image")["inbound_nodes"]
    decoder["inbound_nodes"] = _layer("", "", "encoder")["inbound_nodes"]
    decoder["inbound_nodes"][0]["args"][0]["config"]["keras_history"] = ["encoder", 0, 2]
    return _model("vae", [image, encoder, decoder], "image", "decoder")


def legacy_config() -> dict[str, Any]:
    """An encoder as Keras 2 described it."""

    def node(name: str) -> list[Any]:
        return [[[name, 0, 0, {}]]]

    layers = [
        {"class_name": "InputLayer", "name": "x", "inbound_nodes": [],
         "config": {"name": "x", "batch_input_shape": [None, 4]}},
        {"class_name": "Dense", "name": "z_mean", "inbound_nodes": node("x"),
         "config": {"name": "z_mean", "units": 2, "activation": "linear"}},
        {"class_name": "Dense", "name": "z_log_var", "inbound_nodes": node("x"),
         "config": {"name": "z_log_var", "units": 2, "activation": "linear"}},
    ]  # fmt: skip
    return _model("encoder", layers, "x", "z_mean", "z_log_var")


def keras_file(config: str, weights: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    """A ``.keras`` file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("config.json", config.encode(errors="surrogatepass"))
        archive.writestr("model.weights.h5", weights)
    return buffer.getvalue()


def legacy_file(config: str, *, fixed: bool = False) -> bytes:
    """An ``.h5`` file of a model, whose configuration has a fixed or a variable length."""
    import h5py

    text = config.encode(errors="surrogatepass").replace(b"\0", b"")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        # Over 64 KiB no attribute is written; the reader has seen such text in the zip.
        value = np.bytes_(text[:60_000]) if fixed else text[:60_000].decode(errors="replace")
        file.attrs["model_config"] = value
        for name in ("z_mean", "z_log_var"):
            file[f"model_weights/{name}/{name}/kernel:0"] = np.ones((4, 2), np.float32)
            file[f"model_weights/{name}/{name}/bias:0"] = np.ones(2, np.float32)
    return buffer.getvalue()


def keras_weights() -> bytes:
    """The arrays of `keras_config` in a ``.keras`` file."""
    import h5py

    layers = "layers/functional/layers/"
    shapes = {"conv2d": (3, 3, 1, 2), "dense": (32, 2), "dense_1": (32, 2)}
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, shape in shapes.items():
            file[f"{layers}{name}/vars/0"] = np.ones(shape, np.float32)
            file[f"{layers}{name}/vars/1"] = np.ones(shape[-1:], np.float32)
        file["layers/functional_1/layers/dense/vars/0"] = np.ones((2, 16), np.float32)
        file["layers/functional_1/layers/dense/vars/1"] = np.ones(16, np.float32)
    return buffer.getvalue()


# --- images -------------------------------------------------------------------------------


def image_files() -> list[bytes]:
    """Small images of every format, mode and kind of compression that is read."""
    from PIL import Image

    values = np.random.default_rng(0).integers(0, 255, (24, 20, 4), np.uint8)
    rgba = Image.fromarray(values)
    grey16 = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    ways: list[tuple[str, str, dict[str, Any]]] = [
        ("JPEG", "RGB", {"exif": exif}), ("JPEG", "L", {"progressive": True}), ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"subsampling": 2, "restart_marker_blocks": 2}), ("PNG", "RGBA", {}),
        ("PNG", "P", {"transparency": 3}), ("PNG", "1", {}), ("PNG", "LA", {}), ("WEBP", "RGB", {}),
        ("WEBP", "RGBA", {"lossless": True, "exif": exif}), ("GIF", "P", {}), ("BMP", "RGB", {}),
        ("BMP", "1", {}), ("BMP", "P", {}), ("TIFF", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "L", {"compression": "jpeg"}),
        ("TIFF", "1", {"compression": "group4"}),
        ("TIFF", "RGB", {"compression": "tiff_adobe_deflate", "exif": exif}), ("TIFF", "F", {}),
    ]  # fmt: skip
    files = []
    for kind, mode, options in ways:
        buffer = io.BytesIO()
        rgba.convert("RGB").convert(mode).save(buffer, kind, **options)
        files.append(buffer.getvalue())
    for kind in ("PNG", "TIFF"):
        buffer = io.BytesIO()
        grey16.save(buffer, kind)
        files.append(buffer.getvalue())
    buffer = io.BytesIO()
    frames = [rgba.convert("RGB"), rgba.convert("RGB").rotate(90)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return [*files, buffer.getvalue()]
