"""The execution of a run: batches are encoded and appended, with a commit every few seconds.

Reading (`latentdb.ingest.read_ahead`), encoding and writing run concurrently;
none is more than a few batches ahead of the next, so that memory does not grow
with the folder.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from latentdb.base.errors import ImageError
from latentdb.base.progress import Progress, Report
from latentdb.images.discover import Search
from latentdb.images.selection import Selection
from latentdb.ingest.adoption import settle
from latentdb.ingest.archives import MemberPlanner, ahead
from latentdb.ingest.planner import Batch, ImagePlanner, PlannedRow
from latentdb.ingest.read_ahead import read_batches
from latentdb.ingest.report import Counts
from latentdb.ingest.roots import RootPlan
from latentdb.model.codec import Codec
from latentdb.store.columns import make_columns
from latentdb.store.compaction import compact_if_due
from latentdb.store.restamp import Stamp, restamp
from latentdb.store.rows import FileStats, Floats, Ints, Rows
from latentdb.store.snapshot import Snapshot
from latentdb.store.writer import Writer

COMMIT_ROWS = 16_384
COMMIT_SECONDS = 5.0
FIRST_SECONDS = 0.5  # until the first commit, so that the store can be queried early
_Latent = tuple[Floats, Floats | None]  # z_mean and z_log_var
_MOST_STAMPS = 65_536  # of moved files in memory


@dataclass(eq=False)
class Run:
    """What a run of indexing works with, and what it has come to.

    Attributes
    ----------
    writer, codec
        Of the store.
    plan, archives, selection
        Its files and archives, and which images of them are wanted.
    strict
        Raise on the first bad file.
    report
        Called with the progress.
    types
        Type of every metadata key; archives add theirs.
    counts
        What was done so far.
    """

    writer: Writer
    codec: Codec
    plan: RootPlan
    archives: Sequence[str]
    selection: Selection
    strict: bool
    report: Report | None
    types: dict[str, str] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)

    def check(self, bad: Counts | Batch) -> None:
        """Raise the first bad file, if the run is strict."""
        if self.strict and (wrong := bad.bad + bad.conflicts):
            raise ImageError(wrong[0].path, wrong[0].reason)

    def show(self, total: int | None, stage: str = "indexing") -> None:
        """Report the progress."""
        if self.report is not None:
            self.report(Progress(stage, self.counts.files, total, len(self.counts.bad)))


class Executor(Protocol):
    """Who reads, encodes and commits the images of a run."""

    def start(self, run: Run) -> None:
        """Begin a run: commit what an earlier one has left."""

    def index_files(self, run: Run, planner: ImagePlanner) -> None:
        """Index the files of the run."""

    def index_archives(self, run: Run, members: MemberPlanner) -> None:
        """Index the images of the archives of the run."""

    def notes(self) -> Sequence[str]:
        """What the caller should be told, a sentence each."""


class LocalExecutor:
    """This process, in threads."""

    def start(self, run: Run) -> None:
        settle(run.writer)

    def index_files(self, run: Run, planner: ImagePlanner) -> None:
        counted = run.report is not None and not run.archives
        counter = _FileCounter(planner.search) if counted else None
        try:
            with read_batches(planner) as batches:
                write_batches(run, planner.snapshot, batches, counter)
        finally:
            if counter is not None:
                counter.stop()

    def index_archives(self, run: Run, members: MemberPlanner) -> None:
        with ahead(members.batches()) as batches:
            write_batches(run, run.writer.snapshot, batches, None)

    def notes(self) -> Sequence[str]:
        return ()


class EncodedRows:
    """Encoded rows that are not in a segment yet."""

    def __init__(self) -> None:
        self._planned: list[PlannedRow] = []
        self._means: list[Floats] = []
        self._log_vars: list[Floats] = []
        self._latents: dict[int, _Latent] = {}  # of the images, by digest

    def __len__(self) -> int:
        return len(self._planned)

    def encode(self, batch: Batch, snapshot: Snapshot, codec: Codec) -> int:
        """Add the rows of a batch, which was planned against a snapshot.

        Of equal images among these rows one is encoded, except by a conditional model.

        Returns
        -------
        int
            The number of images that were encoded.
        """
        rows, count = batch.images, len(batch.images)
        if rows and codec.config.condition is not None:
            self._add(rows, *codec.encode(batch.pixels, [row.metadata for row in rows]))
        elif rows:
            places = {row.digest: place for place, row in enumerate(rows)}
            new = sorted(places[digest] for digest in places.keys() - self._latents.keys())
            count = len(new)
            if count == len(rows):
                found = codec.encode(batch.pixels)
                self._remember(rows, *found)
            else:
                if new:
                    self._remember([rows[place] for place in new], *codec.encode(batch.pixels[new]))
                found = _stacked([self._latents[row.digest] for row in rows])
            self._add(rows, *found)
        if batch.reused:
            sources = np.array([row.source for row in batch.reused], np.int64)
            log_vars = snapshot.log_vars(sources) if codec.config.has_z_log_var else None
            self._add(batch.reused, snapshot.vectors(sources), log_vars)
        return count

    def _remember(
        self, planned: Sequence[PlannedRow], z_mean: Floats, log_var: Floats | None
    ) -> None:
        for place, row in enumerate(planned):
            self._latents[row.digest] = z_mean[place], None if log_var is None else log_var[place]

    def _add(self, planned: Sequence[PlannedRow], z_mean: Floats, log_var: Floats | None) -> None:
        self._planned += planned
        self._means.append(z_mean)
        if log_var is not None:
            self._log_vars.append(log_var)

    def replaced(self) -> Ints:
        """Numbers of the rows that they replace."""
        return np.array([row.replaces for row in self._planned if row.replaces >= 0], np.int64)

    def rows(self, types: Mapping[str, str]) -> Rows:
        """The rows, of which there must be one; `types` has the type of every metadata key."""
        planned = self._planned
        keys = sorted({key for row in planned for key in row.metadata})
        columns = make_columns(
            {key: [row.metadata.get(key) for row in planned] for key in keys}, len(planned)
        )
        return Rows(
            ids=[row.file.id for row in planned],
            z_mean=np.concatenate(self._means),
            z_log_var=np.concatenate(self._log_vars) if self._log_vars else None,
            paths=[row.file.path for row in planned],
            file_stats=FileStats(
                np.array([row.file.size for row in planned], np.int64),
                np.array([row.file.mtime_ns for row in planned], np.int64),
                np.array([row.digest for row in planned], np.uint64),
            ),
            columns={key: column.cast(types[key], key) for key, column in columns.items()},
        )


def _stacked(latents: Sequence[_Latent]) -> _Latent:
    log_vars = [log_var for _, log_var in latents if log_var is not None]
    return np.stack([mean for mean, _ in latents]), np.stack(log_vars) if log_vars else None


class _PendingRows:
    """Encoded rows that wait for the next commit; a thread makes the commits."""

    def __init__(self, writer: Writer, column_types: dict[str, str]) -> None:
        self._writer = writer
        self._column_types = column_types
        self._thread = ThreadPoolExecutor(1, "latentdb-commit")
        self._commit: Future[None] | None = None
        self._seconds = FIRST_SECONDS
        self._clear()

    def _clear(self) -> None:
        self.encoded = EncodedRows()
        self._since = time.monotonic()

    def restamp(self, stamps: Mapping[int, Stamp]) -> None:
        """Give rows that are committed the stamps of their files, in the same thread."""
        self._wait()
        self._commit = self._thread.submit(restamp, self._writer, stamps)

    def is_due(self) -> bool:
        waited = time.monotonic() - self._since
        count = len(self.encoded)
        return count >= COMMIT_ROWS or (count > 0 and waited > self._seconds)

    def start_commit(self) -> None:
        """Commit the waiting rows; returns at once, unless the previous commit is not done."""
        self._wait()
        if len(self.encoded):
            self._seconds = COMMIT_SECONDS
            rows, replaced = self.encoded.rows(self._column_types), self.encoded.replaced()
            self._clear()
            self._commit = self._thread.submit(self._write, rows, replaced)

    def _wait(self) -> None:
        """Wait for the commit that was started, and raise its error."""
        commit, self._commit = self._commit, None
        if commit is not None:
            commit.result()

    def close(self) -> None:
        """Commit all waiting rows, and wait for it."""
        try:
            self.start_commit()
            self._wait()
        finally:
            self._thread.shutdown()

    def _write(self, rows: Rows, replaced: Ints) -> None:
        self._writer.append(rows, replaced)
        compact_if_due(self._writer)


def write_batches(
    run: Run,
    snapshot: Snapshot,
    batches: Iterator[Batch],
    counter: _FileCounter | None,
) -> None:
    """Encode and commit what was planned against a snapshot."""
    pending = _PendingRows(run.writer, run.types)
    stamps: dict[int, Stamp] = {}
    try:
        for batch in batches:
            run.check(batch)
            run.counts.encoded += pending.encoded.encode(batch, snapshot, run.codec)
            run.counts.add(batch)
            stamps.update(batch.restamped)
            if len(stamps) >= _MOST_STAMPS:
                pending.restamp(stamps)
                stamps = {}
            if pending.is_due():
                pending.start_commit()
            run.show(None if counter is None else counter.total)
        if stamps:
            pending.restamp(stamps)
    finally:
        pending.close()


class _FileCounter:
    """Counts the files of a run in a thread, so that indexing starts at once.

    Attributes
    ----------
    total
        Number of files; None until all are counted.
    """

    def __init__(self, search: Search) -> None:
        self.total: int | None = None
        self._search = search
        self._stop = threading.Event()
        threading.Thread(target=self._run, name="latentdb-count", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        total = self._search.count(self._stop.is_set)
        if not self._stop.is_set():
            self.total = total
