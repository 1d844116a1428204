"""What a fingerprint covers: weights, preprocessing, and since version 2 the computation."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentdb.base.errors import ModelError, ModelMismatchError
from latentdb.database import LatentDB
from latentdb.images.decode import Preprocessing
from latentdb.kerasfile.container import parse
from latentdb.kerasfile.runtime import load_keras, save
from latentdb.model.codec import Codec
from latentdb.model.config import ModelConfig
from latentdb.model.fingerprint import (
    VERSION,
    decoder_fingerprint,
    encoder_fingerprint,
    version_of,
)

SPEC = Preprocessing(8, 8, 1)


def encoder(
    activation: Any = "relu", *, strides: int = 2, names: tuple[str, str] = ("a", "b"),
    dropout: bool = False, swap: bool = False, initializer: str = "zeros",
) -> bytes:  # fmt: skip
    keras = load_keras()
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    hidden = layers.Conv2D(
        2, 3, strides=strides, padding="same", activation=activation, name=names[0],
        kernel_initializer=initializer,
    )(inputs)  # fmt: skip
    if dropout:
        hidden = layers.Dropout(0.5)(hidden)
    hidden = layers.GlobalAveragePooling2D()(hidden)
    outputs = [layers.Dense(3, name=f"{names[1]}{n}")(hidden) for n in range(2)]
    model = keras.Model(inputs, outputs[::-1] if swap else outputs)
    random = np.random.default_rng(0)
    for layer in sorted(model.layers, key=lambda layer: (type(layer).__name__, layer.name)):
        layer.set_weights([random.normal(size=array.shape) for array in layer.get_weights()])
    return save(model)


def fingerprint(data: bytes, version: int = VERSION) -> str:
    return encoder_fingerprint(parse(data, "it"), SPEC, version=version)


def test_what_is_computed_is_covered() -> None:
    first = fingerprint(encoder())
    assert first.startswith("v2:")
    for other in (
        encoder("tanh"),
        encoder(load_keras().layers.LeakyReLU(negative_slope=0.1)),
        encoder(load_keras().layers.LeakyReLU(negative_slope=0.2)),
        encoder(strides=1),
    ):
        assert fingerprint(other, 1) == fingerprint(encoder(), 1)  # the fault of version 1
        assert fingerprint(other) != first
    assert fingerprint(encoder(swap=True)) != first


def test_what_changes_nothing_is_not_covered() -> None:
    first = fingerprint(encoder())
    assert fingerprint(encoder(names=("x", "c"))) == first
    assert fingerprint(encoder(dropout=True)) == first
    assert fingerprint(encoder(initializer="he_normal")) == first
    # Two runs of one program: keras numbers the layers without a name.
    slopes = [encoder(load_keras().layers.LeakyReLU(negative_slope=0.1)) for _ in range(2)]
    assert fingerprint(slopes[0]) == fingerprint(slopes[1])


def edited(data: bytes, edit: Callable[[dict[str, Any]], None], path: Path) -> bytes:
    """A .keras file with another config.json."""
    path.write_bytes(data)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(path.with_suffix(".new"), "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                edit(config)
                content = json.dumps(config).encode()
            new.writestr(name, content)
    return path.with_suffix(".new").read_bytes()


def test_the_notation_of_another_keras_is_the_same(tmp_path: Path) -> None:
    def later(config: dict[str, Any]) -> None:
        for layer in config["config"]["layers"]:
            layer["config"]["new_setting"] = None
            layer["config"]["dtype"] = "float32"
            layer["build_config"] = {"made": "2031"}
            layer["module"] = "keras.src.layers.elsewhere"

    assert fingerprint(edited(encoder(), later, tmp_path / "m")) == fingerprint(encoder())


def test_a_saved_lambda_and_a_custom_activation_are_covered(tmp_path: Path) -> None:
    def function(name: str) -> Callable[[dict[str, Any]], None]:
        def edit(config: dict[str, Any]) -> None:
            convolution = config["config"]["layers"][1]
            convolution["class_name"], convolution["module"] = "Lambda", "keras.layers"
            convolution["config"] = {
                "name": "l", "function": {"class_name": "__lambda__", "config": {"code": name}},
            }  # fmt: skip

        return edit

    prints = [fingerprint(edited(encoder(), function(name), tmp_path / "m")) for name in "aab"]
    assert prints[0] == prints[1] != prints[2]


def test_a_hostile_configuration_is_an_error_of_latentdb(tmp_path: Path) -> None:
    def deep(config: dict[str, Any]) -> None:
        value: Any = 1
        for _ in range(600):
            value = [value]
        config["config"]["layers"][1]["config"]["units"] = value

    def cycle(config: dict[str, Any]) -> None:
        layers = config["config"]["layers"]
        layers[1]["inbound_nodes"] = layers[-1]["inbound_nodes"]
        layers[2]["inbound_nodes"][0]["args"][0]["config"]["keras_history"][0] = layers[1]["name"]

    for edit in (deep, cycle):
        data = edited(encoder(), edit, tmp_path / "m")
        limit = sys.getrecursionlimit()
        try:
            sys.setrecursionlimit(400)
            with pytest.raises(ModelError, match=r"is refused|is not"):
                fingerprint(data)
        finally:
            sys.setrecursionlimit(limit)


def test_versions_are_told_apart() -> None:
    assert version_of("0123456789abcdef") == 1
    assert version_of("v2:0123456789abcdef") == 2
    with pytest.raises(ModelError, match="has version 3, this latentdb knows versions up to 2"):
        version_of("v3:0123456789abcdef")


def with_version_1(model: Path, folder: Path) -> Path:
    """A model folder as versions before `VERSION` 2 wrote it."""
    shutil.copytree(model, folder)
    codec = Codec.from_folder(folder)
    spec = codec.config.preprocessing
    old = replace(
        codec.config,
        encoder_fingerprint=encoder_fingerprint(
            parse(codec.files["encoder.keras"], "e"), spec, version=1
        ),
        decoder_fingerprint=decoder_fingerprint(
            parse(codec.files["decoder.keras"], "d"), spec, version=1
        ),
    )
    (folder / "model.json").write_text(old.to_json())
    for name in ("encoder.onnx", "decoder.onnx"):
        (folder / name).unlink(missing_ok=True)
    compiled = Codec.from_folder(folder).compiled()
    for name, data in compiled.files.items():
        (folder / name).write_bytes(data)
    return folder


def test_an_old_store_keeps_its_fingerprint_and_its_compiled_files(
    model: Path, images: Path, tmp_path: Path
) -> None:
    old = with_version_1(model, tmp_path / "old")
    path = tmp_path / "old.ldb"
    with LatentDB.create(path, model=old) as db:
        db.index_images(images / "disc")
    assert LatentDB.verify(path).problems == ()
    with LatentDB.open(path) as db:
        assert version_of(db.codec.config.encoder_fingerprint) == 1
        assert db.codec._compiled.is_complete or "encoder.onnx" not in db.codec.files
        assert db.query(images / "disc/000.png", k=1)[0].id == "000.png"
        # The same model with a new fingerprint, and one of another architecture with the same old.
        assert db.index_images(images, model=model).added
        other = other_architecture(old, tmp_path / "other")
        with pytest.raises(ModelMismatchError, match="the decoder received has fingerprint v2:"):
            db.decode("000.png", model=other)


def other_architecture(model: Path, folder: Path) -> Path:
    """The same weights with another activation in the decoder, with the fingerprints of `model`."""
    shutil.copytree(model, folder)

    def edit(config: dict[str, Any]) -> None:
        for layer in config["config"]["layers"]:
            if layer["config"].get("activation") == "relu":
                layer["config"]["activation"] = "tanh"

    path = folder / "decoder.keras"
    path.write_bytes(edited(path.read_bytes(), edit, folder / "edited"))
    return folder


def test_another_architecture_is_refused_and_so_are_its_compiled_files(
    model: Path, tmp_path: Path
) -> None:
    other = other_architecture(model, tmp_path / "other")
    with pytest.raises(ModelError, match=r"the decoder in .* has fingerprint v2:"):
        Codec.from_folder(other)
    config = ModelConfig.from_json((other / "model.json").read_text(), "model.json")
    data = parse((other / "decoder.keras").read_bytes(), "d")
    actual = decoder_fingerprint(data, config.preprocessing)
    (other / "model.json").write_text(replace(config, decoder_fingerprint=actual).to_json())
    codec = Codec.from_folder(other)
    latents = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    if "decoder.onnx" in codec.files:
        with pytest.warns(RuntimeWarning, match="was compiled from a model with fingerprint"):
            decoded = codec.decode(latents)
    else:
        decoded = codec.decode(latents)
    assert not np.array_equal(decoded, Codec.from_folder(model).decode(latents))


def test_rows_move_between_stores_with_fingerprints_of_two_versions(
    model: Path, images: Path, tmp_path: Path
) -> None:
    old = with_version_1(model, tmp_path / "old")
    for name, folder in (("old", old), ("new", model)):
        with LatentDB.create(tmp_path / f"{name}.ldb", model=folder) as db:
            db.index_images(images / ("disc" if name == "old" else "square"))
            db.export(tmp_path / f"{name}.h5")
    for name, file in (("old", "new.h5"), ("new", "old.h5")):
        with LatentDB.open(tmp_path / f"{name}.ldb") as db:
            assert db.import_file(tmp_path / file, on_conflict="replace").replaced == 40


def test_reading_a_model_loads_no_tensorflow(model: Path) -> None:
    code = (
        "import sys; from latentdb.model.codec import Codec; Codec.from_folder(sys.argv[1])\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(model)], check=True)
