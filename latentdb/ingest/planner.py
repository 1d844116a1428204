"""Which image files are new or changed, against the rows of a snapshot; those are decoded."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace

import numpy as np
import xxhash
from numpy.typing import NDArray

from latentdb.base.errors import ImageError, InvalidInputError
from latentdb.images.decode import Preprocessing, decode_pixels, has_vanished, read_file
from latentdb.images.discover import (
    BadFile,
    Candidate,
    ImageFile,
    stat_image,
)
from latentdb.images.sources import image_exists, split_member_path
from latentdb.ingest.known_images import KnownImages, is_gone
from latentdb.ingest.labels import FolderLabels
from latentdb.ingest.roots import Rivals, RootPlan
from latentdb.ingest.table import RowMatcher
from latentdb.model.condition import Condition
from latentdb.store.columns import LABEL, MEASURED, Value
from latentdb.store.originals import file_digest
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
    source
        Number of a row of the same content, -1 for none.
    """

    file: ImageFile
    digest: int
    replaces: int
    metadata: dict[str, Value]
    source: int = -1


@dataclass(eq=False)
class Batch:
    """What is to be done for some files, in their order.

    Attributes
    ----------
    pixels, images
        Images to encode, uint8 ``[n, height, width, channels]``, and their rows.
    reused
        Rows with the latents of rows that are there: the metadata of an image changed, or
        it has the content of another.
    restamped
        By row number: stamps of unchanged files that were moved, touched or renamed.
    bad
        Files that cannot be read.
    conflicts
        Files with the id of another file.
    deleted
        Number of files whose images were deleted from the store.
    renamed
        Number of files that are those of rows with other ids.
    unchanged
        Number of files that the store has as they are.
    vanished
        Ids of images that are one colour over the background of the model.
    """

    pixels: NDArray[np.uint8]
    images: list[PlannedRow] = field(default_factory=list)
    reused: list[PlannedRow] = field(default_factory=list)
    restamped: dict[int, Stamp] = field(default_factory=dict)
    bad: list[BadFile] = field(default_factory=list)
    conflicts: list[BadFile] = field(default_factory=list)
    deleted: int = 0
    renamed: int = 0
    unchanged: int = 0
    vanished: list[str] = field(default_factory=list)

    def add_unchanged(
        self,
        file: ImageFile,
        stored: StoredImage,
        values: Mapping[str, Value],
        *,
        elsewhere: bool = False,
        renamed: bool = False,
    ) -> None:
        """Add an image that the store has, with new metadata or a new stamp if it has others now.

        Parameters
        ----------
        values
            Its metadata in this run; what else the row has stays.
        elsewhere
            The row's own file is another one, and still there: then its stamp stays.
        renamed
            The row gets the id of the file.
        """
        both = {**stored.metadata, **values}
        if both != stored.metadata:
            self.reused.append(PlannedRow(file, stored.digest, stored.row, both, stored.row))
            return
        self.unchanged += 1
        if not elsewhere and _stamp(file) != stored.stamp:
            self.restamped[stored.row] = Stamp(*_stamp(file), file.id if renamed else None)

    def add_conflict(self, file: ImageFile, other: str) -> None:
        """Leave a file out: its id is that of another."""
        reason = f"its id {file.id!r} is that of {other}, which has other content"
        self.conflicts.append(BadFile(file.path, reason))

    @staticmethod
    def concat(batches: Sequence[Batch]) -> Batch:
        """Batches as one, in order; at least one is needed."""
        if len(batches) == 1:
            return batches[0]
        return Batch(
            pixels=np.concatenate([batch.pixels for batch in batches]),
            images=[row for batch in batches for row in batch.images],
            reused=[row for batch in batches for row in batch.reused],
            restamped={row: stamp for batch in batches for row, stamp in batch.restamped.items()},
            bad=[file for batch in batches for file in batch.bad],
            conflicts=[file for batch in batches for file in batch.conflicts],
            deleted=sum(batch.deleted for batch in batches),
            renamed=sum(batch.renamed for batch in batches),
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

    @property
    def stamp(self) -> tuple[str | None, int, int]:
        """Path, size and time of its file."""
        return self.path, self.size, self.mtime_ns

    def is_elsewhere(self, path: str) -> bool:
        """Whether its file is another than the one at a path, and still there."""
        return self.path is not None and self.path != path and image_exists(self.path)


class ImagePlanner:
    """Decides what to do with each file, against the snapshot that the run began with.

    Parameters
    ----------
    snapshot
        The snapshot.
    preprocessing
        How images are decoded.
    plan
        Sources and roots of the run.
    matcher
        Finds the metadata of an image.
    labels
        Gives an image its ``label``.
    rehash
        Whether the content of every file is compared, even where path, size and time
        are those of its row.
    restore
        Whether images that were deleted are taken in again.
    condition
        Of a conditional model: the metadata of an image must have its value.
    given
        Metadata of all images of this run, before any other.
    rows_below
        Rows from this number on are as if they were not there; None for none.

    Attributes
    ----------
    values
        Labels and metadata of images, by path, where they were looked up before.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        preprocessing: Preprocessing,
        plan: RootPlan,
        *,
        matcher: RowMatcher | None = None,
        labels: FolderLabels | None = None,
        rehash: bool = False,
        restore: bool = False,
        condition: Condition | None = None,
        given: Mapping[str, Value] | None = None,
        rows_below: int | None = None,
    ) -> None:
        self.snapshot = snapshot
        self.preprocessing = preprocessing
        self.search = plan.search
        self.rehash = rehash
        self.restore = restore
        self.known = KnownImages(snapshot, restore=restore, rows_below=rows_below)
        self.values: dict[str, dict[str, Value]] = {}
        self._rows_below = rows_below
        self._roots = plan.roots
        self._rivals = Rivals(plan.roots)
        self._tops = plan.tops
        self._matcher = matcher
        self._labels = labels
        self._condition = condition
        self._given = given or {}
        self._found: list[Ints] = []  # rows whose ids were met
        self._vanished: set[int] = set()  # those whose files were deleted meanwhile

    @property
    def gives_metadata(self) -> bool:
        """Whether it gives images labels, metadata of a table, or a condition."""
        return self._labels is not None or self._matcher is not None or bool(self._given)

    def at(self, snapshot: Snapshot) -> ImagePlanner:
        """The same planner against a later snapshot."""
        if snapshot is self.snapshot:
            return self
        later = copy(self)
        later.snapshot = snapshot
        later.known = KnownImages(snapshot, restore=self.restore)
        later._found = []
        return later

    def look_up(self, candidates: Sequence[Candidate | BadFile]) -> list[StoredImage | None]:
        """The row in the store of each candidate's id, in order; None where there is none."""
        stored: list[StoredImage | None] = [None] * len(candidates)
        if not len(self.snapshot):
            return stored
        ids = [(n, item.id) for n, item in enumerate(candidates) if isinstance(item, Candidate)]
        rows = self.snapshot.locate([name for _, name in ids])
        if self._rows_below is not None:
            rows[rows >= self._rows_below] = -1
        self._found.append(rows[rows >= 0])
        for (position, _), image in zip(ids, self._stored_images(rows), strict=True):
            stored[position] = image
        return stored

    def found_rows(self) -> Ints:
        """Rows whose images were found in this run, ascending."""
        found = np.unique(np.concatenate([np.empty(0, np.int64), *self._found]))
        return found[~np.isin(found, list(self._vanished))]

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
                if is_gone(error.path):  # deleted since its folder was listed
                    if image is not None:
                        self._vanished.add(image.row)
                else:
                    batch.bad.append(BadFile(error.path, error.reason))
        batch.pixels = batch.pixels[: len(batch.images)]
        return batch

    def _read_one(self, candidate: Candidate, stored: StoredImage | None, batch: Batch) -> None:
        values = self.metadata_of(candidate)
        if stored is not None or self.known.any_deleted:
            file = stat_image(candidate.id, candidate.path)
            if isinstance(file, BadFile):
                raise ImageError(file.path, file.reason)
            if self.add_by_stamp(file, stored, values, batch):
                return
        data, status = read_file(candidate.path)
        file = ImageFile(candidate.id, candidate.path, status.st_size, status.st_mtime_ns)
        digest = xxhash.xxh3_64_intdigest(data)
        if stored is not None and digest == stored.digest and not self.encodes(stored, values):
            elsewhere = self._is_elsewhere(stored, file.path, file.id)
            batch.add_unchanged(file, stored, values, elsewhere=elsewhere)
            return
        other = self._other_file(candidate, stored)
        if other is not None:
            if file_digest(other) == digest:
                batch.unchanged += 1
            else:
                batch.add_conflict(file, other)
            return
        row = self.add_by_content(file, digest, stored, values, batch)
        if row is None:
            return
        pixels = batch.pixels[len(batch.images)]
        decode_pixels(data, self.preprocessing, name=file.path, out=pixels)
        if has_vanished(data, pixels, file.path):
            batch.vanished.append(file.id)
        batch.images.append(row)

    def _other_file(self, candidate: Candidate, stored: StoredImage | None) -> str | None:
        """Another file that has the id of a candidate, and the right to it."""
        if stored is not None and self._is_elsewhere(stored, candidate.path, candidate.id):
            return stored.path
        root = self._roots.find(candidate.path)
        return None if root is None else self._rivals.find(root, candidate.path, candidate.id)

    def add_by_stamp(
        self,
        file: ImageFile,
        stored: StoredImage | None,
        values: dict[str, Value],
        batch: Batch,
    ) -> bool:
        """Whether path, size and time tell what to do: nothing, as it is unchanged or deleted."""
        if stored is None:
            deleted = self.known.was_deleted(file.id, file.size, file.mtime_ns)
            batch.deleted += deleted
            return deleted
        if self.rehash or _stamp(file) != stored.stamp or self.encodes(stored, values):
            return False
        batch.add_unchanged(file, stored, values)
        return True

    def encodes(self, stored: StoredImage, values: Mapping[str, Value]) -> bool:
        """Whether a row needs another latent for new metadata: the encoder's condition changed."""
        if self._condition is None or self._condition.encoder is None:
            return False
        key = self._condition.key
        return values.get(key, stored.metadata.get(key)) != stored.metadata.get(key)

    def add_by_content(
        self,
        file: ImageFile,
        digest: int,
        stored: StoredImage | None,
        values: dict[str, Value],
        batch: Batch,
        *,
        renames: bool = True,
    ) -> PlannedRow | None:
        """The row of a new or changed image, to be encoded; None if it was added without.

        That is one that was renamed, that is a copy, or that was deleted before.

        Parameters
        ----------
        renames
            Whether the file of a row that is gone may be this one now.
        """
        rows = self.known.rows_of(digest)
        if stored is None:
            if self.known.was_content_deleted(file.id, digest, rows):
                batch.deleted += 1
                return None
            renamed = self.known.renamed(rows) if renames else None
            if renamed is not None:
                number = np.array([renamed], np.int64)
                self._found.append(number)
                (image,) = self._stored_images(number)
                if image is not None and self.encodes(image, values):
                    stored = image
                elif image is not None:
                    batch.renamed += 1
                    batch.add_unchanged(file, image, values, renamed=True)
                if stored is None:
                    return None
        old = {} if stored is None else _of_other_content(stored.metadata)
        replaces = -1 if stored is None else stored.row
        source = int(rows[0]) if len(rows) else -1
        row = PlannedRow(file, digest, replaces, {**old, **values}, source)
        if self._condition is not None:
            try:
                self._condition.of_row(row.metadata)
            except InvalidInputError as error:
                raise ImageError(file.path, str(error)) from error
            if self._condition.encoder is not None:  # a copy may be of another class
                return replace(row, source=-1)
        if source < 0:
            return row
        batch.reused.append(row)
        return None

    def _is_elsewhere(self, stored: StoredImage, path: str, name: str) -> bool:
        """Whether the file of a row is another than this one, is there, and has the id."""
        if stored.path is None or not stored.is_elsewhere(path):
            return False
        root = self._roots.find(stored.path)  # none where its folder was moved away
        return root is not None and root.name(stored.path) == name

    def metadata_of(self, candidate: Candidate) -> dict[str, Value]:
        """Label and metadata of an image, as the run was told to give them."""
        if candidate.path in self.values:
            return dict(self.values[candidate.path])
        values: dict[str, Value] = {}
        below = candidate.id  # of an image in an archive
        if split_member_path(candidate.path) is None:
            below = candidate.path[len(self._tops[candidate.source].above) :]
        label = None if self._labels is None else self._labels.label(below)
        if label is not None:
            values[LABEL] = label
        if self._matcher is not None:
            row = self._matcher.find(candidate.id, candidate.path, below) or {}
            values.update({key: value for key, value in row.items() if value is not None})
        return {**values, **self._given}


def _of_other_content(metadata: Mapping[str, Value]) -> dict[str, Value]:
    """What holds of an image whose content changed: not what was measured of it."""
    return {key: value for key, value in metadata.items() if key not in MEASURED}


def _stamp(file: ImageFile) -> tuple[str, int, int]:
    return file.path, file.size, file.mtime_ns
