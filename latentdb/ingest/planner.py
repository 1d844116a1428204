"""Which image files are new or changed, against the rows of a snapshot; those are decoded."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import xxhash
from numpy.typing import NDArray

from latentdb.base.errors import ImageError
from latentdb.images.decode import Preprocessing, decode_pixels, has_vanished, read_file
from latentdb.images.discover import (
    BadFile,
    Candidate,
    ImageFile,
    check_sources,
    is_image_file,
    stat_image,
)
from latentdb.ingest.labels import FolderLabels
from latentdb.ingest.table import RowMatcher
from latentdb.store.columns import LABEL, Value
from latentdb.store.restamp import Stamp
from latentdb.store.rows import Ints
from latentdb.store.snapshot import Snapshot


@dataclass(frozen=True, eq=False, slots=True)
class PlannedRow:
    """A row to be written for an image file.

    Attributes
    ----------
    file
        The file.
    digest
        64-bit xxh3 of its bytes.
    replaces
        Number of the row that it replaces, -1 for none.
    metadata
        Values that are not missing.
    """

    file: ImageFile
    digest: int
    replaces: int
    metadata: dict[str, Value]


@dataclass(eq=False)
class Batch:
    """What is to be done for some files, in their order.

    Attributes
    ----------
    pixels, images
        Images to encode, uint8 ``[n, height, width, channels]``, and their rows.
    relabelled
        Rows whose image is unchanged, but whose metadata is not.
    restamped
        By row number: stamps of unchanged files that were moved or touched.
    bad
        Files that cannot be read.
    unchanged
        Number of files that the store has as they are.
    vanished
        Ids of images that are one colour over the background of the model.
    """

    pixels: NDArray[np.uint8]
    images: list[PlannedRow] = field(default_factory=list)
    relabelled: list[PlannedRow] = field(default_factory=list)
    restamped: dict[int, Stamp] = field(default_factory=dict)
    bad: list[BadFile] = field(default_factory=list)
    unchanged: int = 0
    vanished: list[str] = field(default_factory=list)

    @staticmethod
    def concat(batches: Sequence[Batch]) -> Batch:
        """Batches as one, in order; at least one is needed."""
        if len(batches) == 1:
            return batches[0]
        return Batch(
            pixels=np.concatenate([batch.pixels for batch in batches]),
            images=[row for batch in batches for row in batch.images],
            relabelled=[row for batch in batches for row in batch.relabelled],
            restamped={row: stamp for batch in batches for row, stamp in batch.restamped.items()},
            bad=[file for batch in batches for file in batch.bad],
            unchanged=sum(batch.unchanged for batch in batches),
            vanished=[name for batch in batches for name in batch.vanished],
        )


@dataclass(frozen=True, slots=True)
class StoredImage:
    """The row of an image in the store: its number, its file when it was indexed, its metadata."""

    row: int
    path: str | None
    size: int
    mtime_ns: int
    digest: int
    metadata: dict[str, Value]


class ImagePlanner:
    """Decides what to do with each file, against the snapshot that the run began with.

    Parameters
    ----------
    snapshot
        The snapshot.
    preprocessing
        How images are decoded.
    matcher
        Finds the metadata of an image.
    labels
        Gives an image its ``label``.
    rehash
        Whether the content of every file is compared, even where path, size and time
        are those of its row.
    sources
        All folders and files of the run.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        preprocessing: Preprocessing,
        *,
        matcher: RowMatcher | None,
        labels: FolderLabels | None,
        rehash: bool,
        sources: Sequence[str | os.PathLike[str]],
    ) -> None:
        self.snapshot = snapshot
        self.preprocessing = preprocessing
        self.passed_over: Counter[str] = Counter()  # files that are no images, by ending
        self._matcher = matcher
        self._labels = labels
        self._rehash = rehash
        self._earlier_sources = _EarlierSources(check_sources(sources))

    def look_up(self, candidates: Sequence[Candidate | BadFile]) -> list[StoredImage | None]:
        """The row in the store of each candidate's id, in order; None where there is none."""
        stored: list[StoredImage | None] = [None] * len(candidates)
        if not len(self.snapshot):
            return stored
        ids = [(n, item.id) for n, item in enumerate(candidates) if isinstance(item, Candidate)]
        rows = self.snapshot.locate([name for _, name in ids])
        for (position, _), image in zip(ids, self._stored_images(rows), strict=True):
            stored[position] = image
        return stored

    def _stored_images(self, rows: Ints) -> list[StoredImage | None]:
        stored: list[StoredImage | None] = [None] * len(rows)
        found = np.flatnonzero(rows >= 0)
        if not len(found):
            return stored
        numbers = rows[found]
        records = self.snapshot.records(numbers)
        for segment, positions, indices in self.snapshot.groups(numbers):
            files = segment.file_stats
            for position, index in zip(positions, indices, strict=True):
                stamp = (0, 0, -1)  # of a row that was not made from a file
                if files is not None:
                    stamp = (
                        int(files.sizes[position]),
                        int(files.mtimes_ns[position]),
                        int(files.digests[position]),
                    )
                _, path, metadata = records[index]
                image = StoredImage(int(numbers[index]), path, *stamp, metadata)
                stored[found[index]] = image
        return stored

    def read(
        self,
        candidates: Sequence[Candidate | BadFile],
        stored: Sequence[StoredImage | None],
        stopped: threading.Event,
    ) -> Batch:
        """Compare some files with their rows in the store, and decode the new and changed ones.

        Files that are left when `stopped` is set are left out.
        """
        batch = Batch(np.empty((len(candidates), *self.preprocessing.shape), np.uint8))
        for item, image in zip(candidates, stored, strict=True):
            if stopped.is_set():
                break
            if isinstance(item, BadFile):
                batch.bad.append(item)
                continue
            try:
                self._read_one(item, image, batch)
            except ImageError as error:
                batch.bad.append(BadFile(error.path, error.reason))
        batch.pixels = batch.pixels[: len(batch.images)]
        return batch

    def _read_one(self, candidate: Candidate, stored: StoredImage | None, batch: Batch) -> None:
        earlier = self._earlier_sources.find(candidate)
        if earlier == candidate.path:
            batch.unchanged += 1  # the same file, found in an earlier source of this run
            return
        if earlier is not None:
            raise _same_id(candidate, earlier)
        values = self._metadata(candidate)
        if stored is not None:
            values = {**stored.metadata, **values}
            file = stat_image(candidate.id, candidate.path)
            if isinstance(file, BadFile):
                batch.bad.append(file)
                return
            stamp = file.path, file.size, file.mtime_ns
            known = (stored.path, stored.size, stored.mtime_ns)
            if stamp == known and not self._rehash:
                self._add_unchanged(file, stored, values, batch)
                return
        data, status = read_file(candidate.path)
        file = ImageFile(candidate.id, candidate.path, status.st_size, status.st_mtime_ns)
        digest = xxhash.xxh3_64_intdigest(data)
        if stored is not None:
            if digest == stored.digest:
                self._add_unchanged(file, stored, values, batch)
                return
            if stored.path not in (None, file.path) and os.path.exists(stored.path or ""):
                raise _same_id(candidate, f"{stored.path} in the store")
        pixels = batch.pixels[len(batch.images)]
        decode_pixels(data, self.preprocessing, name=file.path, out=pixels)
        if has_vanished(data, pixels, file.path):
            batch.vanished.append(file.id)
        row = -1 if stored is None else stored.row
        batch.images.append(PlannedRow(file, digest, row, values))

    @staticmethod
    def _add_unchanged(
        file: ImageFile, stored: StoredImage, values: dict[str, Value], batch: Batch
    ) -> None:
        if values == stored.metadata:
            batch.unchanged += 1
            stamp = file.path, file.size, file.mtime_ns
            if stamp != (stored.path, stored.size, stored.mtime_ns) and (
                # A copy of an image that is where it was leaves its row alone.
                stored.path in (None, file.path) or not os.path.exists(stored.path or "")
            ):
                batch.restamped[stored.row] = Stamp(*stamp)
        else:
            batch.relabelled.append(PlannedRow(file, stored.digest, stored.row, values))

    def _metadata(self, candidate: Candidate) -> dict[str, Value]:
        values: dict[str, Value] = {}
        label = None if self._labels is None else self._labels.label(candidate.id)
        if label is not None:
            values[LABEL] = label
        if self._matcher is not None:
            row = self._matcher.find(candidate.id, candidate.path) or {}
            values.update({key: value for key, value in row.items() if value is not None})
        return values


