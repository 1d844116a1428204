"""Tiles: thumbnails of rows that lie near to each other on the map, as one JPEG."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from latentdb.images.decode import to_pil
from latentdb.images.pixel_range import Pixels
from latentdb.store.rows import Floats, Ints

PER_TILE = 256
COLUMNS = 16
MAX_SIDE = 64  # of a thumbnail
_ALIGNMENT = 16  # of JPEG's blocks with subsampled colours: a cell shares none with another
_BITS = 16
_QUALITY = 82


@dataclass(frozen=True)
class Cells:
    """Where the thumbnails of a tile are: row by row, `COLUMNS` in each.

    Attributes
    ----------
    height, width
        Of a thumbnail.
    down, across
        From the top left corner of one to that of the next.
    """

    height: int
    width: int
    down: int
    across: int


def cells_for(height: int, width: int) -> Cells:
    """The cells of images of a size; larger ones are made smaller."""
    scale = min(1.0, MAX_SIDE / max(height, width))
    height, width = max(1, round(scale * height)), max(1, round(scale * width))
    down, across = (-(-side // _ALIGNMENT) * _ALIGNMENT for side in (height, width))
    return Cells(height, width, down, across)


def curve_order(points: Floats) -> Ints:
    """An order of points float32 ``[n, 2]``, along Hilbert's curve: those near stay near."""
    low = points.min(axis=0)
    extent = np.maximum(points.max(axis=0) - low, 1e-30)
    x, y = ((points - low) / extent * (2**_BITS - 1)).astype(np.int64).T
    codes = np.zeros(len(points), np.int64)
    for bit in reversed(range(_BITS)):
        right, up = x >> bit & 1, y >> bit & 1
        codes += (3 * right ^ up) << 2 * bit
        # The curve through the two lower quarters is turned, and the right one mirrored.
        side = 1 << bit
        mirrored = (up == 0) & (right == 1)
        x, y = x & (side - 1), y & (side - 1)
        x, y = np.where(mirrored, side - 1 - x, x), np.where(mirrored, side - 1 - y, y)
        x, y = np.where(up == 0, y, x), np.where(up == 0, x, y)
    return np.argsort(codes, kind="stable")


def draw_tile(images: Pixels, cells: Cells) -> bytes:
    """A JPEG of up to `PER_TILE` images, uint8 ``[n, height, width, channels]``."""
    count, channels = len(images), images.shape[-1]
    if images.shape[1:3] != (cells.height, cells.width):
        images = np.stack([_resized(image, cells) for image in images])
    spare = (0, cells.down - cells.height), (0, cells.across - cells.width)
    # The edge goes on beyond a thumbnail, as black would ring into it.
    images = np.pad(images, ((0, 0), *spare, (0, 0)), mode="edge")
    rows = -(-count // COLUMNS)
    full = np.zeros((rows * COLUMNS, cells.down, cells.across, channels), np.uint8)
    full[:count] = images
    grid = full.reshape(rows, COLUMNS, cells.down, cells.across, channels).swapaxes(1, 2)
    pixels = grid.reshape(rows * cells.down, COLUMNS * cells.across, channels)
    file = io.BytesIO()
    to_pil(pixels).save(file, "JPEG", quality=_QUALITY, optimize=True)
    return file.getvalue()


def _resized(image: Pixels, cells: Cells) -> Pixels:
    from PIL import Image

    size = cells.width, cells.height
    small = np.asarray(to_pil(image).resize(size, Image.Resampling.BOX))
    return small.reshape(cells.height, cells.width, -1)
