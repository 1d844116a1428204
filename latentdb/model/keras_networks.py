"""The Keras form of an encoder and a decoder: run by tensorflow, listed and drawn for people."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import MissingExtraError, ModelError
from latentdb.base.outputs import write_output
from latentdb.kerasfile.runtime import load_keras, save

Floats = NDArray[np.float32]


def run_network(run: Callable[[Any], Any], values: Floats, refusal: str) -> list[Floats]:
    """The outputs of an encoder or a decoder; `refusal` begins the error if it fails."""
    try:
        return [np.asarray(output, np.float32) for output in run(values)]
    except ModelError:
        raise
    except Exception as error:  # tensorflow's own types, which would have to be imported
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{refusal} of shape {values.shape[1:]}: {reason}") from error


def add_sigmoid(decoder: Any) -> bytes:
    """The .keras file of a keras decoder with a sigmoid behind it."""
    keras = load_keras()
    images = keras.layers.Activation("sigmoid", name="pixels")(decoder.outputs[0])
    return save(keras.Model(decoder.inputs, images, name="decoder"))


def graph_function(inputs: Any, outputs: list[Any]) -> Any:
    """A tensorflow function from one float32 batch of any length to a list of outputs."""
    keras = load_keras()
    import tensorflow as tf

    network = keras.Model(inputs, outputs)
    shape = tuple(network.inputs[0].shape)

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[tf.TensorSpec(None, tf.float32)], autograph=False
    )
    def run(values: Any) -> Any:
        if len(shape) != 4 and None not in shape[1:]:  # an encoder of flattened images
            values = tf.reshape(values, (tf.shape(values)[0], *shape[1:]))
        result = network(tf.ensure_shape(values, shape), training=False)
        return result if isinstance(result, list | tuple) else [result]

    return run


def summaries(encoder: Any, decoder: Any) -> str:
    """Keras's summaries of an encoder and of its decoder (or None)."""
    lines: list[str] = []
    for model in (encoder, decoder):
        if model is not None:
            model.summary(print_fn=lines.append)
    return "\n".join(lines)


def check_plot() -> None:
    """Raise `MissingExtraError` or `ModelError` where `plot` cannot work."""
    try:
        import pydot  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("drawing a model", "plot") from error
    if shutil.which("dot") is None:
        raise ModelError(
            "drawing a model needs the program 'dot': install graphviz "
            "(apt install graphviz, brew install graphviz)"
        )


def plot(encoder: Any, decoder: Any, path: str | os.PathLike[str]) -> None:
    """Draw an encoder and its decoder (or None) as one graph."""
    keras, model = load_keras(), encoder
    if decoder is not None:
        outputs = list(encoder.outputs)
        latent = outputs[-1] if len(outputs) == 3 else outputs[0]
        model = keras.Model(encoder.inputs, decoder(latent), name="vae")
    with TemporaryDirectory() as folder:
        drawn = Path(folder, "model").with_suffix(Path(path).suffix)
        keras.utils.plot_model(
            model,
            to_file=os.fspath(drawn),
            show_shapes=True,
            show_layer_names=True,
            expand_nested=True,
            dpi=96,
        )
        write_output(path, drawn.read_bytes())
