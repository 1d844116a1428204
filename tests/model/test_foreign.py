"""Models made elsewhere that leave something to their training code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentdb.base.errors import InvalidInputError, ModelError
from latentdb.database import LatentDB
from latentdb.images.decode import Preprocessing, read_image
from latentdb.kerasfile.runtime import load_keras
from latentdb.model.calibration import import_model
from latentdb.model.codec import Codec
from latentdb.model.config import ModelOptions

SHAPE = (16, 16, 3)


def pixels(images: Path) -> Any:
    spec = Preprocessing(*SHAPE)
    return np.stack([read_image(path, spec) for path in sorted(images.rglob("*.png"))])


@pytest.fixture(scope="module")
def cvae(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The CVAE of tensorflow's tutorial: 2 d numbers split in code, and logits from the decoder."""
    keras = load_keras()
    layers = keras.layers
    keras.utils.set_random_seed(2)
    folder = tmp_path_factory.mktemp("cvae")
    encoder = keras.Sequential(
        [keras.Input(SHAPE), layers.Flatten(), layers.Dense(64, activation="relu"),
         layers.Dense(16, name="both")]
    )  # fmt: skip
    decoder = keras.Sequential(
        [keras.Input((8,)), layers.Dense(64, activation="relu"), layers.Dense(768),
         layers.Reshape(SHAPE)]
    )  # fmt: skip
    inputs = keras.Input(SHAPE)
    vae = keras.Model(inputs, decoder(encoder(inputs)[:, :8]))
    vae.compile(keras.optimizers.Adam(3e-3), keras.losses.BinaryCrossentropy(from_logits=True))
    values = pixels(images).astype(np.float32) / 255
    vae.fit(values, values, epochs=80, batch_size=20, verbose=0)
    encoder.save(folder / "encoder.keras")
    decoder.save(folder / "decoder.keras")
    return folder / "encoder.keras", folder / "decoder.keras"


HALVES = ModelOptions(z_mean="both[:8]", z_log_var="both[8:]")


def test_z_mean_and_z_log_var_in_one_are_offered_as_halves(cvae: tuple[Path, Path]) -> None:
    with pytest.raises(ModelError, match=r"give --z-mean 'both\[:8\]' --z-log-var 'both\[8:\]'"):
        Codec.from_files(*cvae)
    (note,) = Codec.from_files(cvae[0]).notes
    assert note.startswith("z_mean is all 16 numbers of 'both'; if half of them are z_log_var")
    codec = Codec.from_files(*cvae, options=HALVES)
    assert (codec.config.latent_dim, codec.config.has_z_log_var) == (8, True)
    images = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)
    both = Codec.from_files(cvae[0]).encode(images)[0]
    z_mean, z_log_var = codec.encode(images)
    assert np.allclose(z_mean, both[:, :8], atol=1e-6)
    assert z_log_var is not None
    assert np.allclose(z_log_var, both[:, 8:], atol=1e-6)
    with pytest.raises(ModelError, match=r"which has no numbers \[40:\]"):
        Codec.from_files(cvae[0], options=ModelOptions(z_mean="both[40:]"))


def test_logits_are_found_by_reconstruction(images: Path, cvae: tuple[Path, Path]) -> None:
    codec = import_model(*cvae, options=HALVES, images=[images])
    assert any(note.startswith("the decoder gives logits") for note in codec.notes)
    assert codec.config.preprocessing.pixel_range == "0..1"
    given = pixels(images)[:20]
    assert np.abs(codec.decode(codec.encode(given)[0]).astype(float) - given).mean() < 40
    plain = import_model(
        *cvae,
        options=ModelOptions(**{**vars(HALVES), "pixel_range": "0..1"}),
    )
    assert plain.config.decoder_fingerprint != codec.config.decoder_fingerprint
    stated = import_model(
        *cvae,
        options=ModelOptions(
            **{**vars(HALVES), "pixel_range": "0..1", "decoder_activation": "sigmoid"}
        ),
    )
    assert stated.config.decoder_fingerprint == codec.config.decoder_fingerprint
    with pytest.raises(InvalidInputError, match="'tanh' is unknown: use sigmoid or none"):
        import_model(*cvae, options=ModelOptions(decoder_activation="tanh"))


def test_a_classifier_is_noted(tmp_path: Path) -> None:
    keras = load_keras()
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input(SHAPE), layers.Flatten(), layers.Dense(7, activation="softmax", name="label")]
    )
    model.save(tmp_path / "e.keras")
    (note,) = Codec.from_files(tmp_path / "e.keras").notes
    assert note.startswith("'label' ends in softmax, as a classifier does")


def spatial_pair(folder: Path, latent: tuple[int, int, int]) -> tuple[Path, Path]:
    """A fully convolutional VAE: latents of 4x4 with some channels."""
    keras = load_keras()
    layers = keras.layers
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(inputs)
    heads = [
        layers.Conv2D(latent[2], 3, strides=2, padding="same", name=name)(x)
        for name in ("z_mean", "z_log_var")
    ]
    keras.Model(inputs, heads).save(folder / "encoder.keras")
    z = keras.Input((None, None, latent[2]))
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu")(z)
    image = layers.Conv2DTranspose(3, 3, strides=2, padding="same", activation="sigmoid")(x)
    keras.Model(z, image).save(folder / "decoder.keras")
    return folder / "encoder.keras", folder / "decoder.keras"


