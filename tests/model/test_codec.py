"""Encoder and decoder of a model, each used alone."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentdb.base.errors import InvalidInputError, MissingExtraError, ModelError, NotFoundError
from latentdb.images.decode import Preprocessing, read_image
from latentdb.kerasfile.runtime import load_keras
from latentdb.model.codec import Codec
from latentdb.model.config import ModelConfig, ModelOptions
from latentdb.onnx.compiled import ONNX_FILES

SHAPE = (8, 8, 1)


def random_images(shape: tuple[int, ...], count: int = 6) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *shape), np.uint8)


def save_keras_files(folder: Path, *, outputs: int = 3, flat: bool = False, sampled: bool = False):  # type: ignore[no-untyped-def]
    """A Keras VAE as people have them: other names, another order of layers."""
    keras = load_keras()
    from latentdb.model.vae import Sampling

    keras.utils.set_random_seed(5)
    layers = keras.layers
    inputs = keras.Input((64,) if flat else SHAPE)
    hidden = layers.Dense(10, activation="relu")(inputs if flat else layers.Flatten()(inputs))
    mu = layers.Dense(3, name="mu")(hidden)
    log_var = layers.Dense(3, name="log_var")(hidden)
    noisy = Sampling(seed=2)([mu, log_var])
    listed = [noisy] if sampled else [mu, log_var, noisy][:outputs]
    encoder = keras.Model(inputs, listed)
    latent = keras.Input((3,))
    pixels = layers.Dense(64, activation="sigmoid")(latent)
    decoder = keras.Model(latent, pixels if flat else layers.Reshape(SHAPE)(pixels))
    folder.mkdir(exist_ok=True)
    encoder.save(folder / "e.keras")
    decoder.save(folder / "d.keras")
    return encoder, decoder, keras.Model(inputs, mu)


def test_encode_gives_z_mean_and_never_a_sample(model: Path, images: Path) -> None:
    codec = Codec.from_folder(model)
    spec = codec.config.preprocessing
    pixels = np.stack([read_image(images / f"disc/00{n}.png", spec) for n in range(3)])
    z_mean, z_log_var = codec.encode(pixels)
    again, _ = codec.encode(pixels)
    assert z_mean.shape == (3, 4)
    assert z_log_var is not None
    assert z_log_var.shape == (3, 4)
    assert np.array_equal(z_mean, again)
    keras = load_keras()
    reference = keras.saving.load_model(model / "encoder.keras")(pixels.astype(np.float32) / 255)
    assert np.allclose(z_mean, np.asarray(reference[0]), atol=1e-5)
    assert np.allclose(z_log_var, np.asarray(reference[1]), atol=1e-5)


def test_decode_is_keras_rounded_to_bytes(model: Path) -> None:
    codec = Codec.from_folder(model)
    latents = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    decoded = codec.decode(latents)
    keras = load_keras()
    values = np.asarray(keras.saving.load_model(model / "decoder.keras")(latents))
    assert decoded.dtype == np.uint8
    assert decoded.shape == (300, 16, 16, 3)
    assert np.abs(decoded - 255.0 * values).max() <= 0.5 + 1e-3


def test_one_at_a_time_is_the_same_as_many(model: Path) -> None:
    codec = Codec.from_folder(model)
    pixels = random_images((16, 16, 3), 5)
    together, _ = codec.encode(pixels)
    alone = np.concatenate([codec.encode(pixels[n : n + 1])[0] for n in range(5)])
    assert np.allclose(together, alone, atol=1e-5)


def test_nothing_in_nothing_out(model: Path) -> None:
    codec = Codec.from_folder(model)
    assert codec.encode(np.empty((0, 16, 16, 3), np.uint8))[0].shape == (0, 4)
    assert codec.decode(np.empty((0, 4), np.float32)).shape == (0, 16, 16, 3)


@pytest.mark.parametrize("flat", [False, True])
def test_keras_files_made_elsewhere(tmp_path: Path, flat: bool) -> None:
    _, _, reference = save_keras_files(tmp_path, flat=flat)
    codec = Codec.from_files(tmp_path / "e.keras", tmp_path / "d.keras")
    assert codec.config.preprocessing == Preprocessing(*SHAPE, icc="srgb")
    assert (codec.config.latent_dim, codec.config.has_z_log_var) == (3, True)
    pixels = random_images(SHAPE)
    values = pixels.astype(np.float32) / 255
    values = values.reshape(len(values), -1) if flat else values
    expected = np.asarray(reference(values))
    assert np.allclose(codec.encode(pixels)[0], expected, atol=1e-5)
    assert codec.decode(expected).shape == (6, *SHAPE)


def test_one_output_is_z_mean_alone(tmp_path: Path) -> None:
    save_keras_files(tmp_path, outputs=1)
    codec = Codec.from_files(tmp_path / "e.keras")
    assert codec.encode(random_images(SHAPE))[1] is None
    assert not codec.has_decoder
    with pytest.raises(ModelError, match="has no decoder"):
        codec.decode(np.zeros((1, 3), np.float32))


def test_behind_a_sampled_z_its_mean_is_found(tmp_path: Path) -> None:
    _, _, reference = save_keras_files(tmp_path, sampled=True)
    codec = Codec.from_files(tmp_path / "e.keras")
    pixels = random_images(SHAPE)
    expected = np.asarray(reference(pixels.astype(np.float32) / 255))
    assert np.allclose(codec.encode(pixels)[0], expected, atol=1e-6)
    assert codec.config.has_z_log_var


def test_encoder_and_decoder_that_do_not_fit_are_refused(tmp_path: Path, model: Path) -> None:
    save_keras_files(tmp_path)
    with pytest.raises(ModelError, match=r"the decoder does not (take|accept) latents of shape"):
        Codec.from_files(tmp_path / "e.keras", model / "decoder.keras")
    with pytest.raises(ModelError, match="the encoder does not accept images of shape"):
        Codec.from_files(tmp_path / "e.keras", options=ModelOptions(image_size=(9, 9), channels=1))


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("0..1", 0, 1), ("-1..1", -1, 1), ("0..255", 0, 255)]
)
def test_pixel_ranges(tmp_path: Path, kind: str, low: float, high: float) -> None:
    keras = load_keras()
    inputs = keras.Input((1, 2, 1))
    flat = keras.layers.Flatten()(inputs)
    keras.Model(inputs, flat).save(tmp_path / "e.keras")
    latent = keras.Input((2,))
    keras.Model(latent, keras.layers.Reshape((1, 2, 1))(latent)).save(tmp_path / "d.keras")
    codec = Codec.from_files(
        tmp_path / "e.keras", tmp_path / "d.keras", options=ModelOptions(pixel_range=kind)
    )
    pixels = np.array([[[[0], [255]]], [[[17], [128]]]], np.uint8)
    z_mean, _ = codec.encode(pixels)
    assert z_mean[0].tolist() == [low, high]
    assert np.array_equal(codec.decode(z_mean), pixels)


def test_the_fingerprint_is_of_weights_and_preprocessing(tmp_path: Path) -> None:
    encoder, _, _ = save_keras_files(tmp_path)
    first = Codec.from_files(tmp_path / "e.keras").config
    encoder.save(tmp_path / "again.keras")
    again = Codec.from_files(tmp_path / "again.keras").config
    assert again.encoder_fingerprint == first.encoder_fingerprint
    other = Codec.from_files(tmp_path / "e.keras", options=ModelOptions(pixel_range="-1..1")).config
    assert other.encoder_fingerprint != first.encoder_fingerprint
    weights = encoder.get_weights()
    weights[0][0, 0] += 1e-3
    encoder.set_weights(weights)
    encoder.save(tmp_path / "changed.keras")
    changed = Codec.from_files(tmp_path / "changed.keras").config
    assert changed.encoder_fingerprint != first.encoder_fingerprint


def test_a_swapped_encoder_is_refused(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    shutil.copy(model / "decoder.keras", folder / "encoder.keras")
    with pytest.raises(ModelError, match=r"the encoder in .* has fingerprint"):
        Codec.from_folder(folder)


def test_damaged_and_missing_files_are_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere is not a folder"):
        Codec.from_folder("nowhere")
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    (folder / "encoder.keras").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(ModelError, match=r"encoder in .* is not a \.keras model file"):
        Codec.from_folder(folder)
    (folder / "encoder.keras").unlink()
    with pytest.raises(NotFoundError, match=r"encoder\.keras does not exist"):
        Codec.from_folder(folder)
    shutil.copy(model / "encoder.keras", folder)
    (folder / "model.json").write_text('{"preprocessing": 3}')
    with pytest.raises(ModelError, match=r"model\.json is not a latentdb model config"):
        Codec.from_folder(folder)


def test_a_lambda_is_not_run(tmp_path: Path) -> None:
    """A saved Lambda is a stranger's code; it is refused in one line."""
    keras = load_keras()
    inputs = keras.Input((4, 4, 1))
    flat = keras.layers.Flatten()(inputs)
    keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(flat)).save(tmp_path / "e.keras")
    with pytest.raises(ModelError, match="Lambda 'lambda' is code in the file") as error:
        Codec.from_files(tmp_path / "e.keras")
    assert "\n" not in str(error.value)


