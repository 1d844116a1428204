"""Exporting a network: the .onnx file equals keras to 1e-5."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from latentdb.base.errors import ModelError
from latentdb.kerasfile.runtime import load_keras
from latentdb.onnx import runtime
from latentdb.onnx.compiled import TOLERANCE
from latentdb.onnx.export import comparison_images, difference, to_onnx
from latentdb.onnx.inspect import inspect

pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")

SHAPE = (16, 16, 3)


def function(model: Any) -> Any:
    def run(values: Any) -> Any:
        result = model(values, training=False)
        return result if isinstance(result, list | tuple) else [result]

    return run


def values(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(40, *shape)).astype(np.float32)


def check(model: Any, shape: tuple[int, ...]) -> frozenset[str]:
    """Compile a model, compare it with keras, and give the operators it needs."""
    run = function(model)
    data = to_onnx(run, shape, "f")
    batch = values(shape)
    compiled = runtime.CompiledNetwork(data, "it", fingerprint="f")
    expected = [np.asarray(part) for part in run(batch)]
    assert difference(expected, compiled(batch)) <= TOLERANCE
    assert difference([part[:1] for part in expected], compiled(batch[:1])) <= TOLERANCE
    return inspect(data, "it").operators


@pytest.mark.parametrize("shape", [(32, 32, 3), (30, 20, 1), (128, 96, 3)])
def test_the_conv_vae_equals_keras(shape: tuple[int, int, int]) -> None:
    """All its branches, with weights and statistics that are not those of the start."""
    keras = load_keras()
    from latentdb.model.network import ConvNetwork, Design, pooling
    from latentdb.model.pca import area_pooled, fit_pca

    random = np.random.default_rng(2)
    images = random.integers(0, 256, (40, *shape), np.uint8)
    pca = fit_pca(area_pooled(images, pooling(shape)), 8)
    design = Design(shape, 8, semantic_dims=2)
    vae = ConvNetwork(design, pca, beta=0.1, seed=1).vae
    for model in (vae.encoder, vae.decoder):
        for layer in model.layers:
            layer.set_weights(
                [w + random.uniform(0, 0.1, w.shape).astype("f4") for w in layer.get_weights()]
            )
    encoder = keras.Model(vae.encoder.inputs, list(vae.encoder.outputs)[:2])
    assert "RandomNormal" not in check(encoder, shape)
    check(vae.decoder, (8,))


def layers_of(kind: str) -> Any:
    """A network with one kind of layer people build VAEs of."""
    keras = load_keras()
    layers = keras.layers
    keras.utils.set_random_seed(4)
    inputs = keras.Input(SHAPE)
    if kind == "pooling":
        hidden = layers.MaxPooling2D(2)(layers.Conv2D(8, 3, activation="relu")(inputs))
        hidden = layers.AveragePooling2D(2, padding="same")(hidden)
    elif kind == "separable":
        hidden = layers.SeparableConv2D(8, 3, padding="same", activation="swish")(inputs)
        hidden = layers.DepthwiseConv2D(3, strides=2, activation="elu")(hidden)
    elif kind == "upsampling":
        hidden = layers.UpSampling2D(2)(layers.ZeroPadding2D(1)(inputs))
        hidden = layers.Cropping2D(1)(layers.UpSampling2D(2, interpolation="bilinear")(hidden))
        hidden = layers.Conv2D(4, 5, strides=3, activation="tanh")(hidden)
    elif kind == "normalised":
        hidden = layers.LayerNormalization()(layers.Rescaling(2.0, offset=-1)(inputs))
        hidden = layers.GroupNormalization(3)(hidden)
        hidden = layers.LeakyReLU()(layers.Conv2D(8, 3, dilation_rate=2)(hidden))
    elif kind == "residual":
        hidden = layers.Conv2D(3, 3, padding="same", activation="gelu")(inputs)
        hidden = layers.Concatenate()([layers.Add()([inputs, hidden]), hidden])
        hidden = layers.Dropout(0.5)(layers.PReLU()(hidden))
    else:
        hidden = layers.Dense(8, activation=kind)(inputs)
    flat = layers.Flatten()(hidden)
    return keras.Model(inputs, [layers.Dense(4)(flat), layers.GlobalAveragePooling2D()(hidden)])


@pytest.mark.parametrize(
    "kind",
    ["pooling", "separable", "upsampling", "normalised", "residual", "selu", "softplus", "gelu"],
)
def test_layers_that_vaes_are_built_of_equal_keras(kind: str) -> None:
    check(layers_of(kind), SHAPE)


def test_gelu_is_written_as_runtimes_know_it() -> None:
    onnx = pytest.importorskip("onnx")
    data = to_onnx(function(layers_of("gelu")), SHAPE, "f")
    nodes = [node.op_type for node in onnx.load_from_string(data).graph.node]
    assert nodes.count("Div") == nodes.count("Erf") == 1


def test_what_draws_random_numbers_is_refused() -> None:
    import tensorflow as tf

    def run(batch: Any) -> Any:
        return [batch + tf.random.normal((4,))]

    with pytest.raises(ModelError, match="operator 'RandomNormal' is not on the list of allowed"):
        to_onnx(run, (4,), "f")


def test_what_has_no_counterpart_is_an_error_of_one_line() -> None:
    import tensorflow as tf

    def run(batch: Any) -> Any:
        return [tf.cast(tf.signal.rfft(batch), tf.float32)]

    with pytest.raises(ModelError) as caught:
        to_onnx(run, (4,), "f")
    assert "\n" not in str(caught.value)


def test_difference_is_absolute_for_small_values_and_relative_for_large() -> None:
    small, large = np.full((1, 2), 0.5, np.float32), np.full((1, 2), 200, np.float32)
    assert difference([small], [small + np.float32(0.25)]) == 0.25
    assert difference([large], [large + np.float32(2)]) == pytest.approx(0.01)
    assert difference([small], [small, small]) == np.inf
    assert difference([small], [small[:, :1]]) == np.inf
    assert difference([small], [small * np.float32(np.nan)]) == np.inf


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 9, 3)])
def test_comparison_images_differ_and_always_the_same(shape: tuple[int, int, int]) -> None:
    images = comparison_images(shape)
    assert images.shape == (48, *shape)
    assert images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 48
    assert np.array_equal(images, comparison_images(shape))
    assert {int(images.min()), int(images.max())} == {0, 255}
