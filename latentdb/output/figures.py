"""Latents as files for people: images, rows of images, animations, query sheets."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import ImageError
from latentdb.base.files import write_output
from latentdb.images.decode import read_image
from latentdb.images.render import sheet, write_animation, write_picture, write_pixels
from latentdb.model.codec import Codec
from latentdb.search.results import Matches
from latentdb.search.targets import Target
from latentdb.store.segment import Floats

PathLike = str | os.PathLike[str]
Pixels = NDArray[np.uint8]
_PER_ROW = 10


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


def write_images(pixels: Pixels, out: PathLike) -> None:
    """Write one image pixel for pixel, several in a row, or as a GIF that moves.

    Parameters
    ----------
    pixels
        uint8 ``[n, height, width, channels]``.
    out
        Its ending says the format.
    """
    if len(pixels) == 1:
        write_pixels(out, pixels[0])
    elif Path(out).suffix.lower() == ".gif":
        write_animation(out, pixels)
    else:
        rows = [pixels[start : start + _PER_ROW] for start in range(0, len(pixels), _PER_ROW)]
        write_picture(out, sheet([[(image, "") for image in row] for row in rows]))


def write_query(
    codec: Codec, target: Target, path: str | None, matches: Matches, latents: Floats, out: PathLike
) -> None:
    """Draw a query: the image, its reconstruction, then the matches with their distances.

    An image whose file is gone is drawn as decoded from its latent, with ``~``
    before its caption.

    Parameters
    ----------
    codec
        Of the store.
    target, path
        What was asked for, and its image file, if it has one.
    matches, latents
        The answer, and z_mean of each match: float32 ``[n, d]``.
    """

    def shown(file: str | None, decoded: Pixels, caption: str) -> tuple[Pixels, str]:
        if file is not None:
            try:
                return read_image(file, codec.config.preprocessing), caption
            except ImageError:
                return decoded, "~" + caption
        return decoded, "~" + caption

    rebuilt = codec.decode(np.concatenate([target.vector[None], latents]))
    top = [shown(path, rebuilt[0], " ".join(target.name.split())), (rebuilt[0], "reconstruction")]
    cells = [
        shown(match.path, image, f"{match.distance:.3f}\n{' '.join(match.id.split())}")
        for match, image in zip(matches, rebuilt[1:], strict=True)
    ]
    rows = [cells[start : start + _PER_ROW] for start in range(0, len(cells), _PER_ROW)]
    write_picture(out, sheet([top, *rows]))
