"""The image files behind rows, and what stands in for those that are gone."""

from __future__ import annotations

import numpy as np

from latentdb.images.decode import Preprocessing
from latentdb.images.many import read_files
from latentdb.images.pixel_range import Pixels
from latentdb.model.posterior import Decode
from latentdb.store.originals import intact_paths
from latentdb.store.rows import Ints
from latentdb.store.snapshot import Snapshot


def read_originals(snapshot: Snapshot, rows: Ints, spec: Preprocessing) -> tuple[Ints, Pixels]:
    """The images of rows, where their files are still those that were indexed.

    Parameters
    ----------
    rows
        Row numbers; all their images are held in memory.
    spec
        How the store's model reads images.

    Returns
    -------
    indices, images
        int64 ``[m]`` indices into `rows`, ascending, and uint8 ``[m, height, width, channels]``.
    """
    files = read_files(intact_paths(snapshot, rows), spec)
    found = [(number, pixels) for number, pixels in enumerate(files) if pixels is not None]
    indices = np.asarray([number for number, _ in found], np.int64)
    images = np.empty((len(found), *spec.shape), np.uint8)
    for position, (_, pixels) in enumerate(found):
        images[position] = pixels
    return indices, images


def read_or_decode(
    snapshot: Snapshot, rows: Ints, spec: Preprocessing, decode: Decode | None
) -> tuple[Pixels, Ints]:
    """The images of rows, from their files, else decoded from their latents.

    Parameters
    ----------
    rows, spec
        As of `read_originals`.
    decode
        Latents to images; None without a decoder, and then an image without a file is black.

    Returns
    -------
    images, missing
        uint8 ``[n, height, width, channels]``, and int64 ``[m]``: indices of the rows whose
        files were not read.
    """
    images: Pixels = np.zeros((len(rows), *spec.shape), np.uint8)
    readable, originals = read_originals(snapshot, rows, spec)
    images[readable] = originals
    missing = np.setdiff1d(np.arange(len(rows)), readable)
    if len(missing) and decode is not None:
        gone = rows[missing]
        images[missing] = decode(snapshot.vectors(gone), snapshot.metadata(gone))
    return images, missing
