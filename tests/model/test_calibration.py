"""A model made elsewhere in a store: its pixel range calibrated, indexed, queried, decoded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from latentdb.base.errors import InvalidInputError, ModelError, UntrustedModelError
from latentdb.cli.main import main
from latentdb.database import LatentDB
from latentdb.images.decode import Preprocessing, read_image
from latentdb.kerasfile.runtime import load_keras
from latentdb.model.calibration import calibrate, import_model
from latentdb.model.codec import Codec
from latentdb.model.config import ModelOptions
from latentdb.model.range_fit import RangeFit
from tests.kerasfile.test_convert import with_lambda

ROOT = Path(__file__).resolve().parents[2]


def trained_on(images: Path, low: float, high: float, last: str) -> Any:
    """A small autoencoder of pixels in low..high, as a whole VAE with a Lambda for sampling."""
    keras = load_keras()
    layers = keras.layers
    keras.utils.set_random_seed(4)
    spec = Preprocessing(16, 16, 3)
    bytes_ = np.stack([read_image(path, spec) for path in sorted(images.rglob("*.png"))])
    values = (low + (high - low) * (bytes_.astype(np.float32) / 255)).astype(np.float32)
    inputs = keras.Input((16, 16, 3))
    hidden = layers.Dense(64, activation="relu")(layers.Flatten()(inputs))
    mu = layers.Dense(8, name="mu")(hidden)
    log_var = layers.Dense(8, name="log_var")(hidden)
    z = layers.Lambda(lambda pair: pair[0], name="z", output_shape=(8,))([mu, log_var])
    latent = keras.Input((8,))
    up = layers.Dense(64, activation="relu")(latent)
    image = layers.Reshape((16, 16, 3))(layers.Dense(768, activation=last)(up))
    decoder = keras.Model(latent, image, name="decoder")
    encoder = keras.Model(inputs, [mu, log_var, z], name="encoder")
    vae = keras.Model(inputs, decoder(encoder(inputs)[2]), name="vae")
    vae.compile(keras.optimizers.Adam(3e-3), "mse")
    vae.fit(values, values, epochs=60, batch_size=20, verbose=0)
    return vae, keras.Model(inputs, mu)


@pytest.fixture(scope="module")
def symmetric(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A whole VAE of pixels in -1..1, and keras's own encoder."""
    path = tmp_path_factory.mktemp("vae") / "vae.keras"
    vae, encoder = trained_on(images, -1, 1, "tanh")
    vae.save(path)
    return path, encoder


def test_the_pixel_range_is_calibrated_and_noted(images: Path, symmetric: tuple[Path, Any]) -> None:
    codec = import_model(symmetric[0], images=[images])
    assert codec.config.preprocessing.pixel_range == "-1..1"
    assert "the pixel range is -1..1: reconstructing 32 images" in codec.notes[-1]
    assert "times as much" in codec.notes[-1]


def test_another_range_too(images: Path, tmp_path: Path) -> None:
    trained_on(images, 0, 1, "sigmoid")[0].save(tmp_path / "vae.h5")
    codec = import_model(tmp_path / "vae.h5", images=[images])
    assert codec.config.preprocessing.pixel_range == "0..1"


def test_a_given_range_is_not_calibrated(images: Path, symmetric: tuple[Path, Any]) -> None:
    codec = import_model(symmetric[0], options=ModelOptions(pixel_range="0..1"), images=[images])
    assert codec.config.preprocessing.pixel_range == "0..1"
    assert codec.notes == ()


def test_a_model_that_reconstructs_nothing_needs_a_range(images: Path, tmp_path: Path) -> None:
    keras = load_keras()
    inputs, latent = keras.Input((16, 16, 3)), keras.Input((4,))
    mu = keras.layers.Dense(4, name="mu")(keras.layers.Flatten()(inputs))
    keras.Model(inputs, mu).save(tmp_path / "e.keras")
    image = keras.layers.Reshape((16, 16, 3))(keras.layers.Dense(768, "sigmoid")(latent))
    keras.Model(latent, image).save(tmp_path / "d.keras")
    with pytest.raises(ModelError, match=r"does not show the pixel range: .* give --pixel-range"):
        import_model(tmp_path / "e.keras", tmp_path / "d.keras", images=[images])
    alone = import_model(tmp_path / "e.keras", images=[images])
    assert "receives pixels as 0..1 (not verified)" in alone.notes[-1]


