"""Operations between layers, and layers that hold others: computed as keras computes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentdb.base.errors import ModelError
from latentdb.kerasfile.convert import convert, load_model
from latentdb.kerasfile.runtime import load_keras
from zoo.hostile import layer_of, rewritten

SHAPE = (8, 8, 4)


def keras_named(name: str) -> Any:
    return load_keras() if name == "keras" else pytest.importorskip("tf_keras")


def save_and_compare(keras: Any, inputs: Any, x: Any, folder: Path, suffix: str) -> None:
    """z_mean of the converted file is that of keras, also after it was saved again."""
    flat = keras.layers.Flatten(name="z_mean")(x)
    model = keras.Model(inputs, flat)
    random = np.random.default_rng(5)
    model.set_weights([random.normal(size=one.shape) for one in model.get_weights()])
    model.save(folder / f"e{suffix}")
    converted = convert(folder / f"e{suffix}")
    values = random.normal(size=(3, *SHAPE)).astype(np.float32)
    expected = np.asarray(model(values, training=False))
    found = np.asarray(load_model(converted.encoder, "it")(values))
    assert np.allclose(found, expected, atol=1e-5)


NEW = {
    "slice": lambda k, x: x[:, 1:5, ::2],
    "ellipsis": lambda k, x: x[..., 1:3],
    "row": lambda k, x: x[:, -1],
    "mean": lambda k, x: k.ops.mean(x, axis=[1, 2]),
    "sum": lambda k, x: k.ops.sum(x, axis=-1, keepdims=True),
    "max": lambda k, x: k.ops.max(x, axis=3) - k.ops.min(x, axis=3),
    "second part": lambda k, x: k.ops.split(x, 2, axis=-1)[1],
    "concatenate": lambda k, x: k.ops.concatenate([x, x * 2], axis=1),
    "reshape": lambda k, x: k.ops.reshape(x, (-1, 16, 16)),
    "transpose": lambda k, x: k.ops.transpose(x, (0, 3, 1, 2)),
    "expand": lambda k, x: k.ops.squeeze(k.ops.expand_dims(x, 1), 1),
    "depth_to_space": lambda k, x: k.ops.reshape(
        k.ops.transpose(k.ops.reshape(x, (-1, 8, 8, 2, 2, 1)), (0, 1, 3, 2, 4, 5)), (-1, 16, 16, 1)
    ),
    "functions": lambda k, x: k.ops.exp(-k.ops.abs(x)) + k.ops.clip(k.ops.square(x), 0.1, 0.7),
    "hard_sigmoid": lambda k, x: k.layers.Activation("hard_sigmoid")(k.ops.hard_sigmoid(x)),
    "leaky": lambda k, x: k.ops.leaky_relu(x, 0.3) + k.ops.maximum(x, 0.5),
    "attention": lambda k, x: k.layers.MultiHeadAttention(2, 3)(
        *[k.layers.Reshape((64, 4))(x)] * 2
    ),
    "attention, one bias less": lambda k, x: k.layers.MultiHeadAttention(
        2, 3, value_dim=5, use_bias=False, output_shape=7
    )(x, x),
    "spectral": lambda k, x: k.layers.SpectralNormalization(k.layers.Conv2D(3, 3))(x),
    "distributed": lambda k, x: k.layers.TimeDistributed(k.layers.Dense(3, activation="tanh"))(
        k.layers.Reshape((64, 4))(x)
    ),
}


@pytest.mark.parametrize("name", NEW)
def test_operations_of_keras_3(name: str, tmp_path: Path) -> None:
    keras = load_keras()
    inputs = keras.Input(SHAPE)
    save_and_compare(keras, inputs, NEW[name](keras, inputs), tmp_path, ".keras")


OLD = {
    "slice": lambda k, tf, x: x[:, 1:5, ::2],
    "mean": lambda k, tf, x: tf.reduce_mean(x, axis=[1, 2]),
    "max": lambda k, tf, x: tf.reduce_max(x, axis=3, keepdims=True),
    "second part": lambda k, tf, x: tf.split(x, 2, axis=3)[1],
    "concat": lambda k, tf, x: tf.concat([x, x * 2], -1),
    "reshape": lambda k, tf, x: tf.reshape(x, (-1, 16, 16)),
    "transpose": lambda k, tf, x: tf.transpose(x, [0, 3, 1, 2]),
    "depth_to_space": lambda k, tf, x: tf.nn.depth_to_space(x, 2),
    "functions": lambda k, tf, x: 1.0 - tf.exp(-tf.abs(x)) + tf.square(x),
    "hard_sigmoid": lambda k, tf, x: k.layers.Dense(3, activation="hard_sigmoid")(x),
    "hard_sigmoid called": lambda k, tf, x: k.activations.hard_sigmoid(x),
    "attention": lambda k, tf, x: k.layers.MultiHeadAttention(2, 3)(
        *[k.layers.Reshape((64, 4))(x)] * 2
    ),
    "distributed": lambda k, tf, x: k.layers.TimeDistributed(k.layers.Dense(3))(
        k.layers.Reshape((64, 4))(x)
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_operations_of_keras_2(name: str, tmp_path: Path) -> None:
    keras = keras_named("tf_keras")
    import tensorflow as tf

    inputs = keras.Input(SHAPE)
    save_and_compare(keras, inputs, OLD[name](keras, tf, inputs), tmp_path, ".h5")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda k, x: x - k.ops.mean(x), "reduces over the batch"),
        (lambda k, x: x - k.ops.mean(x, axis=0, keepdims=True), "along the axis of the batch"),
        (lambda k, x: k.ops.concatenate([x, x], axis=0), "along the axis of the batch"),
        (lambda k, x: k.ops.reshape(x, (-1, 4)), "expected \\[-1, …\\] of 256 numbers"),
        (lambda k, x: x[:2, 1:], "takes single images out of the batch"),
        (lambda k, x: x[..., :2, 1:, :, :], "takes single images out of the batch"),
    ],
)
def test_what_mixes_images_is_refused(make: Any, problem: str, tmp_path: Path) -> None:
    keras = load_keras()
    inputs = keras.Input(SHAPE)
    z_mean = keras.layers.Dense(2, name="z_mean")(make(keras, inputs))
    keras.Model(inputs, z_mean).save(tmp_path / "e.keras")
    with pytest.raises(ModelError, match=problem):
        convert(tmp_path / "e.keras")


@pytest.mark.parametrize("name", ["MultiHeadAttention", "Conv2D"])
def test_every_call_of_a_layer_is_counted(name: str, tmp_path: Path) -> None:
    """A layer that is small at its first call may be too large at its second."""
    keras = load_keras()
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    pair = [inputs, layers.UpSampling2D(16)(inputs)]
    if name == "Conv2D":
        shared = layers.Conv2D(1, 3, padding="same", dilation_rate=4090)
        parts = [layers.GlobalAveragePooling2D()(shared(x)) for x in pair]
    else:
        shared, pair = layers.MultiHeadAttention(1, 1), [layers.Reshape((-1, 1))(x) for x in pair]
        parts = [layers.GlobalAveragePooling1D()(shared(x, x)) for x in pair]
    keras.Model(inputs, layers.Concatenate(name="z_mean")(parts)).save(tmp_path / "e.keras")
    with pytest.raises(ModelError, match="for one image, at most 67,108,864 numbers"):
        convert(tmp_path / "e.keras", image_size=(8, 8), channels=1)


def test_attention_needs_weights_of_its_shape(tmp_path: Path) -> None:
    """A configuration of a billion heads allocates nothing."""
    keras = load_keras()
    inputs = keras.Input((6, 4))
    x = keras.layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
    keras.Model(inputs, keras.layers.Flatten(name="z_mean")(x)).save(tmp_path / "e.keras")
    rewritten(
        tmp_path / "e.keras",
        config=lambda config: layer_of(config, "attention")["config"].update(num_heads=10**9),
    )
    with pytest.raises(ModelError, match=r"needs query_dense of shape \[4, 1000000000, 3\]"):
        convert(tmp_path / "e.keras")
