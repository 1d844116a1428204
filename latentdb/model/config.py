"""The configuration of a model: `model.json`, and the options of a model file made elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from latentdb.base.errors import ModelError
from latentdb.images.decode import Preprocessing
from latentdb.model.condition import Condition
from latentdb.onnx.runtime import FLOAT32, PRECISIONS

CONFIG_FILE = "model.json"
KERAS, ONNX = "keras", "onnx"
ACTIVATIONS = ("sigmoid", "none")  # of `ModelOptions.decoder_activation`
# Encoder and decoder.  The names of ONNX models are not those of compiled files, which a
# store may lose: these are the model itself.
NETWORK_FILES = {
    KERAS: ("encoder.keras", "decoder.keras"),
    ONNX: ("encoder.model.onnx", "decoder.model.onnx"),
}


@dataclass(frozen=True)
class ModelConfig:
    """The contents of `model.json`: enough to prepare images and to check latents.

    Attributes
    ----------
    preprocessing
        How an image becomes the encoder's input.
    latent_dim
        Dimensions of z_mean.
    encoder_fingerprint
        Of the encoder and the preprocessing: see `latentdb.model.fingerprint`.
    decoder_fingerprint
        Of the decoder and the pixel range; None without a decoder.
    has_z_log_var
        Whether the encoder gives z_log_var as its second output.
    about
        How the model was trained (seed, losses, versions), for people.
    precision
        Of encoding and decoding: ``"float32"`` or ``"bf16"``.
    format
        Of the encoder's and the decoder's file: ``"keras"`` or ``"onnx"``.
    condition
        What a conditional VAE is conditioned on; None for any other model.
    """

    preprocessing: Preprocessing
    latent_dim: int
    encoder_fingerprint: str
    decoder_fingerprint: str | None
    has_z_log_var: bool
    about: Mapping[str, Any] = field(default_factory=dict)
    precision: str = FLOAT32
    format: str = KERAS
    condition: Condition | None = None

    def to_json(self) -> str:
        values = {**asdict(self), "preprocessing": self.preprocessing.to_record()}
        if self.precision == FLOAT32:
            del values["precision"]  # older versions of latentdb refuse the key
        if self.format == KERAS:
            del values["format"]  # likewise, and they can read no other format
        del values["condition"]  # likewise
        if self.condition is not None:
            values["condition"] = self.condition.to_record()
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str) -> ModelConfig:
        """The config that `to_json` wrote; `name` is the file's name in error messages.

        Raises
        ------
        ModelError
            If it cannot be parsed.
        """
        try:
            values = json.loads(text)
            values["preprocessing"] = Preprocessing(**values["preprocessing"])
            if "condition" in values:
                values["condition"] = Condition.from_record(values["condition"])
            config = cls(**values)
            if type(config.has_z_log_var) is not bool:
                raise ValueError(f"has_z_log_var {config.has_z_log_var!r} is not true or false")
            if type(config.latent_dim) is not int or config.latent_dim < 1:
                raise ValueError(f"latent_dim {config.latent_dim!r} is not a positive whole number")
            prints = (config.encoder_fingerprint, config.decoder_fingerprint or "")
            if not all(isinstance(text, str) for text in prints):
                raise ValueError("its fingerprints are not text")
            if config.precision not in PRECISIONS:
                raise ValueError(
                    f"precision {config.precision!r} is not one of {', '.join(PRECISIONS)}"
                )
            if config.format not in NETWORK_FILES:
                raise ValueError(
                    f"format {config.format!r} is not one of {', '.join(NETWORK_FILES)}"
                )
            return config
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelError(f"{name} is not a latentdb model config: {error}") from error


@dataclass(frozen=True)
class ModelOptions:
    """What the user knows about a model file that the file itself does not say.

    Attributes
    ----------
    z_mean, z_log_var
        Layer names, or names of outputs of an ONNX file; found by name or position where None.
    image_size, channels
        Height and width, and 1 or 3; by default those of the encoder's input.
    pixel_range
        As in `Preprocessing`; by default ``"0..255:0..1"`` for an encoder that
        divides by 255 itself, else ``"0..1"``, or what calibration finds.
    resize
        As in `Preprocessing`; ``"stretch"`` by default.
    background, icc
        As in `Preprocessing`; ``"white"`` and ``"srgb"`` by default.
    trust_model
        Run the code of files that cannot be used as data.
    decoder_activation
        What the decoder leaves to its loss: ``"sigmoid"`` of a decoder that gives logits,
        or ``"none"``; found by calibration where None.
    architectures
        .json files (``model.to_json()``) of an encoder, and of a decoder, that are files of
        weights only.
    condition
        The metadata column that is the condition of a conditional VAE.
    categories
        Values of that column, in the order of the model's classes; ``"0"``, ``"1"`` and so on
        if None.
    """

    z_mean: str | None = None
    z_log_var: str | None = None
    image_size: tuple[int, int] | None = None
    channels: int | None = None
    pixel_range: str | None = None
    resize: str | None = None
    background: str | None = None
    icc: str | None = None
    trust_model: bool = False
    decoder_activation: str | None = None
    architectures: tuple[str, ...] = ()
    condition: str | None = None
    categories: tuple[str, ...] | None = None

    def with_defaults(self, spec: Preprocessing) -> ModelOptions:
        """The same options, with the rules of `spec` for reading images where they are None."""
        return replace(
            self,
            pixel_range=self.pixel_range or spec.pixel_range,
            resize=self.resize or spec.resize,
            background=self.background or spec.background,
            icc=self.icc or spec.icc,
        )
