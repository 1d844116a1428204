"""Forms in which old versions of Keras wrote models, and calls as in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentdb.base.errors import ModelError
from latentdb.kerasfile.convert import convert, load_model
from latentdb.kerasfile.runtime import load_keras


def values(*shape: int) -> Any:
    return np.random.default_rng(0).random((3, *shape)).astype(np.float32)


def test_a_loss_of_tensors_downstream_is_left_out(tmp_path: Path) -> None:
    """``vae.add_loss(-0.5 * mean(1 + log_var - …))``: its constants are no layers."""
    keras = pytest.importorskip("tf_keras")
    import tensorflow as tf

    layers = keras.layers
    inputs = keras.Input((8,))
    hidden = layers.Dense(6, activation="relu")(inputs)
    mean, log_var = (
        layers.Dense(2, name="z_mean")(hidden),
        layers.Dense(2, name="z_log_var")(hidden),
    )
    images = layers.Dense(8, name="decoder_out")(mean)
    vae = keras.Model(inputs, images)
    vae.add_loss(-0.5 * tf.reduce_mean(1.0 + log_var - tf.square(mean) - tf.exp(log_var)))
    vae.save(tmp_path / "vae.h5")
    converted = convert(tmp_path / "vae.h5", image_size=(2, 4))
    assert converted.has_z_log_var
    assert converted.decoder is not None
    expected = keras.Model(inputs, mean)(values(8))
    found = load_model(converted.encoder, "it")(values(8))[0]
    assert np.allclose(np.asarray(found), np.asarray(expected), atol=1e-6)


def test_resizing_and_cropping_are_built(tmp_path: Path) -> None:
    """Keras calls them with training=True, which makes no difference to them."""
    keras = load_keras()
    layers = keras.layers
    inputs = keras.Input((9, 9, 1))
    x = layers.CenterCrop(4, 4)(layers.Resizing(6, 6)(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="z_mean")(layers.Flatten()(x)))
    model.save(tmp_path / "e.keras")
    converted = convert(tmp_path / "e.keras")
    assert converted.notes == ()
    found = load_model(converted.encoder, "it")(values(9, 9, 1))
    assert np.array_equal(np.asarray(found), np.asarray(model(values(9, 9, 1))))


def test_dropout_as_in_training_is_noted(tmp_path: Path) -> None:
    for name in ("keras", "tf_keras"):
        keras = load_keras() if name == "keras" else pytest.importorskip("tf_keras")
        inputs = keras.Input((4,))
        keras.utils.set_random_seed(1)  # a training that was deterministic demands one
        x = keras.layers.Dropout(0.5, name="noise")(inputs, training=True)
        keras.Model(inputs, keras.layers.Dense(2, name="z_mean")(x)).save(tmp_path / f"{name}.h5")
        (note,) = convert(tmp_path / f"{name}.h5").notes
        assert note.startswith("Dropout 'noise' is called with training=True: latentdb leaves it")


def test_normalisation_by_the_batch_is_refused(tmp_path: Path) -> None:
    """A latent must not depend on the images beside its own."""
    for name in ("keras", "tf_keras"):
        keras = load_keras() if name == "keras" else pytest.importorskip("tf_keras")
        inputs = keras.Input((4,))
        x = keras.layers.BatchNormalization(name="norm")(inputs, training=True)
        keras.Model(inputs, keras.layers.Dense(2, name="z_mean")(x)).save(tmp_path / f"{name}.h5")
        with pytest.raises(ModelError, match="BatchNormalization 'norm' is called with arguments"):
            convert(tmp_path / f"{name}.h5")
