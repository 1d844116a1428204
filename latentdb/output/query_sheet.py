"""The sheet of a query: what was sought and its reconstruction at the left, then the matches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from latentdb.images.decode import to_pil
from latentdb.images.fonts import fitted
from latentdb.images.pixel_range import Pixels
from latentdb.images.render import shorten

if TYPE_CHECKING:
    from PIL import Image as PILImage

Colour: TypeAlias = tuple[int, int, int]
MAX_SIDE = 256  # of an image
_MIN_SIDE = 128  # smaller ones are enlarged by a whole factor
_COLUMNS = 5
_GAP, _FRAME, _MARGIN = 10, 4, 16
_SIZE, _LINE = 13, 17  # of the captions
_INK: Colour = (30, 30, 30)
_PALE: Colour = (115, 115, 115)
_GROUND: Colour = (243, 243, 243)
AGREES: Colour = (44, 150, 72)
DIFFERS: Colour = (216, 110, 40)


@dataclass(frozen=True)
class Tile:
    """An image, its caption, and the colour of its frame, if it has one.

    Attributes
    ----------
    pixels
        uint8 ``[height, width, channels]``.
    lines
        The first is dark, the others are pale.
    """

    pixels: Pixels
    lines: Sequence[str]
    frame: Colour | None = None


def draw_query(sought: Sequence[Tile], matches: Sequence[Tile]) -> PILImage.Image:
    """Draw what was sought in a column of its own, and the matches in rows of five."""
    from PIL import Image, ImageDraw

    tiles = [*sought, *matches]
    side = max(map(_enlarged_side, tiles))
    texts = max(len(tile.lines) for tile in tiles)
    across, down = side + 2 * _FRAME + _GAP, side + 2 * _FRAME + 6 + texts * _LINE + _GAP
    lines = math.ceil(len(matches) / _COLUMNS)
    left_columns = math.ceil(len(sought) / max(lines, 1))
    rows = max(lines, math.ceil(len(sought) / left_columns))
    columns = min(_COLUMNS, len(matches))
    split = _MARGIN + left_columns * across + _GAP
    width = split + (_GAP + columns * across if columns else 0) + _MARGIN - _GAP
    canvas = Image.new("RGB", (width, 2 * _MARGIN + rows * down - _GAP), "white")
    draw = ImageDraw.Draw(canvas)

    def place(tile: Tile, left: int, top: int) -> None:
        outer = (left, top, left + side + 2 * _FRAME - 1, top + side + 2 * _FRAME - 1)
        draw.rectangle(outer, fill=tile.frame or _GROUND)
        if tile.frame is not None:
            inner = (left + _FRAME, top + _FRAME, outer[2] - _FRAME, outer[3] - _FRAME)
            draw.rectangle(inner, fill=_GROUND)
        picture = _enlarge(tile.pixels, side)
        corner = (
            left + _FRAME + (side - picture.width) // 2,
            top + _FRAME + (side - picture.height) // 2,
        )
        canvas.paste(picture, corner)
        for number, line in enumerate(tile.lines):
            text, font = fitted(line, _SIZE)
            text = shorten(text, side + 2 * _FRAME, draw, font)
            place_of_line = (left, outer[3] + 6 + number * _LINE)
            draw.text(place_of_line, text, fill=_PALE if number else _INK, font=font)

    for number, tile in enumerate(sought):
        row, column = divmod(number, left_columns)
        place(tile, _MARGIN + column * across, _MARGIN + row * down)
    for number, tile in enumerate(matches):
        row, column = divmod(number, _COLUMNS)
        place(tile, split + _GAP + column * across, _MARGIN + row * down)
    if columns:
        draw.line(
            (split - _GAP // 2, _MARGIN, split - _GAP // 2, canvas.height - _MARGIN), _GROUND, 2
        )
    return canvas


def _enlarged_side(tile: Tile) -> int:
    longest = int(max(tile.pixels.shape[:2]))
    return longest * max(1, math.ceil(_MIN_SIDE / longest))


def _enlarge(pixels: Pixels, side: int) -> PILImage.Image:
    """An image enlarged by the whole factor that fits, without interpolation."""
    from PIL import Image

    picture = to_pil(pixels).convert("RGB")
    factor = max(1, side // max(picture.size))
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.NEAREST)