def _same_id(candidate: Candidate, other: str) -> ImageError:
    reason = f"its id {candidate.id!r} is that of {other}: index a folder that holds both"
    return ImageError(candidate.path, reason)


class _EarlierSources:
    """Finds a file of the same id in an earlier source of the run.

    It asks the file system: a list of all ids met so far would grow with the folders.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._folders: list[tuple[int, str]] = []
        self._files: dict[str, tuple[int, str]] = {}
        for number, path in enumerate(paths):
            if os.path.isdir(path):
                self._folders.append((number, os.path.join(path, "")))
            elif os.path.isfile(path):
                self._files.setdefault(os.path.basename(path), (number, path))
        self._several = len(paths) > 1

    def find(self, candidate: Candidate) -> str | None:
        """Path of the first such file, which may be the candidate itself; None for none."""
        if not self._several or candidate.source == 0:
            return None
        first, path = self._files.get(candidate.id, (candidate.source, None))
        if first >= candidate.source:
            first, path = candidate.source, None
        if not all(name and not name.startswith(".") for name in candidate.id.split("/")):
            return path  # a search of a folder never yields such an id
        for number, folder in self._folders:
            if number >= first:
                break
            if os.path.isfile(folder + candidate.id) and is_image_file(folder + candidate.id):
                return folder + candidate.id
        return path
