"""Pixels to image files: single images, animations, contact sheets with captions."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from latentdb.base.errors import InvalidInputError
from latentdb.base.outputs import STDOUT, write_output
from latentdb.images import jpeg
from latentdb.images.decode import to_pil
from latentdb.images.fonts import fitted
from latentdb.images.pixel_range import Pixels

if TYPE_CHECKING:
    from PIL import Image as PILImage

Cell: TypeAlias = tuple[Pixels, str]  # uint8 [height, width, channels], caption

SUFFIXES = (".png", ".jpg", ".webp", ".gif", ".bmp", ".tif")  # to write; others work, too
# Pillow's own table of them takes 0.1 s to load.
_FORMATS = {
    ".png": "PNG", ".apng": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG",
    ".jfif": "JPEG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP", ".tif": "TIFF",
    ".tiff": "TIFF",
}  # fmt: skip
_QUALITY = 96  # from here on TurboJPEG uses the accurate DCT, as Pillow always does
SIDE = 96  # of an image on a sheet, unless it is larger
_GAP = 4
_CAPTION, _FONT_SIZE = 14, 11  # height of a line, and of its letters


def encode_pixels(pixels: Pixels, format: str) -> bytes:
    """uint8 ``[height, width, 1 or 3]`` as the content of an image file.

    Parameters
    ----------
    format
        ``"png"``, ``"jpeg"`` or ``"webp"``.
    """
    if format == "jpeg":
        data = jpeg.encode(pixels, _QUALITY)
        if data is not None:
            return data
    options: dict[str, Any] = {
        # Level 1 takes a third of the time of level 6, and 5 % more bytes.
        "png": {"compress_level": 1},
        "jpeg": {"quality": _QUALITY, "subsampling": 0},
        "webp": {"quality": _QUALITY},
    }[format]
    buffer = io.BytesIO()
    to_pil(pixels).save(buffer, format=format, **options)
    return buffer.getvalue()


def picture_format(path: str | os.PathLike[str]) -> str:
    """The Pillow format that the suffix of a path stands for; PNG for stdout.

    Raises
    ------
    InvalidInputError
        If it stands for none that is written.
    """
    if os.fspath(path) == STDOUT:
        return "PNG"
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise InvalidInputError(
            f"{os.fspath(path)}: cannot write {suffix!r} files, use one of {' '.join(SUFFIXES)}"
        )
    return _FORMATS[suffix]


def write_picture(path: str | os.PathLike[str], picture: PILImage.Image, **options: Any) -> None:
    """Write a Pillow image atomically, in the format of the suffix.

    Raises
    ------
    InvalidInputError
        If the suffix is unknown, or the image is too large for its format.
    StoreError
        If it cannot be written.
    """
    format = picture_format(path)
    buffer = io.BytesIO()
    try:
        picture.save(buffer, format=format, **options)
    except (OSError, ValueError, OverflowError, struct.error) as error:
        width, height = picture.size
        raise InvalidInputError(
            f"{os.fspath(path)}: {width}x{height} pixels cannot be written as {format} "
            f"({' '.join(str(error).split())}): use .png"
        ) from error
    write_output(path, buffer.getvalue())


def write_pixels(path: str | os.PathLike[str], pixels: Pixels) -> None:
    """Write one image, uint8 ``[height, width, channels]``, as `write_picture` does."""
    write_picture(path, to_pil(pixels))


def write_animation(path: str | os.PathLike[str], frames: Pixels) -> None:
    """Write uint8 ``[n, height, width, channels]`` as an animation that plays forth and back.

    Raises
    ------
    InvalidInputError
        If the format has no animations; and as `write_picture`.
    """
    format = picture_format(path)
    if format not in ("GIF", "WEBP", "PNG"):
        raise InvalidInputError(f"{os.fspath(path)}: {format} has no animations, use .gif")
    pictures = [_on_sheet(frame) for frame in frames]
    loop = pictures + pictures[-2:0:-1]
    write_picture(path, loop[0], save_all=True, append_images=loop[1:], duration=100, loop=0)


def one_line(text: str) -> str:
    """A text with each run of white space, line breaks included, as one space."""
    return " ".join(text.split())


def grid(cells: Sequence[Cell], columns: int) -> list[Sequence[Cell]]:
    """Cells as rows of so many columns, for `contact_sheet`."""
    return [cells[start : start + columns] for start in range(0, len(cells), columns)]


def contact_sheet(rows: Sequence[Sequence[Cell]]) -> PILImage.Image:
    """Images in rows, each with its caption below it.

    Parameters
    ----------
    rows
        Rows of (uint8 ``[height, width, channels]``, caption).  A caption may have
        several lines.
    """
    from PIL import Image, ImageDraw

    pictures = [[(_on_sheet(pixels), caption) for pixels, caption in row] for row in rows]
    cell = max((picture.width for row in pictures for picture, _ in row), default=SIDE)
    heights = [
        max((picture.height for picture, _ in row), default=0)
        + _CAPTION * max((len(caption.splitlines()) for _, caption in row), default=0)
        for row in pictures
    ]
    width = _GAP + max((len(row) for row in pictures), default=0) * (cell + _GAP)
    canvas = Image.new("RGB", (width, _GAP + sum(heights) + _GAP * len(heights)), "white")
    draw = ImageDraw.Draw(canvas)
    top = _GAP
    for row, height in zip(pictures, heights, strict=True):
        for column, (picture, caption) in enumerate(row):
            left = _GAP + column * (cell + _GAP)
            canvas.paste(picture, (left, top))
            for number, line in enumerate(caption.splitlines()):
                corner = (left, top + picture.height + 1 + number * _CAPTION)
                text, font = fitted(line, _FONT_SIZE)
                draw.text(corner, shorten(text, cell, draw, font), fill="black", font=font)
        top += height + _GAP
    return canvas


def shorten(text: str, width: int, draw: Any, font: Any) -> str:
    """The end of a caption that fits: ids differ at their ends."""
    if draw.textlength(text, font=font) <= width:
        return text
    end = ""
    for letter in reversed(text):  # from the end: few letters fit, and the text may be long
        if draw.textlength("…" + letter + end, font=font) > width:
            break
        end = letter + end
    return "…" + end


def enlargement(height: int, width: int, least: int = SIDE) -> int:
    """The least whole factor that makes the longer side of an image `least` pixels or more."""
    return -(-least // max(height, width))


def enlarge(pixels: Pixels, factor: int) -> Pixels:
    """uint8 ``[..., height, width, channels]`` with each pixel repeated so often both ways."""
    # The width first: repeating whole lines is then copying them, in a third of the time.
    return pixels if factor == 1 else pixels.repeat(factor, axis=-2).repeat(factor, axis=-3)


def enlarged(pixels: Pixels, factor: int) -> PILImage.Image:
    """One image, enlarged by a whole factor without interpolation, in RGB."""
    return to_pil(enlarge(pixels, factor)).convert("RGB")


def _on_sheet(pixels: Pixels) -> PILImage.Image:
    return enlarged(pixels, enlargement(*pixels.shape[:2]))
