"""Write an encoder or a decoder, given as a tensorflow function, as an .onnx file.

This happens once, when a model is trained or enters a store.  `comparison_images`
and `difference` serve to compare the result with keras before it is used.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import ModelError
from latentdb.onnx.canonical import canonicalize
from latentdb.onnx.inspect import DOMAINS, FINGERPRINT, inspect

OPSET = 17  # of 2022: every ONNX Runtime with wheels for Python 3.10 runs it
_IMAGES = 48
_FLOAT = 1  # float32 in TensorProto.DataType

Floats = NDArray[np.float32]
Function = Callable[[Any], Any]


def is_available() -> bool:
    """Whether the packages that write ONNX (of the extra ``fast``) are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("tf2onnx", "onnx"))


def to_onnx(
    run: Function,
    shape: tuple[int | None, ...],
    fingerprint: str | None,
    outputs: Sequence[str] = (),
) -> bytes:
    """An .onnx file that computes what a tensorflow function computes.

    Parameters
    ----------
    run
        Takes float32 ``[n, *shape]``, gives a list of float32 tensors.
    shape
        Shape of one input.
    fingerprint
        Of the encoder or decoder, written into the file.
    outputs
        Names of the outputs; with them, equal networks give equal bytes.

    Raises
    ------
    ModelError
        If an operation has no counterpart in ONNX, or is not an allowed one.
    """
    import tensorflow as tf
    import tf2onnx

    spec = (tf.TensorSpec((None, *shape), tf.float32, name="values"),)
    traced = tf.function(run, input_signature=spec, autograph=False)
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # `inspect` reports the same below
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, _ = tf2onnx.convert.from_function(
                traced,
                input_signature=spec,
                opset=OPSET,
                custom_op_handlers={"Erfc": (_convert_erfc, [])},
            )
    except Exception as error:  # tf2onnx raises many types
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"the model cannot be written as ONNX: {reason}") from error
    finally:
        logger.setLevel(level)
    data = _serialize(model, fingerprint, outputs)
    inspect(data, "the compiled model")
    return data


def _convert_erfc(context: Any, node: Any, _name: str, _arguments: Any) -> Any:
    """Erfc (keras's gelu) as ``1 + erf(-x)``: tf2onnx 1.17 has no conversion of it."""
    from tf2onnx.utils import make_name

    shapes, dtypes = node.output_shapes, node.output_dtypes
    one = context.make_const(make_name("one"), np.array(1, np.float32)).output[0]
    source, output = node.inputs[0], node.output[0]
    is_product = source.type == "Mul"
    negations = [item for item in source.inputs if item.type == "Neg"] if is_product else []
    context.remove_node(node.name)
    if negations:  # erfc((-x) * c): the two minus signs cancel out
        negation = negations[0]
        factor = next(name for name in source.input if name != negation.output[0])
        operator, inputs = "Mul", [negation.input[0], factor]
    else:
        operator, inputs = "Neg", [node.input[0]]
    negated = context.make_node(operator, inputs, shapes=shapes, dtypes=dtypes)
    erf = context.make_node("Erf", [negated.output[0]], shapes=shapes, dtypes=dtypes)
    return context.make_node(
        "Add", [erf.output[0], one], name=node.name, outputs=[output], shapes=shapes, dtypes=dtypes
    )


def _serialize(model: Any, fingerprint: str | None, outputs: Sequence[str]) -> bytes:
    """The bytes of an ONNX model with its fingerprint, without opsets it does not need."""
    _normalize_gelu(model.graph)
    if outputs:
        canonicalize(model.graph, outputs)
    opsets = [(item.domain, item.version) for item in model.opset_import]
    del model.opset_import[:]
    for domain, number in opsets:
        if domain in DOMAINS:
            model.opset_import.add(domain=domain, version=number)
    if fingerprint is not None:
        model.metadata_props.add(key=FINGERPRINT, value=fingerprint)
    data: bytes = model.SerializeToString()
    return data