def test_a_latent_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    encoder, _, _ = save_keras_files(tmp_path)
    weights = encoder.get_weights()
    weights[3][:] = np.nan
    encoder.set_weights(weights)
    encoder.save(tmp_path / "nan.keras")
    codec = Codec(ModelConfig(Preprocessing(*SHAPE), 3, "", None, True),
                  (tmp_path / "nan.keras").read_bytes(), None)  # fmt: skip
    with pytest.raises(ModelError, match="not finite"):
        codec.encode(random_images(SHAPE))


def test_z_log_var_that_the_encoder_does_not_give_is_refused(tmp_path: Path) -> None:
    save_keras_files(tmp_path, outputs=1)
    codec = Codec.from_files(tmp_path / "e.keras")
    data = codec.files["encoder.keras"]
    stated = replace(codec.config, has_z_log_var=True)
    with pytest.raises(ModelError, match=r"in it, the encoder gives z_mean alone, and its model"):
        Codec.from_bytes(stated, data, None, name="it")
    with pytest.raises(ModelError, match="the encoder gives z_mean alone"):
        Codec(stated, data, None).encode(random_images(SHAPE))
    with pytest.raises(ModelError, match=r"latents of shape \[3\], its model\.json says \[5\]"):
        Codec(replace(codec.config, latent_dim=5), data, None).encode(random_images(SHAPE))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("has_z_log_var", "yes"),
        ("has_z_log_var", 1),
        ("latent_dim", "4"),
        ("latent_dim", True),
        ("latent_dim", 0),
        ("encoder_fingerprint", 7),
        ("decoder_fingerprint", ["v2:"]),
    ],
)
def test_a_config_of_other_types_is_refused(model: Path, field: str, value: object) -> None:
    values = json.loads((model / "model.json").read_text())
    with pytest.raises(ModelError, match=r"x is not a latentdb model config: .*(is not|are not)"):
        ModelConfig.from_json(json.dumps({**values, field: value}), "x")


