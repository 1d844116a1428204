"""Many image files as pixels, read by threads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from latentdb.base.cores import core_count
from latentdb.base.errors import ImageError
from latentdb.images.decode import Preprocessing, read_image
from latentdb.images.pixel_range import Pixels

_TASK = 64  # files that a thread reads in one go


def read_files(paths: Sequence[str | None], spec: Preprocessing) -> list[Pixels | None]:
    """Image files as a model reads them, all in memory; None where one cannot be read.

    Parameters
    ----------
    paths
        None for an image that has no file.
    """

    def read(part: Iterable[str | None]) -> list[Pixels | None]:
        return [None if path is None else _read(path, spec) for path in part]

    parts = [paths[start : start + _TASK] for start in range(0, len(paths), _TASK)]
    with ThreadPoolExecutor(core_count(), "latentdb-read") as pool:
        return list(chain.from_iterable(pool.map(read, parts)))


def _read(path: str, spec: Preprocessing) -> Pixels | None:
    try:
        return read_image(path, spec)
    except ImageError:
        return None
