"""The layers that are built of a stranger's file: a list, and nothing that is not on it.

A layer is made by its class's name on this list with the settings on this list;
initializers, regularizers and constraints are left out.  Its weights must have
the shapes that its settings ask for before anything is allocated.
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

MAX_ACTIVATION = 1 << 28  # numbers in one image's tensor: 1 GiB of float32
_MOST_VALUES = 100_000
_CONV = "kernel_size strides padding data_format dilation_rate activation use_bias "
_POOL = "pool_size strides padding data_format"
_NORM = "axis epsilon center scale"


def _settings(names: str, text: str) -> dict[str, frozenset[str]]:
    return {name: frozenset(text.split()) for name in names.split()}


# Class names, and the settings that say what each computes.
LISTED: Mapping[str, frozenset[str]] = {
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
# Functions of tensors: in Keras 3's notation, in tf-keras's, and the keras.ops that does it.
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
# Settings that change nothing of what a trained layer computes.
_SILENT = re.compile(
    r"name|trainable|dtype|seed|implementation|(renorm_)?momentum|autocast|synchronized|(batch_)?input_shape"
    r"|batch_size|input_dtype|input_dim|activity_regularizer|\w+_(initializer|regularizer|constraint)"
)
# Settings that change it unless they are as given here.
_HARMLESS: Mapping[str, Any] = {"groups": 1, "ragged": False, "sparse": False, "rms_scaling": False,
                                "pad_to_aspect_ratio": False, "antialias": False}  # fmt: skip
_RENAMED = {"alpha": "negative_slope"}  # of Keras 2's LeakyReLU


def refusal(layer: Layer) -> str | None:
    """Why a layer is not built; None if it is."""
    shown = f"{layer.kind} {layer.name!r}"
    if layer.is_input or layer.graph is not None:
        return None
    if is_keras(layer):
        if _operation(layer) is not None or layer.kind in IDENTITIES:
            return None
        if layer.module.startswith(("keras.src.ops", "keras.ops")):
            return f"{shown} is an operation that latentdb does not know"
        if layer.kind in LISTED:
            return None
    if layer.kind in ("Lambda", "TFOpLambda", "SlicingOpLambda"):
        function = layer.config.get("function")
        told = f" ({function})" if isinstance(function, str) and len(function) < 60 else ""
        return f"{shown}{told} is code in the file"
    return f"{shown} is no layer that latentdb knows"


def _operation(layer: Layer) -> str | None:
    """The keras.ops function a layer of the graph stands for."""
    if layer.kind == "TFOpLambda":
        return OPERATIONS.get(str(layer.config.get("function")))
    if layer.module.startswith(("keras.src.ops", "keras.ops")):
        return OPERATIONS.get(layer.kind)
    return None


@dataclass(frozen=True, eq=False)
class Built:
    """A model that was built of listed layers.

    Attributes
    ----------
    model
        The ``keras.Model``.
    shapes
        Of its outputs, without the batch axis.
    """

    model: Any
    shapes: list[tuple[int | None, ...]]


class Builder:
    """Builds parts of one model file with keras.

    Parameters
    ----------
    file
        The file, for its weights and its name.
    keras
        The module: importing it takes seconds, so whoever needs it does.
    own
        latentdb's own layers by their class names, without settings or
        weights, where they are wanted.
    """

    def __init__(self, file: ModelFile, keras: Any, own: Mapping[str, Any] | None = None) -> None:
        self._file = file
        self._keras = keras
        self._own = dict(own or {})
        self._names: set[str] = set()

    def build(
        self,
        outputs: Sequence[Tensor],
        inputs: Mapping[Tensor, tuple[int | None, ...]],
        *,
        cut: Collection[Tensor] = (),
        name: str,
    ) -> Built:
        """Build the way from inputs to outputs, with weights.

        Parameters
        ----------
        outputs
            What the model is to give, in order.
        inputs
            Shape of each input reached, without the batch axis.
        cut
            Tensors that count as inputs.
        name
            Of the model.

        Raises
        ------
        ModelError
            If something on the way is not on the list, or does not fit its
            weights.
        """
        steps = upstream(outputs, cut)
        check(steps, self._file.name, self._own)
        self._names = set()
        made: dict[Tensor, Any] = {}
        layers: dict[Layer, Any] = {}
        given = []
        for step in steps:
            if step.action == "input":
                if step.tensor not in inputs:
                    raise ModelError(
                        f"{self._file.name} is refused: it depends on the input "
                        f"{step.tensor.shown!r}, too; expected one image and nothing else"
                    )
                shape = inputs[step.tensor]
                _check_size(shape, step.tensor.shown, self._file.name)
                given.append(self._keras.Input(shape, name=self._name(step.tensor.layer)))
                made[step.tensor] = given[-1]
            elif step.action == "same":
                made[step.tensor] = made[step.needs[0]]
            else:
                made[step.tensor] = self._called(step, made, layers)
        if not given:
            raise ModelError(f"{self._file.name} is refused: its z_mean depends on no image")
        results = [made[tensor] for tensor in outputs]
        try:
            taken = given[0] if len(given) == 1 else given
            model = self._keras.Model(taken, results, name=name)
        except RecursionError as error:
            raise ModelError(
                f"{self._file.name} is refused: {len(steps)} layers follow each other"
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

    def _called(self, step: Step, made: Mapping[Tensor, Any], layers: dict[Layer, Any]) -> Any:
        layer, call, frame = step.tensor.layer, step.call, step.tensor.frame
        if step.tensor.ref.tensor:
            raise self._refuse(layer, "has one output, and the configuration speaks of another")

        def tensors(value: Any) -> Any:
            if isinstance(value, Ref):
                return made[Tensor(frame, value)]
            if isinstance(value, list):
                return [tensors(item) for item in value]
            return value

        try:
            operation = _operation(layer)
            if operation is not None:
                result = getattr(self._keras.ops, operation)(*self._operands(layer, call, tensors))
            else:
                unknown = [key for key, value in call.kwargs.items() if value is not False]
                if unknown or len(call.args) != 1 or not _is_input(call.args[0]):
                    raise self._refuse(layer, "is called in a way that is not known")
                fresh = layer not in layers
                if fresh:
                    layers[layer] = self._make(layer)
                result = self._guarded(layer, layers[layer], tensors(call.args[0]), fresh)
        except ModelError:
            raise
        except Exception as error:  # keras passes on whatever a layer raised
            told = " ".join(str(error).split())[:200]
            raise self._refuse(layer, f"cannot be built: {told}") from error
        _check_size(tuple(result.shape[1:]), step.tensor.shown, self._file.name)
        return result

    def _refuse(self, layer: Layer, why: str) -> ModelError:
        return ModelError(f"{self._file.name} is refused: {layer.kind} {layer.name!r} {why}")

    def _operands(self, layer: Layer, call: Call, tensors: Any) -> list[Any]:
        given = [*call.args, *(call.kwargs[key] for key in ("x1", "x2", "x", "y")
                               if key in call.kwargs)]  # fmt: skip
        known = {"x1", "x2", "x", "y"}
        extra = {key for key in {*call.kwargs} - known if call.kwargs[key] is not False}
        if extra or not 1 <= len(given) <= 2:
            raise self._refuse(layer, "is called in a way that is not known")
        for value in given:
            if not isinstance(value, Ref) and type(value) not in (int, float):
                raise self._refuse(layer, "is called with something else than tensors and numbers")
        return [tensors(value) for value in given]

    def _make(self, layer: Layer) -> Any:
        """The keras layer, without weights."""
        if is_own(layer, self._own):
            return self._own[layer.kind](name=self._name(layer))
        settings = self._kept(layer)
        if "activation" in settings:
            settings["activation"] = self._activation(layer, settings["activation"])
        made = getattr(self._keras.layers, layer.kind)
        return made(**settings, name=self._name(layer), dtype="float32")

    def _kept(self, layer: Layer) -> dict[str, Any]:
        allowed = LISTED[layer.kind]
        kept: dict[str, Any] = {}
        for key, value in layer.config.items():
            new = _RENAMED.get(key, key) if layer.kind == "LeakyReLU" else key
            if new in allowed:
                kept[new] = value if new == "activation" else self._plain(layer, new, value)
            elif not (
                _SILENT.fullmatch(key)
                or value is None
                or value is False
                or (key in _HARMLESS and value == _HARMLESS[key])
                or (layer.kind == "Resizing" and key in ("fill_mode", "fill_value"))
            ):
                raise self._refuse(layer, f"has a setting {key!r} that is not known")
        policy = layer.config.get("dtype")
        told = policy.get("config", {}).get("name") if isinstance(policy, dict) else policy
        if isinstance(told, str) and "int8" in told:
            raise self._refuse(layer, f"is quantised ({told[:40]}): save it unquantised")
        if kept.get("data_format", "channels_last") not in ("channels_last", None):
            raise self._refuse(layer, "takes channels first: expected channels last")
        axis = kept.get("axis")
        if layer.kind == "BatchNormalization" and isinstance(axis, list) and len(axis) == 1:
            kept["axis"] = axis[0]  # as tf-keras writes it
        return kept

    def _plain(self, layer: Layer, key: str, value: Any) -> Any:
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
                raise self._refuse(layer, f"has {key} {str(item)[:60]!r}: expected plain numbers")

        check_one(value, 0)
        if count > _MOST_VALUES:
            raise self._refuse(layer, f"has {count} values of {key}")
        return value

    def _activation(self, layer: Layer, value: Any) -> Any:
        if isinstance(value, dict):
            kind, config = value.get("class_name"), value.get("config")
            module, package = (
                str(value.get("module") or ""),
                str(value.get("registered_name") or ""),
            )
            if kind in _ACTIVATION_LAYERS and isinstance(config, dict) and ">" not in package:
                name = f"{layer.name}_activation"
                inner = Layer(name, str(kind), module, config, [], None, ("", None), "")
                if is_keras(inner):
                    return self._make(inner)
            if kind == "function":
                value = config
        if value is None:
            return None
        if not isinstance(value, str) or value not in ACTIVATIONS:
            shown = value.get("class_name") if isinstance(value, dict) else value
            raise self._refuse(layer, f"has the activation {str(shown)[:40]!r}, which is not known")
        return value

    def _guarded(self, layer: Layer, made: Any, inputs: Any, fresh: bool) -> Any:
        """Call a layer; when that builds it, its weights come from the file.

        A weight of another shape than the file's is refused before it is
        allocated.
        """
        if not fresh or is_own(layer, self._own):
            return made(inputs)
        original = made.add_weight
        taken: list[str] = []

        def add_weight(*args: Any, **kwargs: Any) -> Any:
            shape = args[0] if args else kwargs.get("shape", ())
            values = self._stored(layer, str(kwargs.get("name")), len(taken))
            wanted = tuple(int(side) for side in shape or ())
            if values.shape != wanted:
                raise self._refuse(
                    layer,
                    f"wants {kwargs.get('name')} of shape {list(wanted)}, "
                    f"the file holds {list(values.shape)}",
                )
            taken.append(str(kwargs.get("name")))
            weight = original(*args, **{**kwargs, "initializer": "zeros"})
            weight.assign(values)
            return weight

        object.__setattr__(made, "add_weight", add_weight)
        try:
            result = made(inputs)
        finally:
            object.__delattr__(made, "add_weight")
        if layer.kind == "Normalization" and taken:
            made.finalize_state()
            result = made(inputs)
        return result

    def _stored(self, layer: Layer, name: str, number: int) -> NDArray[Any]:
        weights, (prefix, own) = self._file.weights, layer.weights
        if own is None:
            path = f"{prefix}vars/{number}"
            found = [path] if path in weights else []
        else:
            wanted = {name}
            if layer.kind.startswith("DepthwiseConv") and name == "kernel":
                wanted.add("depthwise_kernel")  # as tf-keras calls it
            inside = [path for path in weights if path.startswith(f"{prefix}/")]
            if own != prefix:
                inside = [path for path in inside if path.split("/")[-2] == own]
            found = [path for path in inside if path.rpartition("/")[2].split(":")[0] in wanted]
        if len(found) != 1:
            held = "no" if not found else f"{len(found)} times a"
            raise self._refuse(layer, f"wants a weight {name!r}: the file holds {held} such array")
        values = weights.array(found[0])
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise self._refuse(layer, f"has weights that are not finite ({name})")
        return values


def is_own(layer: Layer, own: Collection[str]) -> bool:
    """Whether a layer is one of latentdb's."""
    return layer.package == "latentdb" and layer.kind in own


def check(steps: Collection[Step], name: str, own: Collection[str] = ()) -> None:
    """Refuse steps that are not on the list, by name.

    Raises
    ------
    ModelError
        Names the layer, and the way round.
    """
    for step in steps:
        if step.action == "layer":
            why = None if is_own(step.tensor.layer, own) else refusal(step.tensor.layer)
            if why is not None:
                raise UntrustedModelError(
                    f"{name} is refused: on the way to {steps_end(steps)!r}, {why}; if you trust "
                    "whoever made it, --trust-model runs its code"
                )


def steps_end(steps: Collection[Step]) -> str:
    """What the steps lead to, for people."""
    return list(steps)[-1].tensor.shown


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
