"""Operations in a graph of layers: slices, means, arithmetic, written by Keras 3 or by Keras 2.

None may mix the images of a batch: an axis that is the batch's is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentdb.base.wording import quoted
from latentdb.kerasfile.graph import Layer

_NUMBERS = frozenset((int, float))
_OPERANDS = ("x1", "x2", "x", "y", "xs", "values")  # keyword arguments that may be tensors
# What tensorflow's functions call the settings of keras's.
_RENAMED = {
    "shape": "newshape",
    "num_or_size_splits": "indices_or_sections",
    "clip_value_min": "x_min",
    "clip_value_max": "x_max",
    "slice_spec": "key",
    "perm": "axes",
    "alpha": "negative_slope",
}
_NEUTRAL = frozenset(("name", "dtype", "trainable", "function", "data_format"))
_PROBLEM = "is called with arguments that are not supported"


@dataclass(frozen=True)
class Operation:
    """An operation that is built.

    Attributes
    ----------
    operands
        How many tensors or numbers it takes; 0 for a list of tensors.
    settings
        Names of its other arguments.
    """

    operands: int
    settings: frozenset[str]


def _table(text: str) -> tuple[dict[str, Operation], dict[str, str]]:
    table, names = {}, {}
    for line in text.strip().splitlines():
        head, settings, known = (part.split() for part in line.split("|"))
        table[head[0]] = Operation(int(head[1]), frozenset(settings))
        names.update(dict.fromkeys(known, head[0]))
    return table, names


# Function of keras.ops and number of operands | settings | classes of Keras 3, functions of
# tensorflow in files of Keras 2.
_TABLE, OPERATIONS = _table("""
    add 2 | | Add math.add __operators__.add
    subtract 2 | | Subtract math.subtract
    multiply 2 | | Multiply math.multiply
    true_divide 2 | | TrueDivide Divide math.truediv math.divide
    maximum 2 | | Maximum math.maximum
    minimum 2 | | Minimum math.minimum
    power 2 | | Power math.pow
    negative 1 | | Negative math.negative
    relu 1 | | Relu nn.relu
    relu6 1 | | Relu6 nn.relu6
    leaky_relu 1 | negative_slope | LeakyRelu nn.leaky_relu
    elu 1 | alpha | Elu nn.elu
    gelu 1 | approximate | Gelu nn.gelu
    sigmoid 1 | | Sigmoid math.sigmoid nn.sigmoid
    hard_sigmoid 1 | | HardSigmoid
    tanh 1 | | Tanh math.tanh nn.tanh
    silu 1 | | Silu nn.silu
    softplus 1 | | Softplus math.softplus nn.softplus
    softmax 1 | axis | Softmax nn.softmax
    exp 1 | | Exp math.exp
    log 1 | | Log math.log
    sqrt 1 | | Sqrt math.sqrt
    square 1 | | Square math.square
    absolute 1 | | Absolute Abs math.abs
    clip 1 | x_min x_max | Clip clip_by_value
    mean 1 | axis keepdims | Mean math.reduce_mean
    sum 1 | axis keepdims | Sum math.reduce_sum
    max 1 | axis keepdims | Max math.reduce_max
    min 1 | axis keepdims | Min math.reduce_min
    concatenate 0 | axis | Concatenate concat
    split 1 | indices_or_sections axis | Split split
    get_item 1 | key | GetItem __operators__.getitem
    reshape 1 | newshape | Reshape reshape
    transpose 1 | axes | Transpose transpose
    expand_dims 1 | axis | ExpandDims expand_dims
    squeeze 1 | axis | Squeeze squeeze
    depth_to_space 1 | block_size | DepthToSpace nn.depth_to_space
""")


def operation_of(layer: Layer) -> str | None:
    """The keras.ops function of an operation in the graph; None for a layer."""
    if layer.kind in ("TFOpLambda", "SlicingOpLambda"):
        return OPERATIONS.get(str(layer.config.get("function")).removeprefix("compat.v1."))
    if layer.module.startswith(("keras.src.ops", "keras.ops")):
        return OPERATIONS.get(layer.kind)
    return None


def settings_of(layer: Layer) -> dict[str, Any]:
    """The settings that an operation's configuration holds: those of Keras 3."""
    operation = _TABLE[operation_of(layer) or ""]
    return {key: layer.config[key] for key in operation.settings if key in layer.config}


def apply(ops: Any, layer: Layer, args: Sequence[Any], kwargs: Mapping[str, Any], of: int) -> Any:
    """The result of one call of an operation.

    Parameters
    ----------
    ops
        ``keras.ops``.
    layer
        The operation.
    args, kwargs
        Arguments of the call, with tensors in place of references.
    of
        Which of its outputs.

    Raises
    ------
    ValueError
        If the arguments are none that latentdb supports.
    """
    name = operation_of(layer) or ""
    operation = _TABLE[name]
    if of and name != "split":
        raise ValueError("has one output, and the configuration uses another")
    operands, settings = _arguments(operation, layer, args, kwargs)
    if name == "concatenate":
        tensors = operands[0] if len(operands) == 1 else None
        if not isinstance(tensors, list) or not all(_is_tensor(item) for item in tensors):
            raise ValueError(_PROBLEM)
        axis = _axis(settings.get("axis", -1), tensors[0])
        return ops.concatenate(tensors, axis=axis)
    if len(operands) != operation.operands or not any(map(_is_tensor, operands)):
        raise ValueError(_PROBLEM)
    if not all(_is_tensor(item) or type(item) in _NUMBERS for item in operands):
        raise ValueError("is called with other arguments than tensors and numbers")
    if name == "split":
        return _split(ops, operands[0], settings, of)
    if name in _SPECIAL:
        return _SPECIAL[name](ops, operands[0], settings)
    if "axis" in operation.settings:
        default = None if name in ("mean", "sum", "max", "min", "squeeze") else -1
        axis = settings.get("axis", default)
        settings["axis"] = _axis(axis, operands[0], new=name == "expand_dims")
    if not all(isinstance(value, bool | int | float | list | tuple) for value in settings.values()):
        raise ValueError(_PROBLEM)
    return getattr(ops, name)(*operands, **settings)


