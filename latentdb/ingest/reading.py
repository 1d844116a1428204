"""Files to batches of pixels, in threads, a few batches ahead of whoever takes them.

One thread searches the folders and looks the names up in the store, some dozens
at a time; one thread a core opens, compares and decodes the files.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import xxhash
from numpy.typing import NDArray

from latentdb.base.cores import core_count
from latentdb.base.errors import ImageError
from latentdb.images.decode import Preprocessing, decode_pixels, read_file
from latentdb.images.discover import (
    BadFile,
    Candidate,
    ImageFile,
    check_sources,
    find_candidates,
    is_image_name,
    stat_image,
)
from latentdb.model.codec import BATCH
from latentdb.store.columns import Table, Value
from latentdb.store.segment import Ints
from latentdb.store.snapshot import Snapshot

LABEL = "label"
_TASK = 64  # files that one thread reads before it takes others
_FIRST_TASK = 8  # the first are small, so that the encoder begins at once
_FIRST_TASKS = 6  # two of each size: 8, 16, 32
_BATCH_BYTES = 64 << 20  # of pixels in a batch
_GATHER_PARTS = 64  # tasks a batch may wait for
_GATHER_SECONDS = 1.0  # how long


@dataclass(frozen=True, eq=False, slots=True)
class Entry:
    """A row to be written for a file.

    Attributes
    ----------
    file
        What it is of.
    digest
        64-bit xxh3 of its bytes.
    replaces
        Number of the row it stands in for, -1 for none.
    metadata
        Values that are not missing.
    """

    file: ImageFile
    digest: int
    replaces: int
    metadata: dict[str, Value]


@dataclass(eq=False)
class Batch:
    """The outcome of looking at a few files, in order.

    Attributes
    ----------
    pixels, entries
        Images to encode, uint8 ``[n, height, width, channels]``, and their rows.
    kept
        Rows whose image is unchanged, but whose metadata is not.
    bad
        Files that cannot be read.
    unchanged
        How many are in the store as they are.
    matched
        For how many the metadata file had a row.
    """

    pixels: NDArray[np.uint8]
    entries: list[Entry] = field(default_factory=list)
    kept: list[Entry] = field(default_factory=list)
    bad: list[BadFile] = field(default_factory=list)
    unchanged: int = 0
    matched: int = 0

    def join(self, others: Sequence[Batch]) -> Batch:
        """This batch and others as one, in order."""
        if not others:
            return self
        every = (self, *others)
        return Batch(
            np.concatenate([batch.pixels for batch in every]),
            [entry for batch in every for entry in batch.entries],
            [entry for batch in every for entry in batch.kept],
            [file for batch in every for file in batch.bad],
            sum(batch.unchanged for batch in every),
            sum(batch.matched for batch in every),
        )


@dataclass(frozen=True, slots=True)
class _Known:
    """What the store has of an image."""

    row: int
    path: str | None
    size: int
    mtime_ns: int
    digest: int
    metadata: dict[str, Value]


class ImagePlanner:
    """What to do with each file, decided against the version the run began with.

    Attributes
    ----------
    snapshot
        That version.
    spec
        How images are read.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        spec: Preprocessing,
        *,
        table: Table | None,
        labels_from_folders: bool,
        sources: Sequence[str | os.PathLike[str]],
    ) -> None:
        self.snapshot = snapshot
        self.spec = spec
        self._table = table
        self._labels = labels_from_folders
        self._earlier = _Earlier(check_sources(sources))

    def known(self, found: Sequence[Candidate | BadFile]) -> list[_Known | None]:
        """What the store has of each name, in order; None where it has nothing."""
        known: list[_Known | None] = [None] * len(found)
        if not len(self.snapshot):
            return known
        names = [
            (place, item.id) for place, item in enumerate(found) if isinstance(item, Candidate)
        ]
        rows = self.snapshot.locate([name for _, name in names])
        for (place, _), one in zip(names, self._rows(rows), strict=True):
            known[place] = one
        return known

    def _rows(self, rows: Ints) -> list[_Known | None]:
        known: list[_Known | None] = [None] * len(rows)
        old = np.flatnonzero(rows >= 0)
        if not len(old):
            return known
        numbers = rows[old]
        told = self.snapshot.facts(numbers)
        for segment, positions, places in self.snapshot.groups(numbers):
            facts = segment.facts
            for position, place in zip(positions, places, strict=True):
                one = (0, 0, -1)
                if facts is not None:
                    one = (
                        int(facts.sizes[position]),
                        int(facts.mtimes_ns[position]),
                        int(facts.digests[position]),
                    )
                _, path, metadata = told[place]
                known[old[place]] = _Known(int(numbers[place]), path, *one, metadata)
        return known

    def read(
        self,
        found: Sequence[Candidate | BadFile],
        known: Sequence[_Known | None],
        stopped: threading.Event,
    ) -> Batch:
        """Look at some files, and read those that are new or changed."""
        batch = Batch(np.empty((len(found), *self.spec.shape), np.uint8))
        for item, old in zip(found, known, strict=True):
            if stopped.is_set():
                break
            if isinstance(item, BadFile):
                batch.bad.append(item)
                continue
            try:
                self._one(item, old, batch)
            except ImageError as error:
                batch.bad.append(BadFile(error.path, error.reason))
        batch.pixels = batch.pixels[: len(batch.entries)]
        return batch

    def _one(self, name: Candidate, known: _Known | None, batch: Batch) -> None:
        other = self._earlier.path(name)
        if other == name.path:
            batch.unchanged += 1  # it was met before in this run
            return
        if other is not None:
            raise ImageError(name.path, _taken(name.id, other))
        values = self._metadata(name, batch)
        if known is not None:
            values = {**known.metadata, **values}
            file = stat_image(name.id, name.path)
            if isinstance(file, BadFile):
                batch.bad.append(file)
                return
            stamp = file.path, file.size, file.mtime_ns
            if stamp == (known.path, known.size, known.mtime_ns):
                self._same(file, known, values, batch)
                return
        data, status = read_file(name.path)
        file = ImageFile(name.id, name.path, status.st_size, status.st_mtime_ns)
        digest = xxhash.xxh3_64_intdigest(data)
        if known is not None:
            if digest == known.digest:
                self._same(file, known, values, batch)
                return
            if known.path not in (None, file.path) and os.path.exists(known.path or ""):
                raise ImageError(file.path, _taken(file.id, f"{known.path} in the store"))
        decode_pixels(data, self.spec, name=file.path, out=batch.pixels[len(batch.entries)])
        row = -1 if known is None else known.row
        batch.entries.append(Entry(file, digest, row, values))

    @staticmethod
    def _same(file: ImageFile, known: _Known, values: dict[str, Value], batch: Batch) -> None:
        if values == known.metadata:
            batch.unchanged += 1
        else:
            batch.kept.append(Entry(file, known.digest, known.row, values))

    def _metadata(self, file: Candidate, batch: Batch) -> dict[str, Value]:
        values: dict[str, Value] = {}
        if self._labels and "/" in file.id:
            values[LABEL] = file.id.split("/", 1)[0]
        if self._table is not None:
            row = self._table.row(file.id, file.path)
            if row is not None:
                batch.matched += 1
                values.update({key: value for key, value in row.items() if value is not None})
        return values


