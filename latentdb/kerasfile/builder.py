"""Build a keras model from allow-listed layers of a file, none of whose code is run.

A layer is looked up by its class's name in a table of layers, and gets only the
settings in that table; initializers, regularizers and constraints are dropped.
The file's arrays must have the shapes that the settings ask for before anything
is allocated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import ModelError, UntrustedModelError
from latentdb.kerasfile.container import ModelFile
from latentdb.kerasfile.graph import IDENTITIES, Call, Layer, Ref, Step, Tensor, is_keras, upstream
from latentdb.kerasfile.runtime import restored_random

TRUST_HINT = "if you trust whoever made it, --trust-model runs its code"
MAX_ACTIVATION = 1 << 28  # numbers in one image's tensor: 1 GiB of float32
_MAX_VALUES = 100_000  # in one setting
_NUMBERS = frozenset((int, float))
_OPERANDS = ("x1", "x2", "x", "y")  # keyword arguments of operations
_CONV = "kernel_size strides padding data_format dilation_rate activation use_bias "
_POOL = "pool_size strides padding data_format"
_NORM = "axis epsilon center scale"


def _settings(names: str, text: str) -> dict[str, frozenset[str]]:
    return {name: frozenset(text.split()) for name in names.split()}


# The layers that are built, and the settings of each that determine what it computes.
ALLOWED_LAYERS: Mapping[str, frozenset[str]] = {
    **_settings("Dense", "units activation use_bias"),
    **_settings("Conv1D Conv2D Conv3D", _CONV + "filters groups"),
    **_settings(
        "Conv1DTranspose Conv2DTranspose Conv3DTranspose", _CONV + "filters output_padding"
    ),
    **_settings("DepthwiseConv1D DepthwiseConv2D", _CONV + "depth_multiplier"),
    **_settings("SeparableConv1D SeparableConv2D", _CONV + "filters depth_multiplier"),
    **_settings("BatchNormalization", _NORM),
    **_settings("LayerNormalization", _NORM),
    **_settings("GroupNormalization", _NORM + " groups"),
    **_settings("RMSNormalization", "axis epsilon"),
    **_settings("UnitNormalization", "axis"),
    **_settings("Normalization", "axis mean variance invert"),
    **_settings("Activation", "activation"),
    **_settings("ReLU", "max_value negative_slope threshold"),
    **_settings("LeakyReLU", "negative_slope"),
    **_settings("PReLU", "shared_axes"),
    **_settings("ELU", "alpha"),
    **_settings("Softmax", "axis"),
    **_settings(
        "MaxPooling1D MaxPooling2D MaxPooling3D AveragePooling1D AveragePooling2D AveragePooling3D",
        _POOL,
    ),
    **_settings(
        "GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GlobalAveragePooling1D "
        "GlobalAveragePooling2D GlobalAveragePooling3D",
        "data_format keepdims",
    ),
    **_settings("Flatten", "data_format"),
    **_settings("Reshape", "target_shape"),
    **_settings("Permute", "dims"),
    **_settings("RepeatVector", "n"),
    **_settings("Add Subtract Multiply Average Maximum Minimum", ""),
    **_settings("Concatenate", "axis"),
    **_settings("ZeroPadding1D ZeroPadding2D ZeroPadding3D", "padding data_format"),
    **_settings("Cropping1D Cropping2D Cropping3D", "cropping data_format"),
    **_settings("UpSampling1D UpSampling3D", "size data_format"),
    **_settings("UpSampling2D", "size data_format interpolation"),
    **_settings("Rescaling", "scale offset"),
    **_settings("Resizing", "height width interpolation crop_to_aspect_ratio data_format"),
    **_settings("CenterCrop", "height width data_format"),
}
ACTIVATIONS = frozenset(
    ("linear", "relu", "relu6", "sigmoid", "tanh", "softmax", "softplus", "softsign", "elu", "selu",
     "gelu", "silu", "swish", "mish", "exponential", "leaky_relu", "log_softmax", "log_sigmoid")
)  # fmt: skip
_ACTIVATION_LAYERS = frozenset(("ReLU", "LeakyReLU", "ELU", "Softmax", "Activation"))
# The keras.ops function of each operation, and its class or function names in configurations.
_OPERATIONS = {
    "add": "Add math.add __operators__.add",
    "subtract": "Subtract math.subtract",
    "multiply": "Multiply math.multiply",
    "true_divide": "TrueDivide Divide math.truediv math.divide",
    "negative": "Negative math.negative",
    "relu": "Relu nn.relu",
    "sigmoid": "Sigmoid math.sigmoid nn.sigmoid",
    "tanh": "Tanh math.tanh nn.tanh",
    "silu": "Silu nn.silu",
    "softplus": "Softplus math.softplus nn.softplus",
}
OPERATIONS = {name: op for op, names in _OPERATIONS.items() for name in names.split()}
# Settings that do not change what a trained layer computes.
IGNORED_SETTINGS = re.compile(
    r"name|trainable|dtype|seed|implementation|(renorm_)?momentum|autocast|synchronized|(batch_)?input_shape"
    r"|batch_size|input_dtype|input_dim|activity_regularizer|\w+_(initializer|regularizer|constraint)"
)
# Settings that do not change it if they have these values.
HARMLESS_VALUES: Mapping[str, Any] = {
    "groups": 1,
    "ragged": False,
    "sparse": False,
    "rms_scaling": False,
    "pad_to_aspect_ratio": False,
    "antialias": False,
}
RENAMED_SETTINGS = {"alpha": "negative_slope"}  # of Keras 2's LeakyReLU


def unsupported(layer: Layer) -> str | None:
    """The reason why a layer is not built; None if it is."""
    label = f"{layer.kind} {layer.name!r}"
    if layer.is_input or layer.graph is not None:
        return None
    if is_keras(layer):
        if operation_of(layer) is not None or layer.kind in IDENTITIES:
            return None
        if layer.module.startswith(("keras.src.ops", "keras.ops")):
            return f"{label} is an operation that latentdb does not support"
        if layer.kind in ALLOWED_LAYERS:
            return None
    if layer.kind in ("Lambda", "TFOpLambda", "SlicingOpLambda"):
        function = layer.config.get("function")
        detail = f" ({function})" if isinstance(function, str) and len(function) < 60 else ""
        return f"{label}{detail} is code in the file"
    return f"{label} is not a layer that latentdb supports"


def operation_of(layer: Layer) -> str | None:
    """The keras.ops function of an operation in the graph; None for a layer."""
    if layer.kind == "TFOpLambda":
        return OPERATIONS.get(str(layer.config.get("function")))
    if layer.module.startswith(("keras.src.ops", "keras.ops")):
        return OPERATIONS.get(layer.kind)
    return None


@dataclass(frozen=True, eq=False)
class Built:
    """A model built by `Builder`.

    Attributes
    ----------
    model
        The ``keras.Model``.
    shapes
        Shapes of its outputs, without the batch axis.
    """

    model: Any
    shapes: list[tuple[int | None, ...]]


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

    @restored_random()
    def build(
        self,
        outputs: Sequence[Tensor],
        inputs: Mapping[Tensor, tuple[int | None, ...]],
        *,
        cut: Collection[Tensor] = (),
        name: str,
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

        Raises
        ------
        ModelError
            If a layer is not supported, or does not fit its weights.
        """
        steps = upstream(outputs, cut)
        check(steps, self._file.name, self._latentdb_layers)
        self._names = set()
        tensors: dict[Tensor, Any] = {}
        layers: dict[Layer, Any] = {}
        model_inputs = []
        for step in steps:
            if step.action == "input":
                if step.tensor not in inputs:
                    raise ModelError(
                        f"{self._file.name} is refused: it also depends on the input "
                        f"{step.tensor.label!r}; expected one image as its only input"
                    )
                shape = inputs[step.tensor]
                _check_size(shape, step.tensor.label, self._file.name)
                model_inputs.append(self._keras.Input(shape, name=self._name(step.tensor.layer)))
                tensors[step.tensor] = model_inputs[-1]
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
        return Built(model, [tuple(result.shape[1:]) for result in results])

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
        if step.tensor.ref.tensor:
            raise self._error(layer, "has one output, and the configuration uses another")

        def argument(value: Any) -> Any:
            if isinstance(value, Ref):
                return tensors[Tensor(submodel, value)]
            if isinstance(value, list):
                return [argument(item) for item in value]
            return value

        try:
            operation = operation_of(layer)
            if operation is not None:
                operands = [argument(value) for value in self._operands(layer, call)]
                result = getattr(self._keras.ops, operation)(*operands)
            else:
                unknown = [key for key, value in call.kwargs.items() if value is not False]
                if unknown or len(call.args) != 1 or not _is_input(call.args[0]):
                    raise self._error(layer, "is called with arguments that are not supported")
                is_new = layer not in layers
                if is_new:
                    layers[layer] = self._create(layer)
                inputs = argument(call.args[0])
                if is_new and not is_latentdb_layer(layer, self._latentdb_layers):
                    result = self._call_with_weights(layer, layers[layer], inputs)
                else:
                    result = layers[layer](inputs)
        except ModelError:
            raise
        except Exception as error:  # keras passes on whatever a layer raised
            message = " ".join(str(error).split())[:200]
            raise self._error(layer, f"cannot be built: {message}") from error
        _check_size(tuple(result.shape[1:]), step.tensor.label, self._file.name)
        return result

    def _error(self, layer: Layer, problem: str) -> ModelError:
        return ModelError(f"{self._file.name} is refused: {layer.kind} {layer.name!r} {problem}")

    def _operands(self, layer: Layer, call: Call) -> list[Any]:
        operands = [*call.args, *(call.kwargs[key] for key in _OPERANDS if key in call.kwargs)]
        others = set(call.kwargs).difference(_OPERANDS)
        if any(call.kwargs[key] is not False for key in others) or not 1 <= len(operands) <= 2:
            raise self._error(layer, "is called with arguments that are not supported")
        if not all(isinstance(value, Ref) or type(value) in _NUMBERS for value in operands):
            raise self._error(layer, "is called with other arguments than tensors and numbers")
        return operands

    def _create(self, layer: Layer) -> Any:
        """The keras layer, without weights."""
        if is_latentdb_layer(layer, self._latentdb_layers):
            return self._latentdb_layers[layer.kind](name=self._name(layer))
        settings = self._settings_of(layer)
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
                raise self._error(layer, f"has a setting {key!r} that is not supported")
        policy = layer.config.get("dtype")
        dtype = policy.get("config", {}).get("name") if isinstance(policy, dict) else policy
        if isinstance(dtype, str) and "int8" in dtype:
            raise self._error(layer, f"is quantised ({dtype[:40]}): save it unquantised")
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
                raise self._error(layer, f"has {key} {str(item)[:60]!r}: expected plain numbers")

        check_one(value, 0)
        if count > _MAX_VALUES:
            raise self._error(layer, f"has {count} values of {key}: expected at most {_MAX_VALUES}")

    def _activation(self, layer: Layer, value: Any) -> Any:
        if isinstance(value, dict):
            kind, config = value.get("class_name"), value.get("config")
            module = str(value.get("module") or "")
            package = str(value.get("registered_name") or "")
            if kind in _ACTIVATION_LAYERS and isinstance(config, dict) and ">" not in package:
                name = f"{layer.name}_activation"
                inner = Layer(name, str(kind), module, config, [], None, ("", None), "")
                if is_keras(inner):
                    return self._create(inner)
            if kind == "function":
                value = config
        if value is None:
            return None
        if not isinstance(value, str) or value not in ACTIVATIONS:
            label = str(value.get("class_name") if isinstance(value, dict) else value)[:40]
            raise self._error(layer, f"has the activation {label!r}, which is not supported")
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
            values = self._stored_array(layer, name, added)
            wanted = tuple(int(side) for side in shape or ())
            if values.shape != wanted:
                raise self._error(
                    layer,
                    f"needs {name} of shape {list(wanted)}, the file holds {list(values.shape)}",
                )
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

    def _stored_array(self, layer: Layer, name: str, number: int) -> NDArray[Any]:
        """The file's array of a weight: by number in a .keras, by name in an .h5."""
        weights, (prefix, layer_name) = self._file.weights, layer.weights
        if layer_name is None:
            path = f"{prefix}vars/{number}"
            found = [path] if path in weights else []
        else:
            names = {name}
            if layer.kind.startswith("DepthwiseConv") and name == "kernel":
                names.add("depthwise_kernel")  # tf-keras's name
            inside = [path for path in weights if path.startswith(f"{prefix}/")]
            if layer_name != prefix:
                inside = [path for path in inside if path.split("/")[-2] == layer_name]
            found = [path for path in inside if path.rpartition("/")[2].split(":")[0] in names]
        if len(found) != 1:
            raise self._error(
                layer, f"needs one array {name!r}: the file holds {len(found) or 'none'}"
            )
        values = weights.array(found[0])
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
                f"{name} is refused: upstream of {steps[-1].tensor.label!r}, {reason}; {TRUST_HINT}"
            )


def _is_input(value: Any) -> bool:
    return isinstance(value, Ref) or (
        isinstance(value, list) and bool(value) and all(isinstance(item, Ref) for item in value)
    )


def _check_size(shape: tuple[int | None, ...], what: str, name: str) -> None:
    if math.prod(side or 1 for side in shape) > MAX_ACTIVATION:
        raise ModelError(
            f"{name} is refused: {what!r} gives {list(shape)} for one image, "
            f"at most {MAX_ACTIVATION} numbers"
        )
