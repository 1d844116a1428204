"""Pictures out: write one image, an animation, a sheet of many with captions."""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError
from latentdb.base.files import write_output
from latentdb.images.decode import FORMATS

if TYPE_CHECKING:
    from PIL import Image as PILImage

_CELL = 96  # pixels of a picture in a sheet, unless it is larger
_CAPTION = 14


def to_picture(pixels: NDArray[np.uint8]) -> PILImage.Image:
    """uint8 ``[height, width, 1 or 3]`` as a Pillow image."""
    from PIL import Image

    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def check_picture(path: str | os.PathLike[str]) -> str:
    """The Pillow format of a picture's name, before any work is done for it.

    Raises
    ------
    InvalidInputError
        If the ending is none of PNG, JPEG, WebP, GIF, BMP or TIFF.
    """
    from PIL import Image

    suffix = Path(path).suffix.lower()
    kind = Image.registered_extensions().get(suffix)
    if kind not in FORMATS:
        raise InvalidInputError(f"{os.fspath(path)}: cannot write {suffix!r} files, use .png")
    return kind


def write_picture(path: str | os.PathLike[str], picture: PILImage.Image, **options: Any) -> None:
    """Write a Pillow image whole or not at all, in the format of the suffix.

    Raises
    ------
    InvalidInputError
        If the suffix is none of PNG, JPEG, WebP, GIF, BMP or TIFF.
    StoreError
        If it cannot be written.
    """
    kind = check_picture(path)
    buffer = io.BytesIO()
    try:
        picture.save(buffer, format=kind, **options)
    except (OSError, ValueError, OverflowError, struct.error) as error:  # too large for it
        width, height = picture.size
        raise InvalidInputError(
            f"{os.fspath(path)}: {width}x{height} pixels cannot be written as {kind} "
            f"({' '.join(str(error).split())}): use .png"
        ) from error
    write_output(path, buffer.getvalue())


def write_pixels(path: str | os.PathLike[str], pixels: NDArray[np.uint8]) -> None:
    """Write one image, uint8 ``[height, width, channels]``, as `write_picture` does."""
    write_picture(path, to_picture(pixels))


def write_animation(path: str | os.PathLike[str], frames: NDArray[np.uint8]) -> None:
    """Write uint8 ``[n, height, width, channels]`` as a GIF that goes there and back."""
    kind = check_picture(path)
    if kind not in ("GIF", "WEBP", "PNG"):
        raise InvalidInputError(f"{os.fspath(path)}: {kind} does not move, use .gif")
    pictures = [_enlarged(frame) for frame in frames]
    loop = pictures + pictures[-2:0:-1]
    write_picture(path, loop[0], save_all=True, append_images=loop[1:], duration=100, loop=0)


def sheet(
    rows: Sequence[Sequence[tuple[NDArray[np.uint8], str]]],
) -> PILImage.Image:
    """Lay pictures out in rows, each with a caption below it.

    Parameters
    ----------
    rows
        Rows of (uint8 ``[height, width, channels]``, caption); the lines of a
        caption stand below each other.
    """
    from PIL import Image, ImageDraw, ImageFont

    laid = [[(_enlarged(pixels), caption) for pixels, caption in row] for row in rows]
    font = ImageFont.load_default(size=11)
    gap = 4
    lines = [max((len(caption.splitlines()) for _, caption in row), default=0) for row in rows]
    cell = max((picture.width for row in laid for picture, _ in row), default=_CELL)
    heights = [
        max((picture.height for picture, _ in row), default=0) + _CAPTION * count
        for row, count in zip(laid, lines, strict=True)
    ]
    width = gap + max((len(row) for row in laid), default=0) * (cell + gap)
    canvas = Image.new("RGB", (max(width, 1), gap + sum(heights) + gap * len(heights)), "white")
    draw = ImageDraw.Draw(canvas)
    top = gap
    for row, height in zip(laid, heights, strict=True):
        for column, (picture, caption) in enumerate(row):
            left = gap + column * (cell + gap)
            canvas.paste(picture, (left, top))
            for number, line in enumerate(caption.splitlines()):
                place = (left, top + picture.height + 1 + number * _CAPTION)
                draw.text(place, _clipped(line, cell, draw, font), fill="black", font=font)
        top += height + gap
    return canvas


def _clipped(text: str, width: int, draw: Any, font: Any) -> str:
    """The end of a caption that fits: ids differ at their ends."""
    if draw.textlength(text, font=font) <= width:
        return text
    kept = ""
    for letter in reversed(text):  # what fits is short, the whole may be long
        if draw.textlength("…" + letter + kept, font=font) > width:
            break
        kept = letter + kept
    return "…" + kept


def _enlarged(pixels: NDArray[np.uint8]) -> PILImage.Image:
    """Small images are shown enlarged by whole factors, pixel for pixel."""
    from PIL import Image

    picture = to_picture(pixels).convert("RGB")
    factor = max(1, math.ceil(_CELL / max(picture.size)))
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.NEAREST)
