"""SavedModel folders of Keras 2, read as data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentdb import stored_model
from latentdb.base.errors import LatentDBError, ModelError
from latentdb.kerasfile.convert import convert, load_model
from latentdb.kerasfile.savedmodel import read_saved_model
from latentdb.model.codec import Codec
from latentdb.model.config import ModelOptions
from zoo.savedmodels import ARRAYS, OBJECTS, SAVED, STRING, WHOLE, entry, folder_of, message

tf_keras = pytest.importorskip("tf_keras")

SHAPE = (16, 16, 3)
VALUES = np.random.default_rng(0).random((4, *SHAPE)).astype(np.float32)
LATENTS = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A folder with `encoder`, `decoder` and `vae`, and the first two as models."""
    layers = tf_keras.layers
    tf_keras.utils.set_random_seed(0)

    class Sampling(layers.Layer):  # type: ignore[misc,name-defined]
        def call(self, inputs: Any) -> Any:
            return inputs[0] + tf_keras.backend.random_normal((4,)) * inputs[1]

    image = layers.Input(SHAPE)
    hidden = layers.SeparableConv2D(4, 3, strides=4, padding="same", activation="relu")(image)
    hidden = layers.BatchNormalization()(hidden)
    hidden = layers.MultiHeadAttention(2, 3)(hidden, hidden)
    hidden = layers.Flatten()(hidden)
    heads = [layers.Dense(4, name=name)(hidden) for name in ("z_mean", "z_log_var")]
    encoder = tf_keras.Model(image, [*heads, Sampling()(heads)], name="any")
    latent = layers.Input((4,))
    hidden = layers.Reshape((4, 4, 2))(layers.Dense(32, activation="tanh")(latent))
    pixels = layers.Conv2DTranspose(3, 4, strides=4, activation="sigmoid")(hidden)
    decoder = tf_keras.Model(latent, pixels, name="any_other")

    class Vae(tf_keras.Model):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = encoder, decoder

        def call(self, inputs: Any) -> Any:
            return self.decoder(self.encoder(inputs)[2])

    for layer in encoder.layers:  # the moving statistics, which are 0 and 1 at the start
        layer.set_weights([one + 0.1 for one in layer.get_weights()])
    vae = Vae()
    vae(VALUES)
    folder = tmp_path_factory.mktemp("saved")
    for name, model in (("encoder", encoder), ("decoder", decoder), ("vae", vae)):
        model.save(folder / name, save_format="tf")
    return folder, encoder, decoder


def test_encoder_and_decoder_compute_what_keras_computes(saved: tuple[Path, Any, Any]) -> None:
    folder, encoder, decoder = saved
    found = convert(folder / "encoder", folder / "decoder")
    assert (found.image, found.latent_dim, found.has_z_log_var) == (SHAPE, 4, True)
    outputs = load_model(found.encoder, "it")(VALUES)
    for output, expected in zip(outputs, encoder(VALUES)[:2], strict=True):
        assert np.abs(np.asarray(output) - np.asarray(expected)).max() < 1e-6
    images = load_model(found.decoder or b"", "it")(LATENTS)
    assert np.abs(np.asarray(images) - np.asarray(decoder(LATENTS))).max() < 1e-6


def test_a_subclass_has_its_models_in_attributes(saved: tuple[Path, Any, Any]) -> None:
    folder, encoder, decoder = saved
    found = convert(folder / "vae")
    z_mean = load_model(found.encoder, "it")(VALUES)[0]
    assert np.abs(np.asarray(z_mean) - np.asarray(encoder(VALUES)[0])).max() < 1e-6
    images = load_model(found.decoder or b"", "it")(LATENTS)
    assert np.abs(np.asarray(images) - np.asarray(decoder(LATENTS))).max() < 1e-6


def test_a_folder_is_a_model(saved: tuple[Path, Any, Any]) -> None:
    codec = stored_model.load_model(saved[0] / "vae", options=ModelOptions(pixel_range="0..1"))
    assert codec.has_decoder
    assert codec.config.has_z_log_var


def test_the_metadata_of_tensorflow_2_4_and_before(tmp_path: Path) -> None:
    """Which wrote it into saved_model.pb, on the objects of the graph."""
    from zoo.savedmodels import NODES, _text

    def node(text: Any, *children: tuple[int, bytes]) -> bytes:
        parts = [(1, message((1, number), (2, name))) for number, name in children]
        return message(*parts, (4, message((1, b"_tf_keras_layer"), (3, _text(text)))))

    graph = [node(NODES[0][1], (1, b"layer-2"), (0, b"itself")), node(NODES[1][1])]
    whole = message((2, message((7, b"".join(message((1, one)) for one in graph)))))
    old = folder_of(nodes=[], graph=whole)(tmp_path / "old").encoder
    new = WHOLE(tmp_path / "new").encoder
    assert read_saved_model(old).config == read_saved_model(new).config
    assert sorted(read_saved_model(old).weights) == ["z_mean/bias:0", "z_mean/kernel:0"]


def test_arrays_in_several_shards(tmp_path: Path) -> None:
    rows = {"": message((1, 2)), "bias": entry((2,), 4, 8, shard=1)}
    folder = folder_of(rows=rows)(tmp_path).encoder
    first = folder / "variables/variables.data-00000-of-00001"
    kernel = np.arange(32, dtype="<f4")
    first.write_bytes(kernel.tobytes() + first.read_bytes()[128:])
    first.rename(folder / "variables/variables.data-00000-of-00002")
    second = folder / "variables/variables.data-00001-of-00002"
    second.write_bytes(bytes(4) + np.array([5, 6], "<f4").tobytes())
    weights = read_saved_model(folder).weights
    assert weights.array("z_mean/bias:0").tolist() == [5, 6]
    assert weights.array("z_mean/kernel:0").ravel().tolist() == kernel.tolist()
    second.write_bytes(bytes(8))
    with pytest.raises(ModelError, match="an array lies outside of its file"):
        read_saved_model(folder)


@pytest.mark.parametrize("case", SAVED, ids=lambda case: case.name)
def test_hostile_folders_are_refused(case: Any, tmp_path: Path) -> None:
    with pytest.raises(LatentDBError) as error:
        convert(case.make(tmp_path).encoder)
    assert case.error in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("file", ["keras_metadata.pb", "variables/variables.index"])
def test_no_damage_gives_a_traceback(file: str, tmp_path: Path) -> None:
    folder = WHOLE(tmp_path).encoder
    whole = (folder / file).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        for place in random.integers(0, len(data), random.integers(1, 4)).tolist():
            data[place] = int(random.integers(0, 256))
        (folder / file).write_bytes(bytes(data[: random.integers(0, len(data) + 1) or None]))
        try:
            read_saved_model(folder)
        except LatentDBError as error:
            assert str(error).isprintable()  # noqa: PT017


def test_what_is_no_saved_model_of_keras_is_said(
    saved: tuple[Path, Any, Any], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(saved[0] / "encoder", tmp_path / "encoder"))
    (folder / "keras_metadata.pb").unlink()  # as keras 3's export, or tf.saved_model.save
    with pytest.raises(ModelError, match=r"without Keras's configuration.* save the Keras model"):
        Codec.from_files(folder)
    with pytest.raises(ModelError, match="give the folder that it is in"):
        Codec.from_files(folder / "saved_model.pb")
    rows = {OBJECTS: entry((), len(ARRAYS), 3, STRING)}
    with pytest.raises(ModelError, match="is not a SavedModel of Keras"):
        read_saved_model(folder_of(rows=rows)(tmp_path / "cut").encoder)
