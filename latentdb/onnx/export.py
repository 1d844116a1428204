"""Compile one half of a keras model: from a function of tensorflow to an .onnx file.

Done once, when a model enters a store (or is trained), where tensorflow is
there anyway.  What is made is compared with what keras itself gives before it
is used for anything.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import ModelError
from latentdb.onnx.inspect import DOMAINS, FINGERPRINT, inspect

OPSET = 17  # of 2022; every ONNX Runtime that has wheels for Python 3.10 runs it
TOLERANCE = 1e-5  # of the largest value, where that is above 1
_PROBES = 48
_FLOAT = 1  # float32, in TensorProto.DataType

Floats = NDArray[np.float32]
Function = Callable[[Any], Any]


def is_available() -> bool:
    """Whether what the export needs is installed (the extra ``fast``)."""
    return all(importlib.util.find_spec(name) is not None for name in ("tf2onnx", "onnx"))


def export(run: Function, shape: tuple[int, ...], fingerprint: str) -> bytes:
    """Write a function of tensorflow as an .onnx file.

    Parameters
    ----------
    run
        Takes float32 ``[n, *shape]``, gives a list of float32 tensors.
    shape
        Of one input.
    fingerprint
        Of the half, kept in the file.

    Raises
    ------
    ModelError
        If something in it has no counterpart in ONNX.
    """
    import tensorflow as tf
    import tf2onnx

    spec = (tf.TensorSpec((None, *shape), tf.float32, name="values"),)
    traced = tf.function(run, input_signature=spec, autograph=False)
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it reports what `inspect` reports below
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, _ = tf2onnx.convert.from_function(
                traced,
                input_signature=spec,
                opset=OPSET,
                custom_op_handlers={"Erfc": (_convert_erfc, [])},
            )
    except Exception as error:  # whatever a converter raised
        told = " ".join(str(error).split())[:200]
        raise ModelError(f"the model cannot be written as ONNX: {told}") from error
    finally:
        logger.setLevel(level)
    data = _finish(model, fingerprint)
    inspect(data, "the compiled model")
    return data


def _convert_erfc(context: Any, node: Any, _name: str, _arguments: Any) -> Any:
    """Erfc, in which keras writes gelu, as ``1 + erf(-x)``: tf2onnx 1.17 does not know it."""
    from tf2onnx.utils import make_name

    shapes, dtypes = node.output_shapes, node.output_dtypes
    one = context.make_const(make_name("one"), np.array(1, np.float32)).output[0]
    source, output = node.inputs[0], node.output[0]
    signs = [part for part in source.inputs if part.type == "Neg"] if source.type == "Mul" else []
    context.remove_node(node.name)
    if signs:  # erfc((-x) * c): the two signs cancel each other
        factor = next(name for name in source.input if name != signs[0].output[0])
        turned = context.make_node("Mul", [signs[0].input[0], factor], shapes=shapes, dtypes=dtypes)
    else:
        turned = context.make_node("Neg", [node.input[0]], shapes=shapes, dtypes=dtypes)
    bell = context.make_node("Erf", [turned.output[0]], shapes=shapes, dtypes=dtypes)
    return context.make_node(
        "Add", [bell.output[0], one], name=node.name, outputs=[output], shapes=shapes, dtypes=dtypes
    )


def _finish(model: Any, fingerprint: str) -> bytes:
    """The bytes of an ONNX model with a fingerprint, and with the standard operators alone."""
    _spell_gelu(model.graph)
    kept = [(item.domain, item.version) for item in model.opset_import]
    del model.opset_import[:]
    for domain, number in kept:
        if domain in DOMAINS:
            model.opset_import.add(domain=domain, version=number)
    model.metadata_props.add(key=FINGERPRINT, value=fingerprint)
    data: bytes = model.SerializeToString()
    return data


def _spell_gelu(graph: Any) -> None:
    """Write ``(x * 0.5) * (1 + erf(x * c))`` with scalars and ``x / sqrt(2)``, in place.

    In this form ONNX Runtime takes it for gelu, and makes one pass of five:
    20 to 40 % of an encoder's time.
    """
    from onnx import numpy_helper

    values = {
        tensor.name: float(numpy_helper.to_array(tensor).reshape(()))
        for tensor in graph.initializer
        if tensor.data_type == _FLOAT and np.prod(tensor.dims, dtype=np.int64) == 1
    }
    scalars = {f"latentdb_{value}": value for value in (0.5, 1.0, 2.0**0.5)}
    half, one, root = scalars
    makers: dict[str, Any] = {name: node for node in graph.node for name in node.output}
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)

    def parted(node: Any, operator: str, value: float) -> str | None:
        """The input that is not the constant, if it is such an operation."""
        if node is None or node.op_type != operator or len(node.input) != 2:
            return None
        rest = [n for n in node.input if not np.isclose(values.get(n, np.nan), value)]
        return rest[0] if len(rest) == 1 else None

    found = False
    for bell in [node for node in graph.node if node.op_type == "Erf"]:
        before: Any = makers.get(bell.input[0])
        inner = parted(before, "Mul", 0.5**0.5)
        after = users.get(bell.output[0], [])
        if inner is None or len(after) != 1 or parted(after[0], "Add", 1.0) is None:
            continue
        outer = users.get(after[0].output[0], [])
        if len(outer) != 1 or outer[0].op_type != "Mul":
            continue
        scaled: list[Any] = [
            makers.get(name) for name in outer[0].input if name != after[0].output[0]
        ]
        if len(scaled) != 1 or parted(scaled[0], "Mul", 0.5) != inner:
            continue
        before.op_type, found = "Div", True
        for node, inputs in (
            (before, (inner, root)),
            (after[0], (bell.output[0], one)),
            (scaled[0], (inner, half)),
        ):
            del node.input[:]
            node.input.extend(inputs)
    if found:
        for name, value in scalars.items():
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))


def probes(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Images to compare two forms of an encoder on: uint8 ``[n, *shape]``, always the same.

    Noise, smooth pictures (which lie nearer to photos), and even black, grey
    and white.
    """
    random = np.random.default_rng(0)
    height, width, channels = shape
    third = _PROBES // 3
    noise = random.integers(0, 256, (third, *shape))
    corners = random.integers(0, 256, (third, 2, 2, channels)).astype(np.float64)
    down = np.linspace(0, 1, height)[None, :, None, None]
    across = np.linspace(0, 1, width)[None, None, :, None]
    top = corners[:, None, 0, None, 0] * (1 - across) + corners[:, None, 0, None, 1] * across
    bottom = corners[:, None, 1, None, 0] * (1 - across) + corners[:, None, 1, None, 1] * across
    smooth = top * (1 - down) + bottom * down
    even = np.broadcast_to(np.linspace(0, 255, third)[:, None, None, None], (third, *shape))
    return np.concatenate([noise, smooth, even]).astype(np.uint8)


def difference(expected: list[Floats], found: list[Floats]) -> float:
    """The largest difference of outputs, as a share of the largest value where that is above 1.

    Infinite where shapes or counts differ or a value is not finite.
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