def _normalize_gelu(graph: Any) -> None:
    """Write ``(x * 0.5) * (1 + erf(x * c))`` with scalars and ``x / sqrt(2)``, in place.

    ONNX Runtime recognises this form as gelu and makes one pass of five
    (measured: 20 to 40 % of an encoder's time).
    """
    from onnx import numpy_helper

    constants = {
        tensor.name: float(numpy_helper.to_array(tensor).reshape(()))
        for tensor in graph.initializer
        if tensor.data_type == _FLOAT and np.prod(tensor.dims, dtype=np.int64) == 1
    }
    scalars = {f"latentdb_{value}": value for value in (0.5, 1.0, 2.0**0.5)}
    half, one, root = scalars
    producers: dict[str, Any] = {name: node for node in graph.node for name in node.output}
    consumers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)

    def other_input(node: Any, operator: str, value: float) -> str | None:
        """The variable input of ``operator(variable, value)``; None for another node."""
        if node is None or node.op_type != operator or len(node.input) != 2:
            return None
        rest = [n for n in node.input if not np.isclose(constants.get(n, np.nan), value)]
        return rest[0] if len(rest) == 1 else None

    found = False
    for erf in [node for node in graph.node if node.op_type == "Erf"]:
        before: Any = producers.get(erf.input[0])
        inner = other_input(before, "Mul", 0.5**0.5)
        after = consumers.get(erf.output[0], [])
        if inner is None or len(after) != 1 or other_input(after[0], "Add", 1.0) is None:
            continue
        outer = consumers.get(after[0].output[0], [])
        if len(outer) != 1 or outer[0].op_type != "Mul":
            continue
        scaled: list[Any] = [
            producers.get(name) for name in outer[0].input if name != after[0].output[0]
        ]
        if len(scaled) != 1 or other_input(scaled[0], "Mul", 0.5) != inner:
            continue
        before.op_type, found = "Div", True
        for node, inputs in (
            (before, (inner, root)),
            (after[0], (erf.output[0], one)),
            (scaled[0], (inner, half)),
        ):
            del node.input[:]
            node.input.extend(inputs)
    if found:
        for name, value in scalars.items():
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))


def comparison_images(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Fixed images to compare two forms of an encoder on: uint8 ``[48, *shape]``.

    A third each: noise, smooth gradients (closer to photos), and uniform grey
    levels from black to white.
    """
    random = np.random.default_rng(0)
    height, width, channels = shape
    third = _IMAGES // 3
    noise = random.integers(0, 256, (third, *shape))
    corners = random.integers(0, 256, (third, 2, 2, channels)).astype(np.float64)
    down = np.linspace(0, 1, height)[None, :, None, None]
    across = np.linspace(0, 1, width)[None, None, :, None]
    top = corners[:, None, 0, None, 0] * (1 - across) + corners[:, None, 0, None, 1] * across
    bottom = corners[:, None, 1, None, 0] * (1 - across) + corners[:, None, 1, None, 1] * across
    smooth = top * (1 - down) + bottom * down
    uniform = np.broadcast_to(np.linspace(0, 255, third)[:, None, None, None], (third, *shape))
    return np.concatenate([noise, smooth, uniform]).astype(np.uint8)


def difference(expected: Sequence[Floats], found: Sequence[Floats]) -> float:
    """The largest difference of two lists of outputs.

    Of each output it is divided by the output's largest absolute value where
    that is above 1.  Infinite where counts or shapes differ or a value is not
    finite.
    """
    worst = 0.0
    if len(expected) != len(found):
        return float("inf")
    for left, right in zip(expected, found, strict=True):
        if left.shape != right.shape or not (np.isfinite(left).all() and np.isfinite(right).all()):
            return float("inf")
        if left.size:
            scale = max(1.0, float(np.abs(left).max()))
            worst = max(worst, float(np.abs(left.astype(np.float64) - right).max()) / scale)
    return worst