def _taken(name: str, other: str) -> str:
    return f"its id {name!r} is that of {other}: index a folder that holds both"


class _Earlier:
    """Whether an earlier source has a file of the same id.

    Asked of the file system, and not of a list of all ids so far: that would
    grow with the folders.
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

    def path(self, name: Candidate) -> str | None:
        """The first such file, which may be this very one under its own path; None for none."""
        if not self._several or name.source == 0:
            return None
        first, path = self._files.get(name.id, (name.source, None))
        if first >= name.source:
            first, path = name.source, None
        if not all(part and not part.startswith(".") for part in name.id.split("/")):
            return path  # of a source that is a file; no search of a folder meets it
        for number, folder in self._folders:
            if number >= first:
                break
            if is_image_name(name.id) and os.path.isfile(folder + name.id):
                return folder + name.id
        return path


class _Ahead:
    """The threads of `read_ahead`."""

    def __init__(self, source: ImagePlanner, sources: Sequence[str | os.PathLike[str]]) -> None:
        self._source = source
        self._found = find_candidates(sources)
        image = int(np.prod(source.spec.shape))
        self._batch = max(1, min(BATCH, _BATCH_BYTES // image))
        self._task = min(_TASK, self._batch)
        self._threads = core_count()
        waiting = self._threads + self._batch // self._task
        self._queue: queue.Queue[Future[Batch] | BaseException | None] = queue.Queue(waiting)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="latentdb-search", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        while self._thread.is_alive():  # it may be waiting for room in the queue
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def batches(self) -> Iterator[Batch]:
        """What was read, gathered until it is worth encoding."""
        parts: list[Batch] = []
        since = time.monotonic()
        for number, part in enumerate(self._parts()):
            parts.append(part)
            size = sum(len(each.pixels) for each in parts)
            full = size + self._task > self._batch or len(parts) == _GATHER_PARTS
            if full or number < _FIRST_TASKS or time.monotonic() - since > _GATHER_SECONDS:
                yield parts[0].join(parts[1:])
                parts, since = [], time.monotonic()
        if parts:
            yield parts[0].join(parts[1:])

    def _parts(self) -> Iterator[Batch]:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item.result()

    def _run(self) -> None:
        try:
            with ThreadPoolExecutor(self._threads, "latentdb-read") as pool:
                for number in range(1 << 62):
                    size = self._task
                    if number < _FIRST_TASKS:
                        size = min(size, _FIRST_TASK << number // 2)
                    found = list(islice(self._found, size))
                    if not found or self._stop.is_set():
                        break
                    known = self._source.known(found)
                    self._queue.put(pool.submit(self._source.read, found, known, self._stop))
            self._queue.put(None)
        except BaseException as error:  # handed to the iterating thread, which raises it
            self._queue.put(error)


@contextmanager
def read_ahead(
    source: ImagePlanner, sources: Sequence[str | os.PathLike[str]]
) -> Iterator[Iterator[Batch]]:
    """Search and read in threads; gives the batches in the order of the search.

    Two batches are held at most, and what the threads are at.

    Raises
    ------
    NotFoundError
        If a source does not exist.
    """
    ahead = _Ahead(source, sources)
    ahead.start()
    try:
        yield ahead.batches()
    finally:
        ahead.stop()
