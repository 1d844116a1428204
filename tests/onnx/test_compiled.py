"""The compiled form of a model: equal to keras, left out where it is not."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentdb.base.errors import MissingExtraError, ModelError
from latentdb.model.codec import Codec
from latentdb.onnx import export, runtime
from latentdb.onnx.compiled import (
    DECODER_ONNX,
    ENCODER_ONNX,
    ONNX_FILES,
    CompiledModel,
    compile_model,
    compile_network,
    compiled_name,
    map_chunks,
)

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")


def images(codec: Codec, count: int) -> np.ndarray:
    shape = (count, *codec.config.preprocessing.shape)
    return np.random.default_rng(2).integers(0, 256, shape, np.uint8)


@pytest.fixture
def plain(model: Path, tmp_path: Path) -> Path:
    """The model without its compiled form."""
    folder = Path(shutil.copytree(model, tmp_path / "plain"))
    for name in ONNX_FILES:
        (folder / name).unlink()
    return folder


def test_training_compiles_encoder_and_decoder(model: Path) -> None:
    codec = Codec.from_folder(model)
    assert set(ONNX_FILES) <= set(codec.files)
    assert codec.compiled() is codec


@pytest.mark.parametrize("count", [0, 1, 300])
def test_the_compiled_form_gives_what_tensorflow_gives(
    model: Path, plain: Path, count: int
) -> None:
    compiled, reference = Codec.from_folder(model), Codec.from_folder(plain)
    pixels = images(compiled, count)
    found, expected = compiled.encode(pixels), reference.encode(pixels)
    assert not compiled.used_tensorflow
    assert reference.used_tensorflow or not count
    for left, right in zip(found, expected, strict=True):
        assert left is not None
        assert right is not None
        assert left.shape == right.shape == (count, 4)
        assert left.dtype == np.float32
        assert np.allclose(left, right, rtol=0, atol=1e-5 * max(1, np.abs(right).max(initial=0)))
    one, other = compiled.decode(expected[0]), reference.decode(expected[0])
    assert one.shape == other.shape
    assert np.abs(one.astype(int) - other).max(initial=0) <= 1
    assert np.count_nonzero(one != other) <= one.size / 1000


def test_a_model_is_compiled_on_demand(plain: Path) -> None:
    codec = Codec.from_folder(plain)
    made = codec.compiled()
    assert set(made.files) - set(codec.files) == set(ONNX_FILES)
    assert not made._compiled.encoder is made._compiled.decoder is None
    # The sampling layer draws random numbers: it is cut off.
    file = onnx.load_from_string(made.files[ENCODER_ONNX])
    assert not [node for node in file.graph.node if "Random" in node.op_type]
    assert len(file.graph.output) == 2


def test_without_the_extra_tensorflow_is_used_silently(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_is_installed", lambda name: False)
    codec = Codec.from_folder(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert codec.compiled() is codec
        codec.encode(images(codec, 2))
    assert codec.used_tensorflow


def test_a_compiled_form_that_differs_is_refused() -> None:
    traced = False

    def run(values: Any) -> Any:
        """Times 1 when it is exported, times 1.001 when it is compared."""
        nonlocal traced
        factor, traced = (1.001 if traced else 1.0), True
        return [values * factor]

    batch = np.ones((3, 4), np.float32)
    with pytest.raises(ModelError, match=r"compiled encoder differs from keras by 1\.0e-03"):
        compile_network(run, batch, name="encoder", fingerprint="f", precision="float32")


def test_an_encoder_that_cannot_be_compiled_leaves_the_decoder() -> None:
    import tensorflow as tf

    def sampled(values: Any) -> Any:
        return [values + tf.random.normal((4,), seed=1)]

    def plain(values: Any) -> Any:
        return [values * tf.constant(2.0)]

    batch = np.ones((3, 4), np.float32)
    files, problems = compile_model(batch, (sampled, "f"), (plain, "g"), "float32")
    assert set(files) == {DECODER_ONNX}
    assert len(problems) == 1
    assert problems[0].endswith(
        "'RandomNormal' is not on the list of allowed operators; tensorflow is used instead"
    )


def test_the_compiled_form_of_another_model_is_reported_and_not_used(model: Path) -> None:
    files = Codec.from_folder(model).files
    other = CompiledModel(files, "0" * 16, None, "float32")
    assert not other.is_complete
    with pytest.warns(RuntimeWarning, match=r"encoder\.onnx was compiled from.*tensorflow is used"):
        assert other.encoder is None
    assert other.decoder is None


def test_a_forged_compiled_form_is_reported_and_not_used(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "forged"))
    forged = onnx.load(folder / ENCODER_ONNX)
    tensor = forged.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    (folder / ENCODER_ONNX).write_bytes(forged.SerializeToString())
    codec = Codec.from_folder(folder)
    with pytest.warns(RuntimeWarning, match="it has weights in another file.*; tensorflow is used"):
        z_mean = codec.encode(images(codec, 2))[0]
    assert codec.used_tensorflow
    assert np.allclose(z_mean, Codec.from_folder(model).encode(images(codec, 2))[0], atol=1e-5)
    # A new compilation replaces it.
    assert codec.compiled().files[ENCODER_ONNX] != codec.files[ENCODER_ONNX]


def test_an_encoder_of_flattened_images_is_compiled(tmp_path: Path) -> None:
    from latentdb.kerasfile.runtime import load_keras

    keras = load_keras()
    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(5, activation="relu")(inputs)
    keras.Model(inputs, keras.layers.Dense(3, name="mu")(hidden)).save(tmp_path / "e.keras")
    codec = Codec.from_files(tmp_path / "e.keras")
    made = codec.compiled()
    assert set(made.files) & set(ONNX_FILES) == {ENCODER_ONNX}
    assert made._compiled.is_complete
    pixels = images(codec, 40)
    assert np.allclose(made.encode(pixels)[0], codec.encode(pixels)[0], atol=1e-5)
    assert made.encode(pixels)[1] is None


def test_precision_is_part_of_the_config(model: Path) -> None:
    codec = Codec.from_folder(model)
    assert codec.config.precision == "float32"
    assert "precision" not in codec.config.to_json()  # older versions still read it
    if not _has_bf16():
        with pytest.raises((ModelError, MissingExtraError), match="bf16"):
            codec.with_precision("bf16")
        return
    low = codec.with_precision("bf16")
    low.check_precision()
    assert type(low.config).from_json(low.config.to_json(), "it") == low.config
    pixels = images(codec, 40)
    worst = np.abs(low.encode(pixels)[0] - codec.encode(pixels)[0]).max()
    assert 1e-5 < worst < 0.1


def test_bf16_elsewhere_is_reported_and_float32_is_used(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = Codec.from_folder(model)
    files, config = codec.files, codec.config
    fingerprints = (config.encoder_fingerprint, config.decoder_fingerprint)
    monkeypatch.setattr(runtime, "_is_installed", lambda name: name != "openvino")
    low = CompiledModel(files, *fingerprints, "bf16")
    with pytest.warns(RuntimeWarning, match="this store is in bf16, float32 is used here"):
        assert low.encoder is not None
    assert low.encoder.precision == "float32"
    with pytest.raises(MissingExtraError, match="bf16"):
        low.check_precision()


def _has_bf16() -> bool:
    try:
        runtime.check_precision("bf16")
    except (ModelError, MissingExtraError):
        return False
    return True


def test_names_in_a_store() -> None:
    assert compiled_name("model/encoder.onnx") == ENCODER_ONNX
    assert compiled_name("model/0af3.decoder.onnx") == DECODER_ONNX
    assert compiled_name("model/encoder.keras") is None
    assert compiled_name("model/myencoder.onnx") is None


def test_chunks_without_a_network_are_batches_of_tensorflow() -> None:
    parts = list(map_chunks(None, lambda part: part, 600))
    assert [(part.start, part.stop) for part in parts] == [(0, 256), (256, 512), (512, 768)]


def test_nothing_is_compiled_without_tf2onnx(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "is_available", lambda: False)
    codec = Codec.from_folder(plain)
    assert codec.compiled() is codec
