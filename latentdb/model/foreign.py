"""Encoders and decoders of files made elsewhere, as a model of latentdb."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from latentdb.base.condition import ConditionInput
from latentdb.base.errors import (
    InvalidInputError,
    LayerError,
    ModelError,
    UntrustedModelError,
)
from latentdb.images.decode import Preprocessing
from latentdb.kerasfile.container import Content, read_file
from latentdb.kerasfile.convert import Source, convert, load_model
from latentdb.model.condition import Condition
from latentdb.model.config import ACTIVATIONS, ONNX, ModelConfig, ModelOptions
from latentdb.model.fingerprint import fingerprints
from latentdb.model.keras_networks import add_sigmoid as add_sigmoid_to_keras
from latentdb.model.live import LiveModel, as_files, as_onnx
from latentdb.onnx.adopt import add_sigmoid as add_sigmoid_to_onnx
from latentdb.onnx.adopt import adopt, is_onnx
from latentdb.store.columns import check_key

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
    _check_options(options)
    if not is_onnx(encoder) and not is_onnx(decoder):
        return _finished(_read_keras(encoder, decoder, options), options)
    if not is_onnx(encoder) or not (decoder is None or is_onnx(decoder)):
        raise ModelError(
            f"{encoder} and {decoder} are of two formats: give two .onnx files, or two of Keras"
        )
    return _finished(_read_onnx(encoder, decoder, options), options)


def _check_options(options: ModelOptions) -> None:
    activation = options.decoder_activation
    if activation not in (None, *ACTIVATIONS):
        raise InvalidInputError(
            f"decoder_activation {activation!r} is unknown: use {' or '.join(ACTIVATIONS)}"
        )
    if options.condition is not None:
        check_key(options.condition)
    elif options.categories is not None:
        raise InvalidInputError("categories are those of a condition: give --condition KEY")


def _finished(model: ForeignModel, options: ModelOptions) -> ForeignModel:
    return with_sigmoid(model) if options.decoder_activation == "sigmoid" else model


def read_live(model: LiveModel, options: ModelOptions) -> Iterator[ForeignModel]:
    """The forms of a model in memory that a store can keep: as data, or else as ONNX.

    Raises
    ------
    ModelError
        If it has neither.
    """
    _check_options(options)
    if options.architectures:
        raise InvalidInputError("architectures are for files of weights: leave them out")
    reason = "it is computed in code of its own"
    try:
        found = _read_keras(*as_files(model), replace(options, trust_model=False))
        yield _finished(found, options)
    except (UntrustedModelError, LayerError) as error:
        reason = str(error).partition("; ")[0].partition(": in the program")[0]
    encoder, decoder = as_onnx(
        model, z_mean=options.z_mean, z_log_var=options.z_log_var,
        image_size=options.image_size, channels=options.channels,
    )  # fmt: skip
    found = _read_onnx(encoder, decoder, options)
    note = f"the store keeps it as ONNX: {reason}"
    yield _finished(replace(found, notes=(note, *found.notes)), options)


def _read_keras(encoder: Source, decoder: Source | None, options: ModelOptions) -> ForeignModel:
    found = convert(
        encoder, decoder, z_mean=options.z_mean, z_log_var=options.z_log_var,
        image_size=options.image_size, channels=options.channels, trust_model=options.trust_model,
        architectures=options.architectures, conditional=options.condition is not None,
    )  # fmt: skip
    condition = _condition(options, found.encoder_condition, found.decoder_condition)
    spec = _preprocessing(found.image, options, "0..255:0..1" if found.divides else "0..1")
    prints = fingerprints(found.encoder, found.decoder, spec, "the model", condition=condition)
    about = {"latent_shape": list(found.latent_shape)} if found.latent_shape else {}
    config = ModelConfig(
        spec, found.latent_dim, *prints, found.has_z_log_var, about, condition=condition
    )
    return ForeignModel(config, found.encoder, found.decoder, found.notes, options.trust_model)


def _read_onnx(encoder: Source, decoder: Source | None, options: ModelOptions) -> ForeignModel:
    """Imports no tensorflow."""
    found = adopt(
        _content(encoder, "an .onnx encoder"),
        None if decoder is None else _content(decoder, "its decoder"),
        z_mean=options.z_mean, z_log_var=options.z_log_var,
        image_size=options.image_size, channels=options.channels,
        conditional=options.condition is not None,
    )  # fmt: skip
    condition = _condition(options, found.encoder_condition, found.decoder_condition)
    spec = _preprocessing(found.image, options, "0..1")
    prints = fingerprints(found.encoder, found.decoder, spec, "the model", ONNX, condition)
    about = {"latent_shape": list(found.latent_shape)} if len(found.latent_shape) > 1 else {}
    config = ModelConfig(
        spec, found.latent_dim, *prints, found.has_z_log_var, about, format=ONNX,
        condition=condition,
    )  # fmt: skip
    return ForeignModel(config, found.encoder, found.decoder, found.notes)


def _content(source: Source, expected: str) -> tuple[bytes, str]:
    """Bytes and name of a file."""
    if isinstance(source, Content):
        return source.data, source.name
    return read_file(source, expected), os.fspath(source)


def _condition(
    options: ModelOptions, encoder: ConditionInput | None, decoder: ConditionInput | None
) -> Condition | None:
    """The condition that options name, of what the networks take."""
    if options.condition is None:
        return None
    return Condition.of(options.condition, options.categories, encoder, decoder)


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
        model.encoder, decoder, config.preprocessing, "the model", config.format, config.condition
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
