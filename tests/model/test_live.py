"""Keras models in memory, and the functions of their owners: what enters a store is no code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentdb.base.errors import InvalidInputError, ModelError
from latentdb.database import LatentDB
from latentdb.kerasfile.runtime import load_keras
from latentdb.model.codec import Codec
from latentdb.model.config import KERAS, ONNX, ModelOptions
from latentdb.model.live import live_model, made_by
from tests.cli.running import run, run_error

pytest.importorskip("tf2onnx")

SHAPE = (16, 16, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)
VALUES = PIXELS.astype(np.float32) / 255
BUILDER = """
import keras
import numpy as np
from keras import layers, ops


class Sampling(layers.Layer):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.generator = keras.random.SeedGenerator(1)

    def call(self, inputs):
        mean, log_var = inputs
        noise = keras.random.normal(ops.shape(mean), seed=self.generator)
        return mean + ops.exp(log_var / 2) * noise


class Gate(layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="random_normal")

    def call(self, inputs):
        return inputs * ops.sigmoid(self.scale * inputs)


class Encoder(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv = layers.Conv2D(4, 3, strides=4, padding="same")
        self.norm, self.gate = layers.BatchNormalization(), Gate()
        self.tokens, self.flatten = layers.Reshape((-1, 4)), layers.Flatten()
        self.attention = layers.MultiHeadAttention(2, 4)
        self.mean, self.log_var, self.sample = layers.Dense(4), layers.Dense(4), Sampling()

    def call(self, inputs, training=False):
        hidden = self.tokens(self.gate(self.norm(self.conv(inputs), training=training)))
        hidden = self.flatten(self.attention(hidden, hidden))
        mean, log_var = self.mean(hidden), self.log_var(hidden)
        return mean, log_var, self.sample((mean, log_var))


class Whole(keras.Model):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = build()


def decoder():
    return keras.Sequential(
        [layers.Input((4,)), layers.Dense(48, activation="relu"), layers.Reshape((4, 4, 3)),
         layers.Conv2DTranspose(3, 4, strides=4, padding="same", activation="sigmoid")]
    )


def build():
    keras.utils.set_random_seed(0)
    encoder = Encoder()
    encoder(np.zeros((1, 16, 16, 3)))
    return encoder, decoder()


def listed():
    keras.utils.set_random_seed(0)
    image = layers.Input((16, 16, 3))
    hidden = layers.Flatten()(image)
    mean = layers.Dense(4, name="z_mean")(hidden)
    log_var = layers.Dense(4, name="z_log_var")(hidden)
    return keras.Model(image, [mean, log_var, Sampling()([mean, log_var])]), decoder()


def sampled():
    encoder, _ = build()
    return Sample(encoder), None


class Sample(keras.Model):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self(np.zeros((1, 16, 16, 3)))

    def call(self, inputs):
        return self.encoder(inputs)[2]


def unbuilt():
    return Encoder(), decoder()


def fails():
    raise KeyError("epoch")


def number():
    return 5
"""


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The owner's module, as an imported one."""
    folder = tmp_path_factory.mktemp("owner")
    (folder / "owners_vae.py").write_text(BUILDER)
    (folder / "broken_vae.py").write_text("import owners_vae\nimport not_installed\n")
    (folder / "worse_vae.py").write_text("1 / 0\n")
    sys.path.insert(0, str(folder))
    load_keras()
    import owners_vae  # type: ignore[import-not-found,unused-ignore]

    yield owners_vae
    sys.path.remove(str(folder))


def check_equal(codec: Codec, encoder: Any, decoder: Any) -> None:
    """Latents and images are those of the models themselves."""
    expected = [np.asarray(part) for part in encoder(VALUES)]
    z_mean, z_log_var = codec.encode(PIXELS)
    assert z_log_var is not None
    assert np.abs(z_mean - expected[0]).max() < 1e-5
    assert np.abs(z_log_var - expected[1]).max() < 1e-5
    images = np.asarray(decoder(z_mean))
    assert np.abs(codec.decode(z_mean) - images * 255).max() < 0.51


def test_layers_on_the_list_become_a_keras_file(builder: Any) -> None:
    encoder, decoder = builder.listed()
    codec = Codec.from_models(live_model((encoder, decoder)))
    assert codec.config.format == KERAS
    check_equal(codec, encoder, decoder)


def test_subclasses_and_layers_of_their_own_become_onnx(builder: Any) -> None:
    encoder, decoder = builder.build()
    codec = Codec.from_models(live_model((encoder, decoder)))
    assert codec.config.format == ONNX
    assert "holds only the name of the class 'Encoder'" in codec.notes[0]
    check_equal(codec, encoder, decoder)
    # Made again: other objects and names, the same model.
    again = Codec.from_models(live_model(builder.Whole))
    assert again.config.encoder_fingerprint == codec.config.encoder_fingerprint
    assert again.config.decoder_fingerprint == codec.config.decoder_fingerprint


def test_a_graph_whose_call_was_overridden_is_not_taken_for_its_layers(builder: Any) -> None:
    keras = load_keras()

    class Halved(keras.Model):  # type: ignore[misc,name-defined]
        def call(self, inputs: Any, training: bool = False) -> Any:
            return [part * 0.5 for part in super().call(inputs, training=training)[:2]]

    plain, decoder = builder.listed()
    encoder = Halved(plain.inputs, plain.outputs)
    codec = Codec.from_models(live_model((encoder, decoder)))
    assert codec.config.format == ONNX
    check_equal(codec, encoder, decoder)


def test_a_model_of_tf_keras(builder: Any) -> None:
    tf_keras = pytest.importorskip("tf_keras")
    layers = tf_keras.layers
    encoder = tf_keras.Sequential([layers.Input(SHAPE), layers.Flatten(), layers.Dense(3)])
    codec = Codec.from_models(live_model((encoder, None)))
    assert not codec.has_decoder
    assert np.allclose(codec.encode(PIXELS)[0], encoder(VALUES), atol=1e-5)


def test_a_store_is_made_and_used(builder: Any, images: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.ldb"
    options = ModelOptions(pixel_range="0..1")
    with LatentDB.create(path, builder.build, options=options) as db:
        db.index_images(images / "disc", model=builder.build)
        assert len(db) == 40
    with LatentDB.open(path) as db:
        assert db.query(images / "disc" / "003.png", k=1)[0].id == "003.png"
        assert db.decode(["003.png"]).shape == (1, *SHAPE)


def test_the_command_line(builder: Any, images: Path, tmp_path: Path) -> None:
    words = (tmp_path / "a.ldb", images / "disc", "--pixel-range", "0..1")
    run("index", *words, "--builder", "owners_vae:listed")
    again = run("index", *words, "--builder", "owners_vae:listed")
    assert "40 unchanged" in again.stdout
    other = run("index", *words, "--builder", "owners_vae:build", code=1)
    assert "this store's latents are of encoder" in other.stderr
    both = run_error("index", *words, "--builder", "a:b", "--model", "x", code=2)
    assert "give one of --model" in both


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("owners_vae:unbuilt", "its encoder has no weights yet: load them"),
        ("owners_vae:fails", r"it raised KeyError: 'epoch' \(owners_vae.py, line \d\d\)"),
        ("owners_vae:number", r"gives int: return \(encoder, decoder\)"),
        ("owners_vae:nothing", "has no function nothing; its functions: decoder, build"),
        ("owners_vae.py:build", "give module:function, such as owners_vae:build"),
        ("owners_vae", "is no builder: give module:function"),
        ("no_such_vae:build", "there is no module no_such_vae in"),
        ("broken_vae:build", "importing it raised ModuleNotFoundError: No module named 'not_inst"),
        ("worse_vae:build", r"importing it raised ZeroDivisionError: .* \(worse_vae.py, line 1\)"),
    ],
)
def test_what_a_builder_does_wrong_is_said(builder: Any, name: str, message: str) -> None:
    with pytest.raises((ModelError, InvalidInputError), match=message) as error:
        made_by(name)
    assert "\n" not in str(error.value)


def test_a_sampled_z_is_refused(builder: Any) -> None:
    with pytest.raises(ModelError, match="'output_0' differs from run to run: it is a sampled z"):
        Codec.from_models(live_model((builder.Sample(builder.build()[0]), None)))


def test_architectures_are_not_for_models_in_memory(builder: Any) -> None:
    with pytest.raises(InvalidInputError, match="architectures are for files of weights"):
        Codec.from_models(live_model(builder.listed), options=ModelOptions(architectures=("a",)))
