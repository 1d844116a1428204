"""Encoders and decoders of files made elsewhere, as a model of latentdb."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from latentdb.base.errors import InvalidInputError, ModelError
from latentdb.images.decode import Preprocessing
from latentdb.kerasfile.container import read_file
from latentdb.kerasfile.convert import convert, load_model
from latentdb.model.config import ACTIVATIONS, ONNX, ModelConfig, ModelOptions
from latentdb.model.fingerprint import fingerprints
from latentdb.model.keras_networks import add_sigmoid as add_sigmoid_to_keras
from latentdb.onnx.adopt import add_sigmoid as add_sigmoid_to_onnx
from latentdb.onnx.adopt import adopt, is_onnx

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class ForeignModel:
    """A model made elsewhere, in the form that a store keeps.

    Attributes
    ----------
    config
        Sizes, preprocessing and fingerprints.
    encoder, decoder
        The files; None for no decoder.
    notes
        What was decided, for people.
    trust_model
        Whether its code may be run.
    """

    config: ModelConfig
    encoder: bytes
    decoder: bytes | None
    notes: tuple[str, ...]
    trust_model: bool = False


def read_foreign(
    encoder: PathLike, decoder: PathLike | None, options: ModelOptions
) -> ForeignModel:
    """The model of Keras or ONNX files, which are read as data.

    Raises
    ------
    ModelError, UntrustedModelError
        As `Codec.from_files`.
    """
    activation = options.decoder_activation
    if activation not in (None, *ACTIVATIONS):
        raise InvalidInputError(
            f"decoder_activation {activation!r} is unknown: use {' or '.join(ACTIVATIONS)}"
        )
    if is_onnx(encoder) or is_onnx(decoder):
        model = _read_onnx(encoder, decoder, options)
    else:
        model = _read_keras(encoder, decoder, options)
    return with_sigmoid(model) if activation == "sigmoid" else model


def _read_keras(encoder: PathLike, decoder: PathLike | None, options: ModelOptions) -> ForeignModel:
    found = convert(
        encoder, decoder, z_mean=options.z_mean, z_log_var=options.z_log_var,
        image_size=options.image_size, channels=options.channels, trust_model=options.trust_model,
        architectures=options.architectures,
    )  # fmt: skip
    spec = _preprocessing(found.image, options, "0..255:0..1" if found.divides else "0..1")
    prints = fingerprints(found.encoder, found.decoder, spec, "the model")
    about = {"latent_shape": list(found.latent_shape)} if found.latent_shape else {}
    config = ModelConfig(spec, found.latent_dim, *prints, found.has_z_log_var, about)
    return ForeignModel(config, found.encoder, found.decoder, found.notes, options.trust_model)


def _read_onnx(encoder: PathLike, decoder: PathLike | None, options: ModelOptions) -> ForeignModel:
    """Imports no tensorflow."""
    if not is_onnx(encoder) or not (decoder is None or is_onnx(decoder)):
        raise ModelError(
            f"{encoder} and {decoder} are of two formats: give two .onnx files, or two of Keras"
        )
    found = adopt(
        (read_file(encoder, "an .onnx encoder"), os.fspath(encoder)),
        None if decoder is None else (read_file(decoder, "its decoder"), os.fspath(decoder)),
        z_mean=options.z_mean, z_log_var=options.z_log_var,
        image_size=options.image_size, channels=options.channels,
    )  # fmt: skip
    spec = _preprocessing(found.image, options, "0..1")
    prints = fingerprints(found.encoder, found.decoder, spec, "the model", ONNX)
    about = {"latent_shape": list(found.latent_shape)} if len(found.latent_shape) > 1 else {}
    config = ModelConfig(spec, found.latent_dim, *prints, found.has_z_log_var, about, format=ONNX)
    return ForeignModel(config, found.encoder, found.decoder, found.notes)


def with_sigmoid(model: ForeignModel) -> ForeignModel:
    """The same model with a sigmoid behind its decoder, which gives logits.

    Raises
    ------
    ModelError
        If it has no decoder.
    """
    if model.decoder is None:
        raise ModelError("decoder_activation sigmoid: this model has no decoder")
    config, name = model.config, "the decoder"
    if config.format == ONNX:
        decoder = add_sigmoid_to_onnx(model.decoder, name)
    else:
        keras_model = load_model(model.decoder, name, trust_model=model.trust_model)
        decoder = add_sigmoid_to_keras(keras_model)
    _, printed = fingerprints(
        model.encoder, decoder, config.preprocessing, "the model", config.format
    )
    return replace(model, config=replace(config, decoder_fingerprint=printed), decoder=decoder)


def _preprocessing(
    image: tuple[int, int, int], options: ModelOptions, pixel_range: str
) -> Preprocessing:
    """How images are read for a model made elsewhere."""
    return Preprocessing(
        *image,
        options.pixel_range or pixel_range,
        options.resize or "stretch",
        options.background or "white",
        options.icc or "srgb",
    )
