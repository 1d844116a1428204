"""A few latents as a file: vectors, one image, a row, an animation, the sheet of a query."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np

from latentdb.base.errors import ImageError, InvalidInputError
from latentdb.base.outputs import write_output
from latentdb.images.decode import read_image
from latentdb.images.pixel_range import Pixels
from latentdb.images.render import (
    SIDE,
    Cell,
    contact_sheet,
    grid,
    one_line,
    write_animation,
    write_picture,
    write_pixels,
)
from latentdb.model.codec import Codec
from latentdb.search.results import Matches
from latentdb.search.targets import Target
from latentdb.store.rows import Floats

PathLike = str | os.PathLike[str]
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
    scale = max(1, -(-SIDE // max(height, width)))  # small ones are enlarged
    most = _MAX_PIXEL_BYTES // (3 * height * width * scale * scale)
    if count > max(most, 1):
        raise InvalidInputError(
            f"{count:,} images of {height}x{width} pixels do not fit into one picture: "
            f"at most {most:,} do; give fewer, or .npy"
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


def write_query(
    codec: Codec, target: Target, path: str | None, matches: Matches, latents: Floats, out: PathLike
) -> None:
    """Draw a query: its image, the reconstruction, then the matches with their distances.

    An image whose file cannot be read is replaced by the reconstruction from its
    latent, with ``~`` before its caption.

    Parameters
    ----------
    codec
        Of the store.
    target, path
        The query, and its image file if it has one.
    matches, latents
        The result, and z_mean of each match: float32 ``[n, d]``.
    """

    def cell(file: str | None, reconstruction: Pixels, caption: str) -> Cell:
        if file is not None:
            try:
                return read_image(file, codec.config.preprocessing), caption
            except ImageError:
                pass
        return reconstruction, "~" + caption

    check_count(len(matches) + 2, codec.config.preprocessing.shape)
    decoded = codec.decode(np.concatenate([target.vector[None], latents]))
    top = [cell(path, decoded[0], one_line(target.name)), (decoded[0], "reconstruction")]
    cells = [
        cell(match.path, image, f"{match.distance:.3f}\n{one_line(match.id)}")
        for match, image in zip(matches, decoded[1:], strict=True)
    ]
    write_picture(out, contact_sheet([top, *grid(cells, _COLUMNS)]))
