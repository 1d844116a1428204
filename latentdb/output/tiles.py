"""Images with captions and frames in groups from left to right: the layout of the sheets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from latentdb.images.fonts import fitted
from latentdb.images.pixel_range import Pixels
from latentdb.images.render import enlarged, enlargement, shorten

if TYPE_CHECKING:
    from PIL import Image as PILImage

Colour: TypeAlias = tuple[int, int, int]
MAX_SIDE = 256  # of an image
_MIN_SIDE = 128  # smaller ones are enlarged by a whole factor
COLUMNS = 5  # of matches
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


@dataclass(frozen=True)
class Block:
    """Tiles in up to three groups from left to right, a line between them.

    Attributes
    ----------
    left, right
        Stand in as many columns as the rows of the middle make necessary; the right ends
        where the middle does.
    middle
        Stands in rows.
    """

    left: Sequence[Tile]
    middle: Sequence[Tile]
    right: Sequence[Tile] = ()

    @property
    def groups(self) -> tuple[Sequence[Tile], Sequence[Tile], Sequence[Tile]]:
        """The three, from left to right."""
        return self.left, self.middle, self.right


def draw_tiles(blocks: Sequence[Block], *, columns: int = COLUMNS) -> PILImage.Image:
    """Draw blocks below each other, all images in squares of one size.

    Parameters
    ----------
    columns
        Of the middle of each block, at most.
    """
    from PIL import Image, ImageDraw

    tiles = [tile for block in blocks for group in block.groups for tile in group]
    side = max(map(_enlarged_side, tiles))
    texts = max(len(tile.lines) for tile in tiles)
    across, down = side + 2 * _FRAME + _GAP, side + 2 * _FRAME + 6 + texts * _LINE + _GAP
    rows = [max(1, math.ceil(len(block.middle) / columns)) for block in blocks]
    widths = [0, 0, 0]  # of the groups, in columns
    for block, height in zip(blocks, rows, strict=True):
        left, middle, right = map(len, block.groups)
        needed = math.ceil(left / height), min(middle, columns), math.ceil(right / height)
        widths = list(map(max, widths, needed))
    starts, edge = [], _MARGIN
    for width in widths:
        starts.append(edge)
        edge += width * across + 2 * _GAP if width else 0
    size = (edge - 3 * _GAP + _MARGIN, 2 * _MARGIN + sum(rows) * down - _GAP)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    top = _MARGIN
    for block, height in zip(blocks, rows, strict=True):
        for group, start, width in zip(block.groups, starts, widths, strict=True):
            skipped = height * width - len(group) if group is block.right else 0
            for number, tile in enumerate(group, skipped):
                row, column = divmod(number, width)
                _draw_tile(canvas, tile, start + column * across, top + row * down, side)
        top += height * down
    for start, width in zip(starts, widths, strict=True):
        if width and start > _MARGIN:
            line = start - 3 * _GAP // 2
            draw.line((line, _MARGIN, line, canvas.height - _MARGIN), _GROUND, 2)
    return canvas


def _draw_tile(canvas: PILImage.Image, tile: Tile, left: int, top: int, side: int) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(canvas)
    outer = (left, top, left + side + 2 * _FRAME - 1, top + side + 2 * _FRAME - 1)
    draw.rectangle(outer, fill=tile.frame or _GROUND)
    if tile.frame is not None:
        inner = (left + _FRAME, top + _FRAME, outer[2] - _FRAME, outer[3] - _FRAME)
        draw.rectangle(inner, fill=_GROUND)
    picture = enlarged(tile.pixels, max(1, side // max(tile.pixels.shape[:2])))
    corner = (
        left + _FRAME + (side - picture.width) // 2,
        top + _FRAME + (side - picture.height) // 2,
    )
    canvas.paste(picture, corner)
    for number, line in enumerate(tile.lines):
        text, font = fitted(line, _SIZE)
        text = shorten(text, side + 2 * _FRAME, draw, font)
        place = (left, outer[3] + 6 + number * _LINE)
        draw.text(place, text, fill=_PALE if number else _INK, font=font)


def _enlarged_side(tile: Tile) -> int:
    height, width = tile.pixels.shape[:2]
    return int(max(height, width)) * enlargement(height, width, _MIN_SIDE)