def test_spatial_latents_are_stored_flat(tmp_path: Path, images: Path) -> None:
    files = spatial_pair(tmp_path, (4, 4, 2))
    codec = Codec.from_files(*files, options=ModelOptions(pixel_range="0..1"))
    assert codec.notes == ("latents of shape [4, 4, 2] are stored as 32 numbers each",)
    assert codec.config.about == {"latent_shape": [4, 4, 2]}
    given = pixels(images)[:5]
    z_mean, z_log_var = codec.encode(given)
    keras = load_keras()
    encoder, decoder = (keras.saving.load_model(path) for path in files)
    expected = [np.asarray(one) for one in encoder(given.astype(np.float32) / 255)]
    assert np.allclose(z_mean, expected[0].reshape(5, 32), atol=1e-6)
    assert z_log_var is not None
    assert np.allclose(z_log_var, expected[1].reshape(5, 32), atol=1e-6)
    decoded = np.asarray(decoder(expected[0]))
    assert np.abs(codec.decode(z_mean) - decoded * 255).max() <= 0.51
    with LatentDB.create(tmp_path / "a.ldb", model=codec) as db:
        db.index_images(images)
        match = db.query(images / "disc/003.png", k=1)[0]
        assert match.id == "disc/003.png"
        assert db.blend(["disc/003.png", "disc/004.png"]).shape == (32,)
    with LatentDB.open(tmp_path / "a.ldb") as db:
        assert db.decode("disc/003.png").shape == (1, *SHAPE)
    assert LatentDB.verify(tmp_path / "a.ldb").problems == ()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("vae.pt", b"PK\x03\x04" + bytes(26) + b"vae/data.pkl", "is a file of PyTorch"),
        ("encoder.h5", b"PK\x03\x04" + bytes(26) + b"vae/data.pkl", "is a file of PyTorch"),
        ("vae.pth", b"\x80\x02", "objects of Python.* export it as .onnx"),
        ("vae.tflite", b"\x1c\0\0\0TFL3", "is a TensorFlow Lite model"),
        ("vae.ckpt.index", b"\0", "part of a TensorFlow checkpoint"),
        ("model.json", b"{}", "is an architecture without weights"),
        ("frozen.pb", b"\x0a", "is a graph of TensorFlow"),
    ],
)
def test_other_files_say_what_they_are(
    name: str, data: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelError, match=message):
        Codec.from_files(tmp_path / name)


@pytest.mark.parametrize(("package", "suffix"), [
    ("keras", ".weights.h5"), ("tf_keras", ".h5"), ("tf_keras", ".weights.h5"),
])  # fmt: skip
def test_weights_with_an_architecture_are_a_model(
    package: str, suffix: str, tmp_path: Path
) -> None:
    keras = load_keras() if package == "keras" else pytest.importorskip("tf_keras")
    layers = keras.layers
    inputs, latent = keras.Input(SHAPE), keras.Input((4,))
    body = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(2, 3), layers.Flatten()])
    x = layers.BatchNormalization()(body(inputs))
    heads = [layers.Dense(4, name=name)(x) for name in ("z_mean", "z_log_var")]
    encoder = keras.Model(inputs, heads)
    image = layers.Reshape(SHAPE)(layers.Dense(768, activation="sigmoid")(latent))
    decoder = keras.Model(latent, image)
    for model, name in ((encoder, "e"), (decoder, "d")):
        model.save_weights(tmp_path / f"{name}{suffix}")
        (tmp_path / f"{name}.json").write_text(model.to_json())
    files = (tmp_path / f"e{suffix}", tmp_path / f"d{suffix}")
    architectures = (str(tmp_path / "e.json"), str(tmp_path / "d.json"))
    codec = Codec.from_files(*files, options=ModelOptions(architectures=architectures))
    images = np.random.default_rng(3).integers(0, 256, (3, *SHAPE), np.uint8)
    expected = np.asarray(encoder(images.astype(np.float32) / 255)[0])
    assert np.allclose(codec.encode(images)[0], expected, atol=1e-5)
    decoded = np.asarray(decoder(expected)) * 255
    assert np.abs(codec.decode(expected) - decoded).max() <= 0.51
    with pytest.raises(ModelError, match=r"holds weights only.*give --architecture x\.json"):
        Codec.from_files(*files)
    three = (*architectures, architectures[0])
    with pytest.raises(ModelError, match="3 architectures were given: expected one for each file"):
        Codec.from_files(*files, options=ModelOptions(architectures=three))
    with pytest.raises(ModelError, match=r"is not JSON: give the file that model.to_json\(\) made"):
        Codec.from_files(files[0], options=ModelOptions(architectures=(str(files[0]),)))
    with pytest.raises(ModelError, match="the file holds"):
        Codec.from_files(files[1], options=ModelOptions(architectures=architectures[:1]))
