"""What a run of indexing did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from latentdb.images.discover import BadFile
from latentdb.ingest.planner import Batch
from latentdb.ingest.table import Unmatched


@dataclass(frozen=True)
class IndexReport:
    """What `index_images` did.

    Attributes
    ----------
    added, updated, unchanged
        Images that were new, that had changed or got other metadata, and that
        were skipped because the store has them as they are.
    encoded
        Images that were encoded: new content.
    renamed
        Images whose rows have a new id now, as their files were renamed.
    restamped
        How many of the unchanged ones had been moved, touched or renamed: their rows have
        the new path, size and time now.
    deleted
        Images that were left out because they were deleted from the store.
    missing
        Ids of rows whose files were in the folders of this run, and are gone.
    pruned
        How many of them were deleted from the store.
    bad
        Files that were skipped because they cannot be read.
    conflicts
        Files that were skipped because their ids are those of other files.
    failed
        Whether there are conflicts, or more bad files than `allow_bad` of `index_images`
        permits.
    passed_over
        Files in folders that are no images, by their ending ("" for none).
    excluded
        Images and folders that were left out by include and exclude.
    links
        Links that lead out of their root, and were not followed.
    vanished
        Ids of images that are one colour over the background of the model.
    unmatched
        Rows of the metadata without an image in this run, and images without a row.
    notes
        What else there is to know of ids, labels and metadata, a sentence each.
    rows
        Rows in the store now.
    seconds
        Wall time.
    """

    added: int
    updated: int
    unchanged: int
    encoded: int
    renamed: int
    restamped: int
    deleted: int
    missing: tuple[str, ...]
    pruned: int
    bad: tuple[BadFile, ...]
    conflicts: tuple[BadFile, ...]
    failed: bool
    passed_over: Mapping[str, int]
    excluded: int
    links: tuple[str, ...]
    vanished: tuple[str, ...]
    unmatched: Unmatched
    notes: tuple[str, ...]
    rows: int
    seconds: float


@dataclass
class Counts:
    """What the batches of a run came to so far."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    encoded: int = 0
    renamed: int = 0
    restamped: int = 0
    deleted: int = 0
    bad: list[BadFile] = field(default_factory=list)
    conflicts: list[BadFile] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)

    def add(self, batch: Batch) -> None:
        """Count a batch, too, but for the images that were encoded for it."""
        written = [*batch.images, *batch.reused]
        replacing = sum(row.replaces >= 0 for row in written)
        self.added += len(written) - replacing
        self.updated += replacing
        self.unchanged += batch.unchanged
        self.renamed += batch.renamed
        self.restamped += len(batch.restamped)
        self.deleted += batch.deleted
        self.bad += batch.bad
        self.conflicts += batch.conflicts
        self.vanished += batch.vanished

    def merge(self, other: Counts) -> None:
        """Count what another part of the run did, too."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    @property
    def files(self) -> int:
        """Files that were met."""
        written = self.added + self.updated + self.unchanged + self.deleted
        return written + len(self.bad) + len(self.conflicts)
