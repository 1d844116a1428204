"""Import a model made elsewhere, and find its pixel range.

A model file does not say which pixel values it was trained on.  Where it has a
decoder, each range is tried on some images: the range with the lowest
reconstruction error is the right one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import ImageError, ModelError
from latentdb.images.decode import Preprocessing, read_image
from latentdb.images.discover import BadFile, discover
from latentdb.images.pixel_range import RANGES
from latentdb.kerasfile.savedmodel import is_saved_model
from latentdb.model.codec import Codec
from latentdb.model.config import ModelOptions
from latentdb.model.live import LiveModel
from latentdb.model.range_fit import RangeFit

PathLike = str | os.PathLike[str]
SAMPLE_SIZE = 32  # images to reconstruct
# The second best error must be so many times as large: below that, neither range is certain.
MIN_ERROR_RATIO = 1.25
# Root mean square of z_mean.  The KL loss keeps it near 1; inputs of a wrong range make it huge.
_MAX_Z_MEAN_RMS = 20.0
SUFFIXES = (".keras", ".h5", ".hdf5", ".onnx")


def is_file(model: object) -> bool:
    """Whether a model was given as one file, or SavedModel: a whole VAE, or an encoder."""
    return isinstance(model, str | os.PathLike) and (
        os.fspath(model).lower().endswith(SUFFIXES)
        or Path(model).is_file()
        or is_saved_model(model)
    )


def import_model(
    encoder: PathLike | LiveModel,
    decoder: PathLike | None = None,
    *,
    options: ModelOptions | None = None,
    images: Sequence[PathLike] | None = None,
) -> Codec:
    """The model of files made elsewhere, or of Keras models in memory, with its pixel range.

    Parameters
    ----------
    encoder
        A .keras or .h5 file: an encoder, or a whole VAE; or an .onnx encoder; or models in
        memory, with their decoder.
    decoder
        The file of its decoder, if the first file has none.
    options
        What the files do not say.  A pixel range given here is not calibrated.
    images
        Folders and files; the first few images calibrate the pixel range.

    Returns
    -------
    Codec
        Its `notes` say which range was chosen, and how it compares with the others.

    Raises
    ------
    ModelError
        If the files cannot be used, or no range is clearly the best.
    UntrustedModelError
        If they can only be used by running their code.
    """
    if isinstance(encoder, LiveModel):
        codec = Codec.from_models(encoder, options=options)
    else:
        codec = Codec.from_files(encoder, decoder, options=options)
    if options is not None and options.pixel_range is not None:
        return codec
    spec = codec.config.preprocessing
    # The conditions of these images are not known before they are indexed.
    calibrates = codec.has_decoder and codec.config.condition is None
    sample = _sample(images, spec) if images and calibrates else None
    if sample is not None and len(sample):
        fits = None
        if options is None or options.decoder_activation is None:
            fits = codec.reconstruction_errors(sample, _pairs(RANGES))
            completed = _complete(codec, sample, fits)
            if completed is not codec:
                codec, fits = completed, None
        return calibrate(codec, sample, fits)
    reason = "its first layer divides by 255" if ":" in spec.pixel_range else "not verified"
    return codec.with_notes(
        f"the encoder receives pixels as {spec.pixel_range.partition(':')[0]} ({reason}); "
        "--pixel-range sets another range"
    )


def _sample(images: Sequence[PathLike], spec: Preprocessing) -> NDArray[np.uint8]:
    """The first readable images as pixels: uint8 ``[n, height, width, channels]``."""
    sample: list[NDArray[np.uint8]] = []
    for file in islice(discover(images), 10 * SAMPLE_SIZE):
        if isinstance(file, BadFile):
            continue
        try:
            sample.append(read_image(file.path, spec))
        except ImageError:
            continue  # indexing reports it
        if len(sample) == SAMPLE_SIZE:
            break
    return np.stack(sample) if sample else np.empty((0, *spec.shape), np.uint8)


def _pairs(encoder_ranges: Sequence[str]) -> list[str]:
    """Each of these ranges of an encoder with each range of a decoder that has a name."""
    return [one if one == other else f"{one}:{other}" for one in encoder_ranges for other in RANGES]


def _grey_error(images: NDArray[np.uint8]) -> float:
    """The error of reconstructing all images as one uniform colour."""
    return float(np.var(images.astype(np.float64), axis=(0, 1, 2)).mean())


def _complete(codec: Codec, images: NDArray[np.uint8], fits: Mapping[str, RangeFit]) -> Codec:
    """With a sigmoid behind the decoder where that makes far better images: it gives logits."""
    ranges = ("0..255:0..1",) if ":" in codec.config.preprocessing.pixel_range else (
        "0..1", "-1..1:0..1", "0..255:0..1"
    )  # fmt: skip
    error = min(fits[text].logits_error for text in ranges)
    old = min(fit.error for fit in fits.values())
    if error >= _grey_error(images) or old < MIN_ERROR_RATIO * error:
        return codec
    return codec.with_sigmoid().with_notes(
        f"the decoder gives logits: with a sigmoid behind it the error is {error:.0f}, without "
        f"{old:.0f}; --decoder-activation none leaves it out"
    )


def calibrate(
    codec: Codec, images: NDArray[np.uint8], fits: Mapping[str, RangeFit] | None = None
) -> Codec:
    """The same model with the pixel range of the lowest reconstruction error.

    Parameters
    ----------
    codec
        A model with a decoder.  Where its pixel range says that the encoder
        divides by 255 itself, only the decoder's range is tried.
    images
        uint8 ``[n, height, width, channels]``.
    fits
        `Codec.reconstruction_errors` of these images, where they are known.

    Returns
    -------
    Codec
        With that range, and a note of the two lowest errors.

    Raises
    ------
    ModelError
        If no range beats uniform grey, or the best is not clearly better than
        the second.
    """
    spec = codec.config.preprocessing
    divides = ":" in spec.pixel_range
    candidates = _pairs(("0..255",) if divides else RANGES)
    if fits is None:
        fits = codec.reconstruction_errors(images, candidates)
    ranked = sorted(candidates, key=lambda text: fits[text].error)
    # Encoder and decoder with different ranges are rare: one counts only if it is far better.
    plain = [text for text in ranked if divides or ":" not in text]
    if fits[plain[0]].error < MIN_ERROR_RATIO * fits[ranked[0]].error:
        ranked = plain
    best = ranked[0]
    if fits[best].z_mean_rms <= _MAX_Z_MEAN_RMS:
        ranked = [text for text in ranked if fits[text].z_mean_rms <= _MAX_Z_MEAN_RMS]
    second = ranked[min(1, len(ranked) - 1)]
    error, second_error = fits[best].error, fits[second].error
    ratio = math.inf if second == best else second_error / max(error, 1e-9)
    grey_error = _grey_error(images)
    result = f"{best} gives an error of {error:.0f}, {second} of {second_error:.0f}"
    if error < grey_error and ratio >= MIN_ERROR_RATIO and (divides or ":" not in best):
        return codec.with_preprocessing(replace(spec, pixel_range=best)).with_notes(
            f"the pixel range is {best}: reconstructing {len(images)} images with {result} "
            f"({ratio:.1f} times as much)"
        )
    if error >= grey_error:
        result += f", uniform grey of {grey_error:.0f}"
    elif ratio >= MIN_ERROR_RATIO:
        result += ", but an encoder and a decoder with different ranges are rare"
    raise ModelError(
        f"reconstructing {len(images)} images does not show the pixel range: {result}; give "
        "--pixel-range, one of 0..1, -1..1, 0..255, MEAN/STD"
    )
