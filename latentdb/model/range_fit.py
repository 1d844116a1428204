"""How well pixel ranges fit a model: by what it makes of images under each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentdb.images.pixel_range import Normalization, Pixels, parse_pixel_range

Floats = NDArray[np.float32]


class RangeFit(NamedTuple):
    """How well a pixel range fits a model: see `Codec.reconstruction_errors`."""

    error: float
    z_mean_rms: float
    logits_error: float = math.inf


def fit_ranges(
    encode: Callable[[Floats], Sequence[Floats]],
    decode: Callable[[Floats], Floats],
    images: Pixels,
    ranges: Sequence[str],
    channels: int,
) -> dict[str, RangeFit]:
    """See `Codec.reconstruction_errors`, with the networks as functions."""
    parsed = {text: parse_pixel_range(text, channels) for text in ranges}
    decoded, sizes = {}, {}
    for scale in {one.encoder for one in parsed.values()}:
        z_mean = encode(scale.normalize(images))[0]
        sizes[scale] = float(np.sqrt(np.mean(z_mean**2, dtype=np.float64)))
        values = decode(z_mean).reshape(images.shape)
        squashed = (1 / (1 + np.exp(-np.clip(values, -80, 80)))).astype(np.float32)
        decoded[scale] = values, squashed
    originals = images.astype(np.float32)

    def error(values: Floats, scale: Normalization) -> float:
        if not np.isfinite(values).all():
            return math.inf
        pixels = scale.denormalize(values).astype(np.float32)
        return float(np.mean((pixels - originals) ** 2, dtype=np.float64))

    fits = {}
    for text, one in parsed.items():
        plain, logits = (error(values, one.decoder) for values in decoded[one.encoder])
        fits[text] = RangeFit(plain, sizes[one.encoder], logits)
    return fits
