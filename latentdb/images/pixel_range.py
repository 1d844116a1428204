"""Pixel ranges: what numbers a model takes for pixels, and what it gives back.

Written ``0..1``, ``-1..1``, ``0..255``, or ``MEAN/STD`` of pixels in 0..1, one
number or one a channel (``0.485,0.456,0.406/0.229,0.224,0.225``).  A decoder
that gives another range than the encoder takes has its own after a colon:
``0..255:0..1`` is an encoder that divides by 255 itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError

RANGES = ("0..1", "-1..1", "0..255")
_MOST_TEXT = 500
_HOW = "use one of 0..1, -1..1, 0..255, or MEAN/STD, and after a colon the decoder's if it differs"
Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Scale:
    """One range: how uint8 pixels become numbers, and the other way.

    Attributes
    ----------
    text
        As it was written.
    mean, std
        ``(pixel / 255 - mean) / std``, one of each for all channels or one a
        channel; empty for the ranges with a name.
    """

    text: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def _moments(self) -> tuple[Floats, Floats]:
        return np.array(self.mean, np.float32), np.array(self.std, np.float32)

    def numbers(self, pixels: Pixels) -> Floats:
        """uint8 ``[..., channels]`` as float32 of this range."""
        values = pixels.astype(np.float32)
        if self.text == "0..1":
            values /= np.float32(255)
        elif self.text == "-1..1":
            values = values / np.float32(127.5) - np.float32(1)
        elif self.mean:
            mean, std = self._moments()
            values = (values / np.float32(255) - mean) / std
        return values

    def pixels(self, values: Floats) -> Pixels:
        """Numbers of this range as uint8, rounded and clipped."""
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
    """What an encoder takes, and what its decoder gives."""

    encoder: Scale
    decoder: Scale


def parse(text: Any, channels: int) -> PixelRange:
    """Read a pixel range.

    Parameters
    ----------
    text
        As the head of this module says.
    channels
        Of the images: as many means are given, or one.

    Raises
    ------
    InvalidInputError
        If it is none.
    """
    if not isinstance(text, str) or len(text) > _MOST_TEXT:
        raise InvalidInputError(f"pixel range {str(text)[:40]!r} is unknown: {_HOW}")
    first, colon, second = text.partition(":")
    encoder = _scale(first, text, channels)
    return PixelRange(encoder, _scale(second, text, channels) if colon else encoder)


def _scale(part: str, text: str, channels: int) -> Scale:
    if part in RANGES:
        return Scale(part)
    mean, slash, std = part.partition("/")
    try:
        means = tuple(float(value) for value in mean.split(","))
        stds = tuple(float(value) for value in std.split(","))
    except ValueError:
        slash, means, stds = "", (), ()
    if not slash or not all(math.isfinite(value) for value in means + stds):
        raise InvalidInputError(f"pixel range {text!r} is unknown: {_HOW}")
    if not all(1e-6 <= value <= 1e6 for value in stds):
        raise InvalidInputError(f"pixel range {text!r} has a deviation that is not positive")
    if len(means) not in (1, channels) or len(stds) not in (1, channels):
        raise InvalidInputError(
            f"pixel range {text!r} has {len(means)} means and {len(stds)} deviations: "
            f"give one of each, or {channels}"
        )
    return Scale(part, means, stds)
