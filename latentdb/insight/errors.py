"""How well images are reconstructed, beside how much texture they have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from latentdb.images.decode import Preprocessing
from latentdb.images.pixel_range import Pixels
from latentdb.insight.originals import read_originals
from latentdb.model.posterior import Decode
from latentdb.search.selection import column_values
from latentdb.store.columns import MEASURED
from latentdb.store.rows import Ints
from latentdb.store.snapshot import Snapshot

Doubles = NDArray[np.float64]

_PIXEL_BYTES = 16 << 20  # of the originals in memory


def measure(
    snapshot: Snapshot,
    rows: Ints,
    spec: Preprocessing,
    decode: Decode,
    advance: Callable[[int], None] | None = None,
) -> tuple[Doubles, Doubles]:
    """Mean squared error of each reconstruction, and mean squared texture of the image.

    Parameters
    ----------
    rows
        Row numbers.
    spec, decode
        How the store's model reads images, and latents to images.
    advance
        Called with the rows done.

    Returns
    -------
    errors, textures
        float64 ``[n]``; NaN where the image cannot be read.
    """
    errors, textures = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    step = max(1, _PIXEL_BYTES // int(np.prod(spec.shape)))
    for start in range(0, len(rows), step):
        indices, images = read_originals(snapshot, rows[start : start + step], spec)
        if len(indices):
            read = rows[start + indices]
            rebuilt = decode(snapshot.vectors(read), snapshot.metadata(read)).astype(np.float32)
            squares = np.square(images - rebuilt, dtype=np.float64)
            errors[start + indices] = squares.mean(axis=(1, 2, 3))
            textures[start + indices] = [texture(image) for image in images]
        if advance is not None:
            advance(min(start + step, len(rows)))
    return errors, textures


def stored(snapshot: Snapshot, rows: Ints) -> tuple[Doubles, Doubles]:
    """As `measure`, from the metadata columns; NaN where they have no value."""
    types = snapshot.manifest.columns
    if any(types.get(key) not in ("float", "int") for key in MEASURED):
        return np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    errors, textures = (
        np.array(
            [np.nan if value is None else value for value in column_values(snapshot, rows, key)],
            np.float64,
        )
        for key in MEASURED
    )
    missing = np.isnan(errors) | np.isnan(textures)
    errors[missing] = textures[missing] = np.nan
    return errors**2, textures**2


def unmeasured(snapshot: Snapshot) -> Ints:
    """Numbers of the rows without a stored error."""
    rows = snapshot.live_rows()
    return np.asarray(rows[np.isnan(stored(snapshot, rows)[0])])


def texture(image: Pixels) -> float:
    """Mean squared difference of an image from its own mean over 3x3 pixels.

    Parameters
    ----------
    image
        uint8 ``[height, width, channels]``.
    """
    values = image.astype(np.float32)
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = values.shape[:2]
    around = np.zeros_like(values)
    for down in range(3):
        for right in range(3):
            around += padded[down : down + height, right : right + width]
    return float(np.square(values - around / 9).mean(dtype=np.float64))
