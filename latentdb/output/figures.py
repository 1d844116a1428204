"""A few latents as a file: vectors, one image, a row, an animation, the sheet of a query."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentdb.base.errors import ImageError, InvalidInputError
from latentdb.base.outputs import write_output
from latentdb.images.pixel_range import Pixels
from latentdb.images.render import (
    SIDE,
    contact_sheet,
    grid,
    one_line,
    write_animation,
    write_picture,
    write_pixels,
)
from latentdb.images.thumbnails import thumbnail
from latentdb.model.codec import Codec
from latentdb.output.query_sheet import AGREES, DIFFERS, MAX_SIDE, Tile, draw_query
from latentdb.search.results import Matches
from latentdb.search.targets import Target
from latentdb.store.columns import Value
from latentdb.store.rows import Floats

PathLike = str | os.PathLike[str]
_COLUMNS = 10
_MAX_PIXEL_BYTES = 2 << 30  # of the images of one picture


@dataclass(frozen=True)
class Sought:
    """A target of a query, its image file and its label, if it has them."""

    target: Target
    path: str | None = None
    label: Value | None = None


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
    codec: Codec,
    sought: Sequence[Sought],
    matches: Matches,
    latents: Floats,
    out: PathLike,
    *,
    label: str | None = None,
) -> None:
    """Draw a query: its images, their reconstructions, then the matches with their distances.

    Images are drawn from their files; one that cannot be read is replaced by the
    reconstruction from its latent, with ``~`` before its caption.

    Parameters
    ----------
    codec
        Of the store.
    sought
        What was searched for.
    matches, latents
        The result, and z_mean of each match: float32 ``[n, d]``.
    label
        Metadata column; frames show whether a match has the label of the first of `sought`.
    """
    check_count(len(matches) + 2 * len(sought), (MAX_SIDE, MAX_SIDE, 3))
    vectors = np.stack([one.target.vector for one in sought])
    decoded = codec.decode(np.concatenate([vectors, latents]))
    background = codec.config.preprocessing.background

    def image(file: str | None, reconstruction: Pixels) -> tuple[Pixels, str]:
        if file is not None:
            try:
                return thumbnail(file, MAX_SIDE, background), ""
            except ImageError:
                pass
        return reconstruction, "~"

    tiles = []
    for one, rebuilt in zip(sought, decoded[: len(sought)], strict=True):
        pixels, mark = image(one.path, rebuilt)
        lines = [mark + "query", *([] if one.label is None else [str(one.label)])]
        tiles.append(Tile(pixels, [*lines, one_line(one.target.name)]))
        tiles.append(Tile(rebuilt, ["reconstruction"]))
    found = []
    for match, rebuilt in zip(matches, decoded[len(sought) :], strict=True):
        pixels, mark = image(match.path, rebuilt)
        value = None if label is None else match.metadata.get(label)
        frame = None
        if value is not None and sought[0].label is not None:
            frame = AGREES if value == sought[0].label else DIFFERS
        lines = [f"{mark}{match.rank}.  {round(match.distance, 3) + 0.0:.3f}"]
        lines += [] if value is None else [one_line(str(value))]
        found.append(Tile(pixels, [*lines, one_line(match.id)], frame))
    write_picture(out, draw_query(tiles, found))
