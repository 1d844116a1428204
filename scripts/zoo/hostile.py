"""Malicious and damaged model files: each is refused in one line, and no code runs."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from latentdb.kerasfile.runtime import load_keras
from zoo.case import Case, ModelFiles
from zoo.honest import GREY, Pair, with_random_weights


def plain(folder: Path, suffix: str = ".keras") -> Path:
    keras = load_keras()
    layers = keras.layers
    inputs = keras.Input(GREY)
    x = layers.Dense(8, activation="relu", name="hidden")(layers.Flatten(name="flatten")(inputs))
    model = keras.Model(inputs, layers.Dense(4, name="z_mean")(x))
    path = folder / f"encoder{suffix}"
    with_random_weights(model).save(path)
    return path


def rewritten(
    path: Path,
    *,
    config: Callable[[dict[str, Any]], Any] | None = None,
    weights: Callable[[h5py.File], None] | None = None,
    raw: Callable[[bytes], bytes] | None = None,
    packed: bool = False,
) -> ModelFiles:
    """A .keras file with its configuration or its weights changed."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    if config is not None:
        document = json.loads(files["config.json"])
        files["config.json"] = json.dumps(config(document) or document).encode()
    if raw is not None:
        files["config.json"] = raw(files["config.json"])
    if weights is not None:
        buffer = io.BytesIO(files["model.weights.h5"])
        with h5py.File(buffer, "r+") as file:
            weights(file)
        files["model.weights.h5"] = buffer.getvalue()
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return ModelFiles(path)


def layer_of(config: dict[str, Any], name: str) -> dict[str, Any]:
    found = (one for one in config["config"]["layers"] if one["config"]["name"] == name)
    layer: dict[str, Any] = next(found)
    return layer


