"""A model made elsewhere, adopted: read as data, and its pixel range found out.

A model file does not say what numbers it was trained on.  Where its decoder is
at hand the range is found by trying: the right one gives back the images that
were put in.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import ImageError, ModelError
from latentdb.images.decode import Preprocessing, read_image
from latentdb.images.discover import BadFile, discover
from latentdb.images.pixel_range import RANGES
from latentdb.model.codec import Codec
from latentdb.model.config import ModelOptions

PathLike = str | os.PathLike[str]
SAMPLE = 32  # images that are tried
CLEAR = 1.25  # how many times worse the second range must be
_MOST_SIZE = 20.0  # root mean square of z_mean
SUFFIXES = (".keras", ".h5", ".hdf5")


def is_file(model: object) -> bool:
    """Whether a model was given as one file: a whole VAE, or an encoder."""
    return isinstance(model, str | os.PathLike) and (
        os.fspath(model).lower().endswith(SUFFIXES) or Path(model).is_file()
    )


def import_model(
    encoder: PathLike,
    decoder: PathLike | None = None,
    *,
    options: ModelOptions | None = None,
    images: Sequence[PathLike] | None = None,
) -> Codec:
    """Take in the files of a model made elsewhere.

    Parameters
    ----------
    encoder
        A .keras or .h5 file: an encoder, or a whole VAE.
    decoder
        The file of its decoder, where the first has none.
    options
        What is known of it.
    images
        Folders and files, to find the pixel range with; the first
        few are read.

    Returns
    -------
    Codec
        With what was chosen, and how sure that is, in its `notes`.

    Raises
    ------
    ModelError
        If the files cannot be used, or the range cannot be told.
    UntrustedModelError
        If they can only be used by running their code.
    """
    codec = Codec.from_files(encoder, decoder, options=options)
    if options is not None and options.pixel_range is not None:
        return codec
    spec = codec.config.preprocessing
    sample = _sample(images or (), spec) if codec.has_decoder else ()
    if len(sample):
        return calibrate(codec, np.asarray(sample))
    why = "its first layer divides by 255" if ":" in spec.pixel_range else "not verified"
    return codec.noting(
        f"the encoder is given pixels as {spec.pixel_range.partition(':')[0]} ({why}); "
        "--pixel-range says otherwise"
    )


def _sample(images: Sequence[PathLike], spec: Preprocessing) -> NDArray[np.uint8]:
    """The first readable images as pixels: uint8 ``[n, height, width, channels]``."""
    read: list[NDArray[np.uint8]] = []
    for found in islice(discover(images), 10 * SAMPLE):
        if isinstance(found, BadFile):
            continue
        try:
            read.append(read_image(found.path, spec))
        except ImageError:
            continue  # indexing names it
        if len(read) == SAMPLE:
            break
    return np.stack(read) if read else np.empty((0, *spec.shape), np.uint8)


def calibrate(codec: Codec, images: NDArray[np.uint8]) -> Codec:
    """Find the pixel range of a model with a decoder by what it makes of images.

    Parameters
    ----------
    codec
        The model; if its encoder divides by 255 itself, its range says so.
    images
        uint8 ``[n, height, width, channels]``.

    Returns
    -------
    Codec
        With that range, and a note of how sure it is.

    Raises
    ------
    ModelError
        If none gives the images back, or two do about as well.
    """
    spec = codec.config.preprocessing
    divides = ":" in spec.pixel_range
    takes = ("0..255",) if divides else RANGES
    tried = [
        first if first == second else f"{first}:{second}" for first in takes for second in RANGES
    ]
    found = codec.reconstructions(images, tried)
    errors = {text: error for text, (error, _) in found.items()}
    best = min(tried, key=errors.__getitem__)
    # The KL loss keeps z_mean near 0: a range that makes it huge is not the one of the training.
    likely = [text for text in tried if found[text][1] <= _MOST_SIZE]
    ranked = sorted(likely if best in likely else tried, key=errors.__getitem__)
    second = ranked[1]
    flat = float(np.var(images.astype(np.float64), axis=(0, 1, 2)).mean())
    ratio = errors[second] / max(errors[best], 1e-9)
    told = f"{best} gives an error of {errors[best]:.0f}, {second} one of {errors[second]:.0f}"
    if errors[best] >= flat:
        why = f"{told}, plain grey {flat:.0f}"
    elif ratio < CLEAR:
        why = told
    elif ":" in best and not divides:
        why = f"{told}, but an encoder and a decoder of different ranges are rare"
    else:
        chosen = codec.with_preprocessing(replace(spec, pixel_range=best))
        return chosen.noting(
            f"the pixel range is {best}: of {len(images)} images given back, {told} "
            f"({ratio:.1f} times as much)"
        )
    raise ModelError(
        f"the pixel range cannot be told by giving back {len(images)} images: {why}; give "
        "--pixel-range, one of 0..1, -1..1, 0..255, MEAN/STD"
    )
