"""A random sample of the images of folders, files and archives, as pixels of one size."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from statistics import median

import numpy as np

from latentdb.base.cores import core_count
from latentdb.base.errors import ImageError
from latentdb.base.progress import Progress, Report
from latentdb.images.decode import ImageShape, Preprocessing, decode_pixels, probe, read_bytes
from latentdb.images.discover import BadFile, discover
from latentdb.images.members import Member, reading
from latentdb.images.pixel_range import Pixels
from latentdb.images.sources import members_of, require_images, split_member_path

MAX_IMAGES = 1_000_000  # of a sample
_PROBED = 100  # images whose headers decide the size and channels
_LARGEST_SIZE = 64  # of the size that is decided so, in pixels
_CHUNK = 1_024  # files that are read between two reports
_MEMBERS = 64  # of an archive in memory


@dataclass(frozen=True, slots=True)
class ImageSample:
    """Which images were drawn.

    Attributes
    ----------
    paths
        Of files and of members of archives, in random order.
    shapes
        Of some of them, as their headers say.
    bad
        Files that cannot be read, as far as known.
    found
        The number of images that the sample was drawn from.
    """

    paths: list[str]
    shapes: list[ImageShape]
    bad: list[BadFile]
    found: int

    def preprocessing(
        self,
        image_size: tuple[int, int] | None,
        channels: int | None,
        *,
        resize: str,
        background: str,
    ) -> Preprocessing:
        """The given size and channels; by default the median size up to 64, and grey if all are."""
        if channels is None:
            channels = max((shape.channels for shape in self.shapes), default=3)
        if image_size is None:
            sides = [min(shape.height, shape.width) for shape in self.shapes]
            side = min(int(median(sides or [_LARGEST_SIZE])), _LARGEST_SIZE)
            image_size = side, side
        return Preprocessing(
            *image_size, channels, resize=resize, background=background, icc="srgb"
        )

    def read(
        self, count: int, spec: Preprocessing, report: Report | None
    ) -> tuple[Pixels, list[BadFile]]:
        """The first `count` images of the sample, and those that cannot be read.

        Returns
        -------
        pixels : ndarray
            uint8 ``[n, height, width, channels]``, in the order of `paths`.
        bad : list of BadFile
        """
        places = {path: place for place, path in enumerate(self.paths[:count])}
        pixels = np.empty((len(places), *spec.shape), np.uint8)
        is_read = np.zeros(len(places), bool)
        bad: list[BadFile] = []

        def decode(image: tuple[str, bytes | None]) -> BadFile | None:
            path, data = image
            try:
                place = places[path]
                data = read_bytes(path) if data is None else data
                decode_pixels(data, spec, name=path, out=pixels[place])
            except ImageError as error:
                return BadFile(error.path, error.reason)
            is_read[place] = True
            return None

        with ThreadPoolExecutor(core_count(), "latentdb-decode") as pool:
            for chunk in _contents(places, bad):
                bad += [each for each in pool.map(decode, chunk) if each is not None]
                if report is not None:
                    done = int(is_read.sum()) + len(bad)
                    report(Progress("reading images", done, len(places), len(bad)))
        return (pixels if is_read.all() else pixels[is_read]), bad


def draw_images(
    sources: Sequence[str | os.PathLike[str]], random: np.random.Generator, report: Report | None
) -> ImageSample:
    """A uniform sample of at most `MAX_IMAGES` images (Vitter's reservoir, 1985).

    Raises
    ------
    NotFoundError, InvalidInputError
        If a source does not exist, or there is no image in them.
    """
    files, archives = require_images(sources)
    paths: list[str] = []
    bad: list[BadFile] = []
    member_shapes: list[ImageShape | None] = []
    probing = np.random.default_rng(0)
    found = members = 0
    for item in _images(files, archives):
        if isinstance(item, BadFile):
            bad.append(item)
            continue
        found += 1
        if len(paths) < MAX_IMAGES:
            paths.append(_path(item))
        else:
            position = int(random.integers(found))
            if position < MAX_IMAGES:
                paths[position] = _path(item)
        if isinstance(item, Member):  # probed now: to come back is to read the archive again
            members += 1
            if members <= _PROBED:
                member_shapes.append(_shape(item))
            elif (position := int(probing.integers(members))) < _PROBED:
                member_shapes[position] = _shape(item)
        if report is not None and found % 1000 == 0:
            report(Progress("finding images", found, None))
    # Two members of an archive may share a name.
    paths = list(dict.fromkeys(paths[position] for position in random.permutation(len(paths))))
    of_files = islice((path for path in paths if split_member_path(path) is None), _PROBED)
    shapes = [_shape(path) for path in of_files] + member_shapes
    return ImageSample(paths, [shape for shape in shapes if shape is not None], bad, found)


def _images(files: Sequence[str], archives: Sequence[str]) -> Iterator[str | Member | BadFile]:
    if files:
        for item in discover(files):
            yield item if isinstance(item, BadFile) else item.path
    for archive in archives:
        yield from (member for member in members_of(archive) if member is not None)


def _path(item: str | Member) -> str:
    return item if isinstance(item, str) else item.path


def _shape(item: str | Member) -> ImageShape | None:
    try:
        if isinstance(item, str):
            return probe(item)
        with reading(item.path):
            return probe(item.path, item.read())
    except ImageError:
        return None  # reported when it is read


def _contents(
    places: dict[str, int], bad: list[BadFile]
) -> Iterator[list[tuple[str, bytes | None]]]:
    """The images in chunks; with the content of those of archives, which are read in order."""
    files: list[tuple[str, bytes | None]] = []
    archives: dict[str, int] = {}
    for path in places:
        parts = split_member_path(path)
        if parts is None:
            files.append((path, None))
        else:
            archives[parts[0]] = archives.get(parts[0], 0) + 1
    for start in range(0, len(files), _CHUNK):
        yield files[start : start + _CHUNK]
    for archive, left in archives.items():
        chunk: list[tuple[str, bytes | None]] = []
        for member in members_of(archive):
            if not isinstance(member, Member) or member.path not in places:
                continue
            try:
                with reading(member.path):
                    chunk.append((member.path, member.read()))
            except ImageError as error:
                bad.append(BadFile(error.path, error.reason))
            left -= 1
            if len(chunk) == _MEMBERS or left == 0:
                yield chunk
                chunk = []
            if left == 0:
                break
        if chunk:
            yield chunk
