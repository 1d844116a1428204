"""Files of other people are converted without running their code."""

from __future__ import annotations

import functools
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentdb.base.errors import ModelError, UntrustedModelError
from latentdb.kerasfile.convert import convert, image_shape, load_model
from latentdb.kerasfile.runtime import load_keras
from latentdb.model.codec import Codec
from latentdb.model.config import ModelOptions
from zoo.excess import packed

SHAPE = (8, 8, 1)


def pixels(shape: tuple[int, ...] = SHAPE, count: int = 5) -> Any:
    return np.random.default_rng(2).integers(0, 256, (count, *shape), np.uint8)


@pytest.mark.parametrize(
    ("shape", "size", "channels", "expected"),
    [
        ((28, 20, 3), None, None, (28, 20, 3)),
        ((28, 28), None, None, (28, 28, 1)),
        ((784,), None, None, (28, 28, 1)),
        ((3072,), None, None, (32, 32, 3)),
        ((768,), None, 3, (16, 16, 3)),
        ((200,), (10, 20), None, (10, 20, 1)),
        ((600,), (10, 20), None, (10, 20, 3)),
        ((None, None, 3), (64, 64), None, (64, 64, 3)),
    ],
)
def test_the_size_of_images_follows_from_the_input(
    shape: Any, size: Any, channels: Any, expected: Any
) -> None:
    assert image_shape(shape, (size, channels), "it") == expected


@pytest.mark.parametrize(
    ("shape", "size"), [((None, None, 3), None), ((7,), None), ((2, 3, 4, 5), None), ((7,), (2, 2))]
)
def test_an_ambiguous_size_is_refused(shape: Any, size: Any) -> None:
    with pytest.raises(ModelError, match="give --image-size and --channels"):
        image_shape(shape, (size, None), "it")


def test_the_converted_encoder_has_no_sampling_and_loads_again(tmp_path: Path) -> None:
    keras = load_keras()
    layers = keras.layers
    inputs = keras.Input(SHAPE)
    hidden = layers.Flatten()(inputs)
    mu = layers.Dense(3, name="mu")(hidden)
    noisy = layers.Lambda(lambda x: x * 2, name="noise")(mu)
    keras.Model(inputs, [mu, noisy]).save(tmp_path / "e.keras")
    converted = convert(tmp_path / "e.keras")
    assert b"noise" not in converted.encoder
    assert b"Lambda" not in converted.encoder
    names = [layer.name for layer in load_model(converted.encoder, "it").layers]
    assert "mu" in names
    assert "noise" not in names


def test_a_second_input_is_refused(tmp_path: Path) -> None:
    keras = load_keras()
    first, second = keras.Input((4,), name="image"), keras.Input((4,), name="label")
    joined = keras.layers.Concatenate()([first, second])
    keras.Model([first, second], keras.layers.Dense(2, name="mu")(joined)).save(
        tmp_path / "e.keras"
    )
    with pytest.raises(ModelError, match=r"depends on 2 inputs \(image, label\)"):
        convert(tmp_path / "e.keras")


def test_a_z_mean_that_is_no_vector_is_refused(tmp_path: Path) -> None:
    keras = load_keras()
    inputs = keras.Input(SHAPE)
    keras.Model(inputs, keras.layers.Conv2D(2, 3, name="mu")(inputs)).save(tmp_path / "e.keras")
    with pytest.raises(ModelError, match=r"'mu' of .* gives \[6, 6, 2\] for an image"):
        convert(tmp_path / "e.keras")


def test_shared_layers_are_built_once(tmp_path: Path) -> None:
    keras = load_keras()
    inputs = keras.Input(SHAPE)
    shared = keras.layers.Dense(64, name="twice")
    model = keras.Model(inputs, shared(shared(keras.layers.Flatten()(inputs))))
    model.save(tmp_path / "e.keras")
    rebuilt = load_model(convert(tmp_path / "e.keras").encoder, "it")
    assert rebuilt.count_params() == model.count_params()
    values = np.random.default_rng(0).random((3, *SHAPE)).astype(np.float32)
    assert np.array_equal(np.asarray(rebuilt(values)), np.asarray(model(values)))


def test_mixed_precision_is_built_in_float32(tmp_path: Path) -> None:
    keras = load_keras()
    inputs = keras.Input(SHAPE)
    hidden = keras.layers.Flatten()(inputs)
    mu = keras.layers.Dense(3, name="mu", dtype="mixed_float16")(hidden)
    model = keras.Model(inputs, mu)
    model.save(tmp_path / "e.keras")
    rebuilt = load_model(convert(tmp_path / "e.keras").encoder, "it")
    values = np.random.default_rng(0).random((3, *SHAPE)).astype(np.float32)
    assert np.asarray(rebuilt(values)).dtype == np.float32
    assert np.allclose(np.asarray(rebuilt(values)), np.asarray(model(values)), atol=5e-3)


@pytest.mark.parametrize("make", ["rescaling", "division"])
def test_an_encoder_that_divides_takes_bytes(tmp_path: Path, make: str) -> None:
    keras = load_keras()
    inputs = keras.Input(SHAPE)
    scaled = keras.layers.Rescaling(1 / 255)(inputs) if make == "rescaling" else inputs / 255.0
    keras.Model(inputs, keras.layers.Flatten(name="mu")(scaled)).save(tmp_path / "e.keras")
    codec = Codec.from_files(tmp_path / "e.keras")
    assert codec.config.preprocessing.pixel_range == "0..255:0..1"
    given = pixels()
    assert np.allclose(codec.encode(given)[0], given.reshape(5, -1) / 255.0, atol=1e-6)


