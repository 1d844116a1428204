"""Many image files as pixels, read by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice

from latentdb.base.cores import core_count
from latentdb.base.errors import ImageError
from latentdb.images.decode import Preprocessing, decode_pixels, is_member, read_image
from latentdb.images.pixel_range import Pixels
from latentdb.images.sources import read_members, split_member_path

_TASK = 64  # files that a thread reads in one go
_MEMBERS = 8  # of an archive, whose contents are in memory until a thread has decoded them


def read_files(paths: Sequence[str | None], spec: Preprocessing) -> list[Pixels | None]:
    """Image files as a model reads them, all in memory; None where one cannot be read.

    Images of an archive are read in one pass: each for itself would begin at its start.

    Parameters
    ----------
    paths
        None for an image that has no file.
    """
    images: list[Pixels | None] = [None] * len(paths)
    files: list[int] = []
    members: dict[str, dict[str, list[int]]] = {}  # numbers by archive and name
    for number, path in enumerate(paths):
        parts = split_member_path(path) if path is not None and is_member(path) else None
        if parts is not None:
            members.setdefault(parts[0], {}).setdefault(parts[1], []).append(number)
        elif path is not None:
            files.append(number)

    def read(numbers: Iterable[int]) -> None:
        for number in numbers:
            with suppress(ImageError):
                images[number] = read_image(paths[number] or "", spec)

    def decode(contents: Iterable[tuple[list[int], bytes]]) -> None:
        for numbers, data in contents:
            with suppress(ImageError):
                pixels = decode_pixels(data, spec, name=paths[numbers[0]] or "")
                for number in numbers:
                    images[number] = pixels

    threads = core_count()
    with ThreadPoolExecutor(threads, "latentdb-read") as pool:
        running: deque[Future[None]] = deque()
        for start in range(0, len(files), _TASK):
            running.append(pool.submit(read, files[start : start + _TASK]))
        for archive, names in members.items():
            contents = read_members(archive, names)
            while part := list(islice(contents, _MEMBERS)):
                running.append(pool.submit(decode, [(names[name], data) for name, data in part]))
                while len(running) > 2 * threads:
                    running.popleft().result()
        for task in running:
            task.result()
    return images