def test_images_of_another_size_are_refused(model: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"shape \(8, 8, 1\) do not fit the encoder"):
        Codec.from_folder(model).encode(random_images(SHAPE))


def test_a_config_survives_its_file(model: Path) -> None:
    text = (model / "model.json").read_text()
    config = ModelConfig.from_json(text, "x")
    assert json.loads(config.to_json()) == json.loads(text)
    assert config.preprocessing == Preprocessing(16, 16, 3, icc="srgb")


def test_summaries_name_the_classic_layers(model: Path) -> None:
    text = Codec.from_folder(model).summaries()
    for name in ("encoder_input", "z_mean", "z_log_var", "z_sampling"):
        assert name in text


def test_plot_draws_or_says_what_is_missing(model: Path, tmp_path: Path) -> None:
    codec = Codec.from_folder(model)
    out = tmp_path / "graph.png"
    if shutil.which("dot") is None:
        with pytest.raises((ModelError, MissingExtraError), match="install"):
            codec.plot(out)
    else:
        codec.plot(out)
        with Image.open(out) as picture:
            assert min(picture.size) > 100


def test_the_files_of_a_codec_are_its_folder(model: Path) -> None:
    files = Codec.from_folder(model).files
    assert files["encoder.keras"] == (model / "encoder.keras").read_bytes()
    assert set(files) - set(ONNX_FILES) == {"encoder.keras", "decoder.keras", "model.json"}
    assert {name: (model / name).read_bytes() for name in files} == files
    assert zipfile.is_zipfile(model / "decoder.keras")