def with_lambda(folder: Path, marker: Path) -> Path:
    """An encoder with code before z_mean that writes a file whenever it runs."""
    keras = load_keras()

    # Keras saves the code of a lambda, and only the name of a function that has one.
    marker_path = str(marker)
    half = lambda x: (open(marker_path, "w").close(), x * 0.5)[1]  # noqa: E731
    inputs = keras.Input(SHAPE)
    x = keras.layers.Lambda(half, name="half", output_shape=SHAPE)(inputs)
    keras.Model(inputs, keras.layers.Flatten(name="z_mean")(x)).save(folder / "e.keras")
    marker.unlink(missing_ok=True)
    return folder / "e.keras"


def test_code_runs_only_with_trust(tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    path = with_lambda(tmp_path, marker)
    with pytest.raises(
        UntrustedModelError, match=r"Lambda 'half' is code in the file; .* --trust-"
    ):
        Codec.from_files(path)
    assert not marker.exists()
    codec = Codec.from_files(path, options=ModelOptions(trust_model=True))
    assert marker.exists()
    assert "the code in" in codec.notes[-1]
    given = pixels()
    assert np.allclose(codec.encode(given)[0], given.reshape(5, -1) / 510.0, atol=1e-6)
    marker.unlink(missing_ok=True)
    again = Codec.from_bytes(codec.config, codec.files["encoder.keras"], None, name="it")
    with pytest.raises(UntrustedModelError, match="'half' is code in the file"):
        again.encode(given)
    assert not marker.exists()
    trusted = Codec.from_bytes(
        codec.config, codec.files["encoder.keras"], None, name="it", trust_model=True
    )
    assert np.array_equal(trusted.encode(given)[0], codec.encode(given)[0])


def test_trust_in_a_file_without_code_changes_nothing(tmp_path: Path) -> None:
    keras = load_keras()
    inputs = keras.Input(SHAPE)
    keras.Model(inputs, keras.layers.Flatten(name="z_mean")(inputs)).save(tmp_path / "e.keras")
    assert convert(tmp_path / "e.keras", trust_model=True).notes == ()


def test_a_decoder_file_is_data_too(tmp_path: Path) -> None:
    keras = load_keras()
    inputs, latent = keras.Input((4, 4, 1)), keras.Input((16,))
    keras.Model(inputs, keras.layers.Flatten(name="mu")(inputs)).save(tmp_path / "e.keras")
    coded = keras.layers.Lambda(lambda x: x, name="sneak", output_shape=(16,))(latent)
    keras.Model(latent, keras.layers.Reshape((4, 4, 1))(coded)).save(tmp_path / "d.keras")
    with pytest.raises(UntrustedModelError, match="Lambda 'sneak' is code in the file"):
        Codec.from_files(tmp_path / "e.keras", tmp_path / "d.keras")
    codec = Codec.from_files(
        tmp_path / "e.keras", tmp_path / "d.keras", options=ModelOptions(trust_model=True)
    )
    given = pixels((4, 4, 1))
    assert np.array_equal(codec.decode(codec.encode(given)[0]), given)


ODD_VALUES: Any = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.sampled_from([1e999, -1e999, float("nan"), "", "x", "\x1b[2J", [], {}, [[]], [None], 0, -1]),
    st.dictionaries(st.sampled_from(["class_name", "config", "name"]), st.integers(), max_size=2),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value in a JSON document."""
    found = [path] if path else []
    listed = enumerate(value) if isinstance(value, list) else ()
    for key, item in value.items() if isinstance(value, dict) else listed:
        found += _places(item, (*path, key))
    return found


@functools.cache
def _small_file() -> tuple[str, bytes]:
    keras = load_keras()
    layers = keras.layers
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(2, 3, dilation_rate=2, activation="relu")(inputs)
    x = layers.BatchNormalization()(layers.Dropout(0.1)(x))
    x = layers.Flatten()(layers.Concatenate()([x, layers.ReLU()(x)]))
    inner = keras.Sequential([keras.Input((64,)), layers.Dense(4)], name="inner")
    heads = [layers.Dense(2, name="z_mean")(inner(x)), layers.Dense(2, name="z_log_var")(x)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "e.keras"
        keras.Model(inputs, heads).save(path)
        with zipfile.ZipFile(path) as archive:
            return archive.read("config.json").decode(), archive.read("model.weights.h5")


@settings(max_examples=150)
@given(st.data())
def test_a_changed_configuration_is_converted_or_refused(data: st.DataObject) -> None:
    """No value anywhere in a configuration makes anything but a `ModelError`."""
    text, weights = _small_file()
    document = json.loads(text)
    for _ in range(data.draw(st.integers(1, 3))):
        *keys, last = data.draw(st.sampled_from(_places(document)))
        place = document
        for key in keys:
            place = place[key]
        place[last] = data.draw(ODD_VALUES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "e.keras"
        path.write_bytes(packed(document, weights, method=zipfile.ZIP_STORED))
        message = ""
        try:
            convert(path)
        except ModelError as error:
            message = str(error)
    assert message.isprintable()