def _set(name: str, **settings: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        layer_of(config, name)["config"].update(settings)

    return change


def _lambda_upstream(folder: Path, suffix: str) -> ModelFiles:
    marker = folder / "it-ran"
    keras = load_keras()
    layers = keras.layers
    inputs = keras.Input(GREY)

    # Keras saves the code of a lambda, and only the name of a function that has one.
    marker_path = str(marker)
    write = lambda x: (open(marker_path, "w").close(), x)[1]  # noqa: E731
    x = layers.Lambda(write, name="scale", output_shape=GREY)(inputs)
    z_mean = layers.Dense(4, name="z_mean")(layers.Flatten()(x))
    keras.Model(inputs, z_mean).save(folder / f"encoder{suffix}")
    marker.unlink(missing_ok=True)  # keras ran it to build the model
    return ModelFiles(folder / f"encoder{suffix}", marker=marker)


def _class_upstream(folder: Path) -> ModelFiles:
    keras = load_keras()

    class Attention(keras.layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any) -> Any:
            return inputs * 2.0

    inputs = keras.Input(GREY)
    x = keras.layers.Flatten()(Attention()(inputs))
    keras.Model(inputs, keras.layers.Dense(4, name="z_mean")(x)).save(folder / "encoder.keras")
    return ModelFiles(folder / "encoder.keras")


def _bomb(folder: Path) -> ModelFiles:
    pad = b" " * (250 << 20)
    return rewritten(plain(folder), raw=lambda text: text[:-1] + pad + b"}", packed=True)


def _weights_bomb(folder: Path) -> ModelFiles:
    path = plain(folder)
    with zipfile.ZipFile(path) as archive:
        config = archive.read("config.json")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", config)
        with archive.open("model.weights.h5", "w", force_zip64=True) as stream:
            for _ in range(300):
                stream.write(bytes(1 << 20))
    return ModelFiles(path)


def _replace(name: str, make: Callable[[h5py.Group, str], None]) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        group, _, last = name.rpartition("/")
        del file[name]
        make(file[group], last)

    return change


_KERNEL = "layers/dense/vars/0"


def _external_link(folder: Path) -> ModelFiles:
    return rewritten(
        plain(folder),
        weights=_replace(
            _KERNEL, lambda group, last: group.__setitem__(last, h5py.ExternalLink("/x.h5", "/x"))
        ),
    )


def _external_storage(folder: Path) -> ModelFiles:
    def make(group: h5py.Group, last: str) -> None:
        group.create_dataset(last, (784, 8), "f4", external=[("/etc/passwd", 0, 784 * 8 * 4)])

    return rewritten(plain(folder), weights=_replace(_KERNEL, make))


def _virtual(folder: Path) -> ModelFiles:
    def make(group: h5py.Group, last: str) -> None:
        layout = h5py.VirtualLayout((784, 8), "f4")
        layout[:] = h5py.VirtualSource("/x.h5", "x", (784, 8))
        group.create_virtual_dataset(last, layout)

    return rewritten(plain(folder), weights=_replace(_KERNEL, make))


def _huge_declared(folder: Path) -> ModelFiles:
    def make(group: h5py.Group, last: str) -> None:
        group.create_dataset(last, (2_000_000_000, 8), "f4")

    return rewritten(plain(folder), weights=_replace(_KERNEL, make))


def _shapes(folder: Path) -> ModelFiles:
    def make(group: h5py.Group, last: str) -> None:
        group.create_dataset(last, data=np.zeros((784, 9), np.float32))

    return rewritten(plain(folder), weights=_replace(_KERNEL, make))


def _cut(folder: Path) -> ModelFiles:
    path = plain(folder)
    path.write_bytes(path.read_bytes()[:-2000])
    return ModelFiles(path)


def _cut_h5(folder: Path) -> ModelFiles:
    path = plain(folder, ".h5")
    path.write_bytes(path.read_bytes()[:9000])
    return ModelFiles(path)


def _weights_only(folder: Path) -> ModelFiles:
    vae = Pair()
    vae.encoder.save_weights(folder / "encoder.weights.h5")
    return ModelFiles(folder / "encoder.weights.h5")


def _saved_model(folder: Path) -> ModelFiles:
    (folder / "encoder").mkdir()
    (folder / "encoder" / "saved_model.pb").write_bytes(b"\x08\x01")
    return ModelFiles(folder / "encoder")


def _cycle(folder: Path) -> ModelFiles:
    def change(config: dict[str, Any]) -> None:
        node = layer_of(config, "flatten")["inbound_nodes"][0]
        node["args"][0]["config"]["keras_history"] = ["hidden", 0, 0]

    return rewritten(plain(folder), config=change)


def _doubling(folder: Path) -> ModelFiles:
    """Nested models, each calling the next twice: 2 to the power of 14 calls."""

    def node(name: str, number: int = 0) -> dict[str, Any]:
        tensor = {"shape": [None, 4], "dtype": "float32", "keras_history": [name, number, 0]}
        return {"args": [{"class_name": "__keras_tensor__", "config": tensor}], "kwargs": {}}

    start = {
        "class_name": "InputLayer",
        "module": "keras.layers",
        "inbound_nodes": [],
        "name": "in",
        "config": {"name": "in", "batch_shape": [None, 28, 28, 1]},
    }
    model: dict[str, Any] = {
        "class_name": "Activation",
        "module": "keras.layers",
        "config": {"name": "f", "activation": "relu"},
    }
    for _ in range(14):
        inner = {**model, "name": "f", "inbound_nodes": [node("in"), node("f", 0)]}
        config = {
            "name": "f",
            "layers": [start, inner],
            "input_layers": [["in", 0, 0]],
            "output_layers": [["f", 1, 0]],
        }
        model = {"class_name": "Functional", "module": "keras", "config": config}
    return rewritten(plain(folder), config=lambda _: model)


def _widened(folder: Path) -> ModelFiles:
    def change(config: dict[str, Any]) -> None:
        flat = layer_of(config, "flatten")
        grown = {"class_name": "UpSampling2D", "module": "keras.layers", "name": "grown",
                 "config": {"name": "grown", "size": [100_000, 100_000]},
                 "inbound_nodes": flat["inbound_nodes"]}  # fmt: skip
        node = json.loads(json.dumps(flat["inbound_nodes"]))
        node[0]["args"][0]["config"]["keras_history"] = ["grown", 0, 0]
        flat["inbound_nodes"] = node
        config["config"]["layers"].append(grown)

    return rewritten(plain(folder), config=change)


def _initializer(folder: Path) -> ModelFiles:
    """A function to import as an initializer: it is ignored."""
    marker = folder / "it-ran"
    keras = load_keras()
    path = plain(folder)
    model = keras.saving.load_model(path)
    evil = {"module": "os", "class_name": "system", "config": {"command": f"touch {marker}"}}
    rewritten(path, config=_set("hidden", kernel_initializer=evil, kernel_regularizer=evil))
    return ModelFiles(path, lambda x: model(x), GREY, marker=marker)


def _with_settings(name: str, **settings: Any) -> Callable[[Path], ModelFiles]:
    return lambda folder: rewritten(plain(folder), config=_set(name, **settings))


_FUNCTION = {"module": "os", "class_name": "function", "config": "system", "registered_name": None}

HOSTILE = (
    Case("Lambda upstream that writes a file", lambda f: _lambda_upstream(f, ".keras"),
         "Lambda 'scale' is code in the file"),
    Case("the same as .h5", lambda f: _lambda_upstream(f, ".h5"),
         "Lambda 'scale' is code in the file"),
    Case("custom layer upstream", _class_upstream, "is not a layer that latentdb supports"),
    Case("os.system as an initializer", _initializer),
    Case("os.system as an activation", _with_settings("hidden", activation=_FUNCTION),
         "activation 'system', which is not supported"),
    Case("units=2e9 in the configuration", _with_settings("hidden", units=2_000_000_000),
         "needs kernel of shape [784, 2000000000], the file holds [784, 8]"),
    Case("up-sampling by 100,000", _widened, "for one image, at most"),
    Case("configuration of 250 MB, packed into 245 KB", _bomb, "expected at most 16,777,216"),
    Case("weights of 300 MB, packed into 300 KB", _weights_bomb, "times as many"),
    Case("external link in the weights", _external_link, "is a soft or external link"),
    Case("external storage in the weights", _external_storage, "has external storage"),
    Case("virtual data set in the weights", _virtual, "is virtual"),
    Case("weights that declare 64 GB", _huge_declared, "of which the file holds"),
    Case("weights of another shape", _shapes, "needs kernel of shape [784, 8], the file holds"),
    Case("graph with a cycle", _cycle, "has a cycle"),
    Case("nested models, 16,384 calls", _doubling, "or more than 10,000 steps"),
    Case("truncated .keras", _cut, "is not a .keras model file"),
    Case("truncated .h5", _cut_h5, "is not an .h5 model file"),
    Case("weights only", _weights_only, "holds weights only"),
    Case("SavedModel folder", _saved_model, "is a SavedModel without Keras's configuration"),
)  # fmt: skip
