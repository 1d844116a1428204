"""The layers and operations that are built, and the settings of each that are kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from latentdb.base.wording import clipped
from latentdb.kerasfile.graph import IDENTITIES, Layer, is_keras
from latentdb.kerasfile.operations import operation_of

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
    **_settings("Embedding", "input_dim output_dim"),
    **_settings("Add Subtract Multiply Average Maximum Minimum", ""),
    **_settings("Concatenate", "axis"),
    **_settings("ZeroPadding1D ZeroPadding2D ZeroPadding3D", "padding data_format"),
    **_settings("Cropping1D Cropping2D Cropping3D", "cropping data_format"),
    **_settings("UpSampling1D UpSampling3D", "size data_format"),
    **_settings("UpSampling2D", "size data_format interpolation"),
    **_settings("Rescaling", "scale offset"),
    **_settings("Resizing", "height width interpolation crop_to_aspect_ratio data_format"),
    **_settings("CenterCrop", "height width data_format"),
    **_settings(
        "MultiHeadAttention", "num_heads key_dim value_dim use_bias output_shape attention_axes"
    ),
}
ACTIVATIONS = frozenset(
    ("linear", "relu", "relu6", "sigmoid", "tanh", "softmax", "softplus", "softsign", "elu", "selu",
     "gelu", "silu", "swish", "mish", "exponential", "leaky_relu", "log_softmax", "log_sigmoid",
     "hard_sigmoid")
)  # fmt: skip
ACTIVATION_LAYERS = frozenset(("ReLU", "LeakyReLU", "ELU", "Softmax", "Activation"))
# Settings that do not change what a trained layer computes.
IGNORED_SETTINGS = re.compile(
    r"name|trainable|dtype|seed|implementation|(renorm_)?momentum|autocast|synchronized|(batch_)?input_shape"
    r"|batch_size|input_dtype|dropout|(query|key|value)_shape|input_dim|input_length|activity_regularizer|\w+_(initializer|regularizer|constraint)"
)
# Settings that do not change it if they have these values.
HARMLESS_VALUES: Mapping[str, Any] = {
    "use_gate": False,
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
    label = layer.label
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
        detail = f" ({clipped(function)})" if isinstance(function, str) else ""
        return f"{label}{detail} is code in the file"
    return f"{label} is not a layer that latentdb supports"
