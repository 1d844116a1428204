"""A few latents as a file: vectors, one image, a row, an animation."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np

from latentdb.base.errors import InvalidInputError
from latentdb.base.outputs import write_output
from latentdb.images.pixel_range import Pixels
from latentdb.images.render import (
    contact_sheet,
    enlargement,
    grid,
    write_animation,
    write_picture,
    write_pixels,
)
from latentdb.store.rows import Floats

PathLike = str | os.PathLike[str]
MAX_SCALE = 64
_COLUMNS = 10
_MAX_PIXEL_BYTES = 2 << 30  # of the images of one picture


def write_vectors(latents: Floats, out: PathLike) -> None:
    """Write latents to a ``.npy`` file.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    buffer = io.BytesIO()
    np.save(buffer, latents)
    write_output(out, buffer.getvalue())


def check_count(count: int, shape: tuple[int, int, int]) -> None:
    """Refuse to draw so many images, ``[height, width, channels]``, into one picture.

    Raises
    ------
    InvalidInputError
        If their pixels would take more than 2 GiB.
    """
    height, width, _ = shape
    scale = enlargement(height, width)
    most = _MAX_PIXEL_BYTES // (3 * height * width * scale * scale)
    if count > max(most, 1):
        raise InvalidInputError(
            f"{count:,} images of {height}x{width} pixels do not fit into one picture: "
            f"at most {most:,} do; give fewer, or .npy"
        )


def check_scale(scale: object) -> None:
    """Refuse a factor by which images cannot be enlarged; raises `InvalidInputError`."""
    if not isinstance(scale, int | np.integer) or not 1 <= scale <= MAX_SCALE:
        raise InvalidInputError(
            f"scale {scale!r} cannot be used: give a whole number, 1 to {MAX_SCALE}"
        )


def write_images(pixels: Pixels, out: PathLike) -> None:
    """Write one image pixel for pixel; several as rows of a sheet, or as an animated GIF.

    Parameters
    ----------
    pixels
        uint8 ``[n, height, width, channels]``.
    out
        Its suffix decides the format.
    """
    if len(pixels) == 1:
        write_pixels(out, pixels[0])
    elif Path(out).suffix.lower() == ".gif":
        write_animation(out, pixels)
    else:
        write_picture(out, contact_sheet(grid([(image, "") for image in pixels], _COLUMNS)))