def _arguments(
    operation: Operation, layer: Layer, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Tensors and numbers, and settings, of a call."""
    operands, settings = list(args), settings_of(layer)
    for key, value in kwargs.items():
        renamed = key if key in operation.settings else _RENAMED.get(key, key)
        if renamed in operation.settings:
            settings[renamed] = value
        elif key in _OPERANDS:
            operands.append(value)
        elif value not in (None, False):
            raise ValueError(_PROBLEM)
    for key, value in layer.config.items():
        if key not in operation.settings | _NEUTRAL and value not in (None, False):
            raise ValueError(f"has a setting {quoted(key)} that is not supported")
    if layer.config.get("data_format") == "channels_first":
        raise ValueError("takes channels first: expected channels last")
    if "key" in operation.settings and len(operands) == 2:
        settings["key"] = operands.pop()
    return operands, settings


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _axis(value: Any, tensor: Any, *, new: bool = False) -> Any:
    """An axis, or several, none of which is the batch's."""
    rank = len(tensor.shape) + int(new)
    axes = value if isinstance(value, list | tuple) else [value]
    if not axes or not all(type(axis) is int and -rank <= axis < rank for axis in axes):
        raise ValueError("reduces over the batch, or over axes that its input does not have")
    positive = [axis % rank for axis in axes]
    if 0 in positive:
        raise ValueError("works along the axis of the batch")
    return positive if isinstance(value, list | tuple) else positive[0]


def _get_item(ops: Any, tensor: Any, settings: Mapping[str, Any]) -> Any:
    del ops
    key = settings.get("key")
    items = [_index(item) for item in (key if isinstance(key, list) else [key])]
    # An ellipsis does not cover the axis of the batch if an index follows for every axis.
    covered = items[0] is Ellipsis and sum(item is not None for item in items) <= len(tensor.shape)
    if not covered and items[0] != slice(None):
        raise ValueError("takes single images out of the batch")
    return tensor[tuple(items)]


def _index(item: Any) -> Any:
    """A slice, a number, an ellipsis or a new axis, of the notation of Keras 3 or Keras 2."""
    if item is None or type(item) is int:
        return item
    if isinstance(item, dict) and item.get("class_name") == "__ellipsis__":
        return Ellipsis
    if isinstance(item, dict):
        parts = item["config"] if item.get("class_name") == "__slice__" else item
        bounds = [parts.get(key) for key in ("start", "stop", "step")]
        if all(bound is None or type(bound) is int for bound in bounds):
            return slice(*bounds)
    raise ValueError("is called with a slice that is not supported")


def _reshape(ops: Any, tensor: Any, settings: Mapping[str, Any]) -> Any:
    shape, numbers = settings.get("newshape"), math.prod(tensor.shape[1:])
    if not isinstance(shape, list | tuple) or not all(type(side) is int for side in shape):
        raise ValueError(_PROBLEM)
    if shape[0] != -1 or -1 in shape[1:] or math.prod(shape[1:]) != numbers:
        raise ValueError(f"reshapes to {list(shape)}: expected [-1, …] of {numbers} numbers")
    return ops.reshape(tensor, tuple(shape))


def _transpose(ops: Any, tensor: Any, settings: Mapping[str, Any]) -> Any:
    axes = settings.get("axes")
    if not isinstance(axes, list | tuple) or list(axes[:1]) != [0]:
        raise ValueError("moves the axis of the batch")
    return ops.transpose(tensor, tuple(axes))


def _split(ops: Any, tensor: Any, settings: Mapping[str, Any], of: int) -> Any:
    sections, axis = settings.get("indices_or_sections"), _axis(settings.get("axis", 0), tensor)
    size = tensor.shape[axis]
    if type(sections) is not int or not 0 < sections <= 64 or size is None or size % sections:
        raise ValueError("splits into other than equal parts")
    if not 0 <= of < sections:
        raise ValueError(f"has {sections} outputs, and the configuration uses another")
    return ops.split(tensor, sections, axis=axis)[of]


def _depth_to_space(ops: Any, tensor: Any, settings: Mapping[str, Any]) -> Any:
    height, width, channels = tensor.shape[1:]
    size = settings.get("block_size")
    if type(size) is not int or not 0 < size <= 64 or channels % size**2:
        raise ValueError("has a block size that does not divide its channels")
    depth = channels // size**2
    blocks = ops.reshape(tensor, (-1, height, width, size, size, depth))
    moved = ops.transpose(blocks, (0, 1, 3, 2, 4, 5))
    return ops.reshape(moved, (-1, height * size, width * size, depth))


_SPECIAL = {
    "get_item": _get_item,
    "reshape": _reshape,
    "transpose": _transpose,
    "depth_to_space": _depth_to_space,
}
