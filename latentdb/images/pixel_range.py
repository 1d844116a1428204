"""Pixel ranges: the numbers a model takes for uint8 pixels, and those it returns.

A range is written ``0..1``, ``-1..1``, ``0..255``, or ``MEAN/STD`` of pixels in
0..1, with one number each or one per channel
(``0.485,0.456,0.406/0.229,0.224,0.225``).  If the decoder returns another range
than the encoder takes, its range follows after a colon: ``0..255:0..1`` is an
encoder that divides by 255 itself, and a decoder that ends in a sigmoid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError
from latentdb.base.wording import counted

RANGES = ("0..1", "-1..1", "0..255")
_MAX_TEXT = 500
_SYNTAX = (
    "use one of 0..1, -1..1, 0..255, or MEAN/STD, and after a colon the decoder's if it differs"
)
Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Normalization:
    """How uint8 pixels become numbers of one range, and back.

    Attributes
    ----------
    text
        The range as it was written.
    mean, std
        Of ``(pixel / 255 - mean) / std``, one number for all channels or one per
        channel; empty for the three named ranges.
    """

    text: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def _moments(self) -> tuple[Floats, Floats]:
        return np.array(self.mean, np.float32), np.array(self.std, np.float32)

    def normalize(self, pixels: Pixels) -> Floats:
        """uint8 ``[..., channels]`` to float32 of this range."""
        values = pixels.astype(np.float32)
        if self.text == "0..1":
            values /= np.float32(255)
        elif self.text == "-1..1":
            values = values / np.float32(127.5) - np.float32(1)
        elif self.mean:
            mean, std = self._moments()
            values = (values / np.float32(255) - mean) / std
        return values

    def denormalize(self, values: Floats) -> Pixels:
        """Numbers of this range to uint8, rounded and clipped."""
        values = np.asarray(values, np.float32)
        if self.text == "0..1":
            values = values * 255
        elif self.text == "-1..1":
            values = (values + 1) * 127.5
        elif self.mean:
            mean, std = self._moments()
            values = (values * std + mean) * np.float32(255)
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class PixelRange:
    """The range an encoder takes, and the range its decoder returns."""

    encoder: Normalization
    decoder: Normalization


def parse_pixel_range(text: Any, channels: int) -> PixelRange:
    """A pixel range from its text.

    Parameters
    ----------
    text
        In the syntax given at the head of this module.
    channels
        Of the images; ``MEAN`` and ``STD`` have as many numbers, or one.

    Raises
    ------
    InvalidInputError
        If it is not a pixel range.
    """
    if not isinstance(text, str) or len(text) > _MAX_TEXT:
        raise InvalidInputError(f"pixel range {str(text)[:40]!r} is unknown: {_SYNTAX}")
    first, colon, second = text.partition(":")
    encoder = _parse_one(first, text, channels)
    return PixelRange(encoder, _parse_one(second, text, channels) if colon else encoder)


def _parse_one(part: str, text: str, channels: int) -> Normalization:
    if part in RANGES:
        return Normalization(part)
    mean, slash, std = part.partition("/")
    try:
        means = tuple(float(value) for value in mean.split(","))
        stds = tuple(float(value) for value in std.split(","))
    except ValueError:
        slash, means, stds = "", (), ()
    if not slash or not all(math.isfinite(value) for value in means + stds):
        raise InvalidInputError(f"pixel range {text!r} is unknown: {_SYNTAX}")
    if not all(1e-6 <= value <= 1e6 for value in stds):
        raise InvalidInputError(f"pixel range {text!r} has a deviation that is not positive")
    if len(means) not in (1, channels) or len(stds) not in (1, channels):
        raise InvalidInputError(
            f"pixel range {text!r} has {counted(len(means), 'mean')} and "
            f"{counted(len(stds), 'deviation')}: give one of each, or {channels}"
        )
    return Normalization(part, means, stds)
