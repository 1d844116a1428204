"""The image files behind rows, read by threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from latentdb.base.cores import core_count
from latentdb.base.errors import ImageError
from latentdb.images.decode import Preprocessing, read_image
from latentdb.images.pixel_range import Pixels
from latentdb.store.rows import Ints
from latentdb.store.snapshot import Snapshot

_TASK = 64  # files that a thread reads in one go


def read_originals(snapshot: Snapshot, rows: Ints, spec: Preprocessing) -> tuple[Ints, Pixels]:
    """The images of rows, where their files are still there and can be read.

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
    paths = snapshot.paths(rows)
    images = np.empty((len(rows), *spec.shape), np.uint8)
    read = np.zeros(len(rows), bool)

    def work(numbers: Sequence[int]) -> None:
        for number in numbers:
            path = paths[number]
            if path is None:
                continue
            try:
                images[number] = read_image(path, spec)
            except ImageError:
                continue
            read[number] = True

    tasks = [range(len(rows))[start : start + _TASK] for start in range(0, len(rows), _TASK)]
    with ThreadPoolExecutor(core_count(), "latentdb-read") as pool:
        list(pool.map(work, tasks))
    indices = np.flatnonzero(read)
    return indices, images if len(indices) == len(rows) else images[indices]