def test_an_imported_model_indexes_queries_and_decodes(
    images: Path, symmetric: tuple[Path, Any], tmp_path: Path
) -> None:
    path, encoder = symmetric
    with LatentDB.create(tmp_path / "a.ldb", model=path, images=images) as db:
        assert db.index_images(images).added == 80
    path_again = tmp_path / "elsewhere.keras"
    path_again.write_bytes(path.read_bytes())
    with LatentDB.open(tmp_path / "a.ldb") as db:
        matches = db.query(images / "disc/003.png", k=3)
        assert (matches[0].id, matches[0].distance) == ("disc/003.png", pytest.approx(0, abs=1e-4))
        spec = Preprocessing(16, 16, 3)
        pixels = read_image(images / "disc/003.png", spec)
        expected = np.asarray(encoder(pixels[None].astype(np.float32) / 127.5 - 1))
        assert np.allclose(db.vectors(["disc/003.png"]), expected, atol=1e-5)
        decoded = db.decode("disc/003.png")[0]
        assert np.abs(decoded.astype(float) - pixels).mean() < 40
        # The same file again is the same model; the store knows its range.
        assert db.index_images(images, model=path_again).unchanged == 80
    assert LatentDB.verify(tmp_path / "a.ldb").problems == ()


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_line_imports_it(
    images: Path, symmetric: tuple[Path, Any], tmp_path: Path
) -> None:
    db = tmp_path / "a.ldb"
    result = run("index", db, images, "--model", symmetric[0])
    assert result.exit_code == 0, result.output
    assert "note: the pixel range is -1..1" in result.stderr
    assert run("index", db, images, "--model", symmetric[0]).stdout.startswith("0 added")
    other = run("index", db, images, "--encoder", symmetric[0], "--z-mean", "log_var")
    assert "has fingerprint" in other.stderr
    wrong = run("index", tmp_path / "b.ldb", images, "--encoder", symmetric[0], "--z-mean", "nu")
    assert "has no layer 'nu': name one of encoder/mu, encoder/log_var" in wrong.stderr
    assert "Traceback" not in wrong.output
    assert not (tmp_path / "b.ldb").exists()


def test_options_that_do_not_go_together(images: Path, model: Path, tmp_path: Path) -> None:
    new = tmp_path / "a.ldb"
    folder = run("index", new, images, "--model", model, "--z-mean", "mu")
    assert folder.exit_code == 2
    assert "--z-mean: only with --encoder" in folder.stderr
    both = run("index", new, images, "--model", model, "--encoder", "e.keras")
    assert both.exit_code == 2
    with pytest.raises(InvalidInputError, match="a model folder states its own"):
        LatentDB.create(new, model, options=ModelOptions(pixel_range="0..1"))
    with pytest.raises(InvalidInputError, match="received none"):
        LatentDB.create(new)


def test_mean_and_deviation_are_stored(
    images: Path, symmetric: tuple[Path, Any], tmp_path: Path
) -> None:
    """0.5/0.5 is -1..1 by another name."""
    db = tmp_path / "a.ldb"
    result = run("index", db, images, "--model", symmetric[0], "--pixel-range", "0.5/0.5",
                 "--resize", "crop")  # fmt: skip
    assert result.exit_code == 0, result.output
    spec = json.loads(run("info", db, "--json").stdout)["model"]["preprocessing"]
    assert (spec["pixel_range"], spec["resize"]) == ("0.5/0.5", "crop")
    with LatentDB.open(db) as opened:
        vector = opened.vectors(["disc/003.png"])
        pixels = read_image(images / "disc/003.png", Preprocessing(16, 16, 3))
        expected = symmetric[1](pixels[None].astype(np.float32) / 127.5 - 1)
        assert np.allclose(vector, np.asarray(expected), atol=1e-5)


def test_a_store_of_a_trusted_model_asks_for_trust_again(tmp_path: Path, images: Path) -> None:
    marker = tmp_path / "it-ran"
    encoder = with_lambda(tmp_path, marker)
    db = tmp_path / "a.ldb"
    arguments = ("index", db, images, "--encoder", encoder)
    refused = run(*arguments)
    assert "--trust-model runs its code" in refused.stderr
    assert not marker.exists()
    result = run(*arguments, "--trust-model")
    assert result.exit_code == 0, result.output
    marker.unlink()
    new = images / "disc/000.png"
    assert run("query", db, "id:disc/000.png").exit_code == 0
    again = run("query", db, f"file:{new}")
    assert not marker.exists()
    if json.loads(run("info", db, "--json").stdout)["compiled"]:
        # The compiled form of that code is data.
        assert "disc/000.png" in again.stdout
        return
    assert "'half' is code in the file" in again.stderr
    trusted = run("query", db, f"file:{new}", "--trust-model", "-k", 1)
    assert "disc/000.png" in trusted.stdout
    with (
        LatentDB.open(db) as opened,
        pytest.raises(UntrustedModelError, match="'half' is code in the file"),
    ):
        opened.query(new)


class _Fits:
    """A codec as far as calibration asks one: given errors of ranges."""

    def __init__(self, codec: Codec, errors: dict[str, float]) -> None:
        self.config, self._codec, self._errors = codec.config, codec, errors

    def reconstruction_errors(self, images: Any, ranges: Any) -> dict[str, RangeFit]:
        del images
        return {text: RangeFit(self._errors.get(text, 5000.0), 1.0) for text in ranges}

    def with_preprocessing(self, spec: Preprocessing) -> Codec:
        return self._codec.with_preprocessing(spec)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ({"0..1": 1000, "0..1:-1..1": 1100}, "0..1"),  # a rare mixed range is close
        ({"0..1": 1000, "-1..1:0..1": 950}, "0..1"),
        ({"0..1": 1000, "-1..1": 1100}, None),
        ({"0..1": 1000, "-1..1:0..1": 400}, None),
    ],
)
def test_plain_ranges_come_first(
    symmetric: tuple[Path, Any], errors: dict[str, float], expected: str | None
) -> None:
    codec: Any = _Fits(import_model(symmetric[0], options=ModelOptions(pixel_range="0..1")), errors)
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    if expected is None:
        with pytest.raises(ModelError, match="does not show the pixel range"):
            calibrate(codec, images)
    else:
        assert calibrate(codec, images).config.preprocessing.pixel_range == expected
