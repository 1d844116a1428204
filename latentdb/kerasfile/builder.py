"""Build a keras model from allow-listed layers of a file, none of whose code is run.

A layer is looked up by its class's name in a table of layers, and gets only the
settings in that table; initializers, regularizers and constraints are dropped.
The file's arrays must have the shapes that the settings ask for before anything
is allocated.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import LayerError, ModelError, UntrustedModelError
from latentdb.base.wording import clipped, quoted
from latentdb.kerasfile.container import ModelFile
from latentdb.kerasfile.cost import Cost
from latentdb.kerasfile.graph import Call, Layer, Ref, Step, Tensor, is_keras, upstream
from latentdb.kerasfile.layers import (
    ACTIVATION_LAYERS,
    ACTIVATIONS,
    ALLOWED_LAYERS,
    HARMLESS_VALUES,
    IGNORED_SETTINGS,
    RENAMED_SETTINGS,
    unsupported,
)
from latentdb.kerasfile.operations import apply, operation_of
from latentdb.kerasfile.runtime import restored_random

TRUST_HINT = "if you trust whoever made it, --trust-model runs its code"
_MAX_BUILT = 2000  # layers of a network; EfficientNetB7 has 800
_MAX_VALUES = 100_000  # in one setting
_COLOURS = re.compile("\x1b\\[[0-9;]*m")  # in keras's messages
_CALL_ERRORS = (ValueError, TypeError, LookupError, AttributeError)


@dataclass(frozen=True, eq=False)
class Built:
    """A model built by `Builder`.

    Attributes
    ----------
    model
        The ``keras.Model``.
    """

    model: Any

    @property
    def shapes(self) -> list[tuple[int | None, ...]]:
        """Shapes of its outputs, without the batch axis."""
        return [tuple(output.shape[1:]) for output in self.model.outputs]


class Builder:
    """Builds keras models from the layers of one file.

    Parameters
    ----------
    file
        The file, for its weights and its name.
    keras
        The keras module, imported by the caller because it takes seconds.
    latentdb_layers
        latentdb's layer classes by name that may be built too; they have no
        weights.
    """

    def __init__(
        self, file: ModelFile, keras: Any, latentdb_layers: Mapping[str, Any] | None = None
    ) -> None:
        self._file = file
        self._keras = keras
        self._latentdb_layers = dict(latentdb_layers or {})
        self._names: set[str] = set()
        self._cost = Cost(file.name)

    @restored_random()
    def build(
        self,
        outputs: Sequence[Tensor],
        inputs: Mapping[Tensor, tuple[int | None, ...]],
        *,
        cut: Collection[Tensor] = (),
        name: str,
        flat_inputs: bool = False,
    ) -> Built:
        """Build the layers between inputs and outputs, with their weights.

        Parameters
        ----------
        outputs
            The model's outputs, in order.
        inputs
            Shape of each input upstream of them, without the batch axis.
        cut
            Tensors that count as inputs.
        name
            Name of the model.
        flat_inputs
            Take one vector, of which the inputs are parts in the order of `inputs`.

        Raises
        ------
        ModelError
            If a layer is not supported, or does not fit its weights.
        """
        steps = upstream(outputs, cut)
        check(steps, self._file.name, self._latentdb_layers)
        if len(steps) > _MAX_BUILT:
            raise ModelError(
                f"{self._file.name} is refused: {len(steps):,} layers are upstream of "
                f"{outputs[0].quoted}, at most {_MAX_BUILT:,}"
            )
        self._names = set()
        self._cost = Cost(self._file.name)
        tensors: dict[Tensor, Any] = {}
        layers: dict[Layer, Any] = {}
        model_inputs = []
        parts: dict[Tensor, Any] = {}
        if flat_inputs and len(inputs) > 1:
            whole, parts = self._parts(inputs)
            model_inputs.append(whole)
        for step in steps:
            if step.action == "input":
                if step.tensor not in inputs:
                    raise ModelError(
                        f"{self._file.name} is refused: it also depends on the input "
                        f"{step.tensor.quoted}; expected one image as its only input"
                    )
                shape = inputs[step.tensor]
                self._cost.add_tensor(step.tensor.label, shape)
                if parts:
                    tensors[step.tensor] = parts[step.tensor]
                    continue
                name_of_input = self._name(step.tensor.layer)
                is_flat = flat_inputs and len(shape) > 1
                size = (math.prod(side or 0 for side in shape),) if is_flat else shape
                model_inputs.append(self._keras.Input(size, name=name_of_input))
                tensors[step.tensor] = model_inputs[-1]
                if is_flat:
                    tensors[step.tensor] = self._keras.layers.Reshape(shape)(model_inputs[-1])
            elif step.action == "same":
                tensors[step.tensor] = tensors[step.needs[0]]
            else:
                tensors[step.tensor] = self._apply(step, tensors, layers)
        if not model_inputs:
            raise ModelError(f"{self._file.name} is refused: its z_mean depends on no image")
        results = [tensors[tensor] for tensor in outputs]
        try:
            single = model_inputs[0] if len(model_inputs) == 1 else model_inputs
            model = self._keras.Model(single, results, name=name)
        except RecursionError as error:
            raise ModelError(
                f"{self._file.name} is refused: it is {len(steps)} layers deep"
            ) from error
        return Built(model)

    def _parts(
        self, inputs: Mapping[Tensor, tuple[int | None, ...]]
    ) -> tuple[Any, dict[Tensor, Any]]:
        """A vector, and the inputs that are parts of it."""
        sizes = [math.prod(side or 0 for side in shape) for shape in inputs.values()]
        whole = self._keras.Input((sum(sizes),), name="values")
        parts, start = {}, 0
        for (tensor, shape), size in zip(inputs.items(), sizes, strict=True):
            part = whole[:, start : start + size]
            parts[tensor] = part if len(shape) == 1 else self._keras.layers.Reshape(shape)(part)
            start += size
        return whole, parts

    def _name(self, layer: Layer) -> str:
        base = re.sub(r"[^\w.-]+", "_", layer.name)[:80] or "layer"
        name, number = base, 1
        while name in self._names:
            number += 1
            name = f"{base}_{number}"
        self._names.add(name)
        return name

    def _apply(self, step: Step, tensors: Mapping[Tensor, Any], layers: dict[Layer, Any]) -> Any:
        """The result of one call of a layer or an operation."""
        layer, call, submodel = step.tensor.layer, step.call, step.tensor.submodel
        operation = operation_of(layer)
        if step.tensor.ref.tensor and operation is None:
            raise self._error(layer, "has one output, and the configuration uses another")

        def argument(value: Any) -> Any:
            if isinstance(value, Ref):
                return tensors[Tensor(submodel, value)]
            if isinstance(value, list):
                return [argument(item) for item in value]
            return value

        try:
            if operation is not None:
                values = [argument(value) for value in call.args]
                more = {key: argument(value) for key, value in call.kwargs.items()}
                try:
                    number = step.tensor.ref.tensor
                    result = apply(self._keras.ops, layer, values, more, number)
                except _CALL_ERRORS as error:
                    raise self._error(layer, " ".join(str(error).split())[:200]) from error
            elif layer.kind == "MultiHeadAttention":
                result = self._attend(layer, call, argument, layers)
            else:
                unknown = [
                    key
                    for key, value in call.kwargs.items()
                    if value is not False and (key != "training" or step.trains)
                ]
                if unknown or len(call.args) != 1 or not _is_input(call.args[0]):
                    raise self._error(layer, "is called with arguments that are not supported")
                inputs = argument(call.args[0])
                is_new = layer not in layers
                if is_new:
                    layers[layer] = self._create(layer)
                self._cost.add_padding(layers[layer], step.tensor.label, inputs)
                if is_new and not is_latentdb_layer(layer, self._latentdb_layers):
                    result = self._call_with_weights(layer, layers[layer], inputs)
                else:
                    result = layers[layer](inputs)
        except ModelError:
            raise
        except Exception as error:  # keras passes on whatever a layer raised
            message = " ".join(_COLOURS.sub("", str(error)).split())[:200]
            raise self._error(layer, f"cannot be built: {message}") from error
        if operation is None and self._has_old_hard_sigmoid(layer):
            result = self._keras.ops.clip(result * 0.2 + 0.5, 0.0, 1.0)
        self._cost.add_tensor(step.tensor.label, tuple(result.shape[1:]))
        self._cost.add_operations(layers.get(layer), tuple(result.shape[1:]))
        return result

    def _error(self, layer: Layer, problem: str) -> ModelError:
        return LayerError(f"{self._file.name} is refused: {layer.label} {problem}")

    def _attend(
        self, layer: Layer, call: Call, argument: Callable[[Any], Any], layers: dict[Layer, Any]
    ) -> Any:
        """The result of attention: its weights are those of four layers inside it."""
        given = [*call.args, *(call.kwargs[key] for key in ("value", "key") if key in call.kwargs)]
        known = {"value", "key", "training", "use_causal_mask", "return_attention_scores"}
        rest = [call.kwargs[key] for key in call.kwargs if key not in ("value", "key", "training")]
        if set(call.kwargs) - known or any(rest) or not all(isinstance(x, Ref) for x in given):
            raise self._error(layer, "is called with arguments that are not supported")
        tensors = [argument(value) for value in given]
        arrays: list[tuple[str, int, NDArray[Any]]] = []
        if layer not in layers:
            layers[layer] = self._create(layer)
            arrays = self._attention_arrays(layer, layers[layer], tensors)
        attention = layers[layer]
        positions = [math.prod(side or 1 for side in tensor.shape[1:-1]) for tensor in tensors]
        self._cost.add_tensor(layer.name, (attention.num_heads, positions[0], positions[-1]))
        result = attention(*tensors)
        for name, place, values in arrays:
            getattr(attention, name).weights[place].assign(values)
        return result

    def _attention_arrays(
        self, layer: Layer, attention: Any, tensors: Sequence[Any]
    ) -> list[tuple[str, int, NDArray[Any]]]:
        """The weights of attention: attribute, place in it, and values."""
        heads, size = attention.num_heads, attention.key_dim
        width = attention._value_dim or size
        depth = tensors[0].shape[-1]
        output = attention._output_shape or (depth,)
        inputs = (depth, tensors[min(1, len(tensors) - 1)].shape[-1], tensors[-1].shape[-1])
        arrays = []
        for name, old, kernel, bias in (
            ("query_dense", "query", (inputs[0], heads, size), (heads, size)),
            ("key_dense", "key", (inputs[2], heads, size), (heads, size)),
            ("value_dense", "value", (inputs[1], heads, width), (heads, width)),
            ("output_dense", "attention_output", (heads, width, *output), tuple(output)),
        ):
            for place, wanted in enumerate((kernel, bias)[: 1 + bool(attention._use_bias)]):
                paths = self._inner_paths(layer, name, old, place)
                arrays.append((f"_{name}", place, self._array(layer, name, paths, wanted)))
        return arrays

    def _inner_paths(self, layer: Layer, name: str, old: str, place: int) -> list[str]:
        """Names of the arrays that may be a weight of a layer inside a layer."""
        weights, (prefix, layer_name) = self._file.weights, layer.weights
        if layer_name is None:
            path = f"{prefix}{name}/vars/{place}"
            return [path] if path in weights else []
        ends = f"/{old}/{('kernel', 'bias')[place]}:0"
        return [
            path
            for path in weights
            if path.startswith(f"{prefix}/") and path.endswith(ends) and layer_name in path
        ]

    def _create(self, layer: Layer) -> Any:
        """The keras layer, without weights."""
        if is_latentdb_layer(layer, self._latentdb_layers):
            return self._latentdb_layers[layer.kind](name=self._name(layer))
        settings = self._settings_of(layer)
        if self._has_old_hard_sigmoid(layer):
            settings["activation"] = "linear"  # and what it is follows
        if "activation" in settings:
            settings["activation"] = self._activation(layer, settings["activation"])
        layer_class = getattr(self._keras.layers, layer.kind)
        return layer_class(**settings, name=self._name(layer), dtype="float32")

    def _settings_of(self, layer: Layer) -> dict[str, Any]:
        """The settings in the table of layers, checked."""
        allowed = ALLOWED_LAYERS[layer.kind]
        settings: dict[str, Any] = {}
        for key, value in layer.config.items():
            new = RENAMED_SETTINGS.get(key, key) if layer.kind == "LeakyReLU" else key
            if new in allowed:
                if new != "activation":
                    self._check_setting(layer, new, value)
                settings[new] = value
            elif not (
                IGNORED_SETTINGS.fullmatch(key)
                or value is None
                or value is False
                or (key in HARMLESS_VALUES and value == HARMLESS_VALUES[key])
                or (layer.kind == "Resizing" and key in ("fill_mode", "fill_value"))
            ):
                raise self._error(layer, f"has a setting {quoted(key)} that is not supported")
        policy = layer.config.get("dtype")
        dtype = policy.get("config", {}).get("name") if isinstance(policy, dict) else policy
        if isinstance(dtype, str) and "int8" in dtype:
            raise self._error(layer, f"is quantised ({clipped(dtype)}): save it unquantised")
        if settings.get("data_format", "channels_last") not in ("channels_last", None):
            raise self._error(layer, "takes channels first: expected channels last")
        axis = settings.get("axis")
        if layer.kind == "BatchNormalization" and isinstance(axis, list) and len(axis) == 1:
            settings["axis"] = axis[0]  # tf-keras writes a list
        return settings

    def _check_setting(self, layer: Layer, key: str, value: Any) -> None:
        """Refuse a value that is not JSON of plain numbers, short texts and lists."""
        count = 0

        def check_one(item: Any, depth: int) -> None:
            nonlocal count
            count += 1
            if isinstance(item, list) and depth < 6:
                for inner in item:
                    check_one(inner, depth + 1)
            elif not (
                item is None
                or type(item) in (bool, float)
                or (type(item) is int and abs(item) < 1 << 31)
                or (type(item) is str and len(item) < 40)
            ):
                raise self._error(layer, f"has {key} {quoted(item)}: expected plain numbers")

        check_one(value, 0)
        if count > _MAX_VALUES:
            raise self._error(layer, f"has {count} values of {key}: expected at most {_MAX_VALUES}")

    def _has_old_hard_sigmoid(self, layer: Layer) -> bool:
        """Whether a layer ends in clip(0.2 x + 0.5), which Keras 2 called hard_sigmoid."""
        return layer.config.get("activation") == "hard_sigmoid" and self._is_of_keras_2

    @cached_property
    def _is_of_keras_2(self) -> bool:
        return "batch_input_shape" in json.dumps(self._file.config)

    def _activation(self, layer: Layer, value: Any) -> Any:
        if isinstance(value, dict):
            kind, config = value.get("class_name"), value.get("config")
            module = str(value.get("module") or "")
            package = str(value.get("registered_name") or "")
            inner_value = config.get("activation") if isinstance(config, dict) else None
            if isinstance(inner_value, dict) and inner_value.get("class_name") == "Activation":
                raise self._error(layer, "has an activation inside an activation")
            if kind in ACTIVATION_LAYERS and isinstance(config, dict) and ">" not in package:
                name = f"{layer.name}_activation"
                inner = Layer(name, str(kind), module, config, [], None, ("", None), "")
                if is_keras(inner):
                    return self._create(inner)
            if kind == "function":
                value = config
        if value is None:
            return None
        if not isinstance(value, str) or value not in ACTIVATIONS:
            label = quoted(value.get("class_name") if isinstance(value, dict) else value)
            raise self._error(layer, f"has the activation {label}, which is not supported")
        return value

    def _call_with_weights(self, layer: Layer, keras_layer: Any, inputs: Any) -> Any:
        """Call a layer for the first time, which builds it, with the file's arrays as weights.

        Shapes are compared before a weight is allocated.
        """
        original = keras_layer.add_weight
        added = 0

        def add_weight(*args: Any, **kwargs: Any) -> Any:
            nonlocal added
            shape = args[0] if args else kwargs.get("shape", ())
            name = str(kwargs.get("name"))
            wanted = tuple(int(side) for side in shape or ())
            values = self._array(layer, name, self._paths(layer, name, added), wanted)
            added += 1
            weight = original(*args, **{**kwargs, "initializer": "zeros"})
            weight.assign(values)
            return weight

        object.__setattr__(keras_layer, "add_weight", add_weight)
        try:
            result = keras_layer(inputs)
        finally:
            object.__delattr__(keras_layer, "add_weight")
        if layer.kind == "Normalization" and added:
            keras_layer.finalize_state()
            result = keras_layer(inputs)
        return result

    def _paths(self, layer: Layer, name: str, number: int) -> list[str]:
        """Names of the arrays that may be a weight: by number in a .keras, by name in an .h5."""
        weights, (prefix, layer_name) = self._file.weights, layer.weights
        if layer_name is None:
            path = f"{prefix}vars/{number}"
            return [path] if path in weights else []
        names = {name}
        if layer.kind.startswith("DepthwiseConv") and name == "kernel":
            names.add("depthwise_kernel")  # tf-keras's name
        inside = [path for path in weights if path.startswith(f"{prefix}/")]
        if layer_name != prefix:
            inside = [path for path in inside if path.split("/")[-2] == layer_name]
        return [path for path in inside if path.rpartition("/")[2].split(":")[0] in names]

    def _array(
        self, layer: Layer, name: str, paths: Sequence[str], shape: tuple[int, ...]
    ) -> NDArray[Any]:
        """The file's array of a weight, which is one, of this shape, and finite."""
        if len(paths) != 1:
            raise self._error(
                layer, f"needs one array {quoted(name)}: the file holds {len(paths) or 'none'}"
            )
        values = self._file.weights.array(paths[0])
        if values.shape != shape:
            raise self._error(
                layer, f"needs {name} of shape {list(shape)}, the file holds {list(values.shape)}"
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise self._error(layer, f"has weights that are not finite ({name})")
        return values


def is_latentdb_layer(layer: Layer, classes: Collection[str]) -> bool:
    """Whether a layer is one of some layer classes of latentdb."""
    return layer.package == "latentdb" and layer.kind in classes


def check(steps: Sequence[Step], name: str, latentdb_layers: Collection[str] = ()) -> None:
    """Refuse the first step whose layer is not supported.

    Raises
    ------
    UntrustedModelError
        Names the layer, and how to use the file nevertheless.
    """
    for step in steps:
        layer = step.tensor.layer
        if step.action != "layer" or is_latentdb_layer(layer, latentdb_layers):
            continue
        reason = unsupported(layer)
        if reason is not None:
            raise UntrustedModelError(
                f"{name} is refused: upstream of {steps[-1].tensor.quoted}, {reason}; {TRUST_HINT}"
            )


def _is_input(value: Any) -> bool:
    return isinstance(value, Ref) or (
        isinstance(value, list) and bool(value) and all(isinstance(item, Ref) for item in value)
    )
