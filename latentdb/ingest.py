"""Images to rows: find, read, encode and append, with a commit every few seconds.

Reading runs in threads beside the encoder, and no more than a few batches
ahead of it.  A commit is the point where a killed run goes on: what is
committed is found unchanged and skipped.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from latentdb.codec import BATCH, Codec
from latentdb.compaction import compact, is_due
from latentdb.errors import ImageError, InvalidInputError
from latentdb.images import (
    BadFile,
    ImageFile,
    Preprocessing,
    decode_pixels,
    discover,
    read_bytes,
    require_images,
)
from latentdb.metadata import Table, Value, make_columns
from latentdb.segment import FileFacts, Floats, Ints, Rows, hash_ids
from latentdb.store import Snapshot, Writer

COMMIT_ROWS = 16_384
COMMIT_SECONDS = 5.0
LABEL = "label"
CONFLICTS = ("error", "skip", "replace")
_AHEAD = 4  # batches read before they are encoded


@dataclass(frozen=True)
class IndexReport:
    """What `index_images` did.

    Attributes
    ----------
    added, updated, unchanged
        Images that were new, had changed (or got other metadata), and were
        skipped because they were in the store already.
    bad
        Files that were skipped because they cannot be read.
    unmatched
        Rows of the metadata file that fit no image of this run.
    rows
        In the store now.
    seconds
        Wall time.
    """

    added: int
    updated: int
    unchanged: int
    bad: tuple[BadFile, ...]
    unmatched: int
    rows: int
    seconds: float


@dataclass(frozen=True)
class Progress:
    """Where a long run stands: shown to people, never needed for the result.

    Attributes
    ----------
    stage
        What is being done, in a word or two.
    done
        Items so far.
    total
        Of how many; None while not known.
    bad
        Items skipped as unreadable.
    """

    stage: str
    done: int
    total: int | None
    bad: int = 0


Report = Callable[[Progress], None]


@dataclass(frozen=True, eq=False)
class _Read:
    """An image that was read and is to be encoded."""

    file: ImageFile
    pixels: NDArray[np.uint8]
    digest: int
    replaces: int  # row number, -1 for none
    metadata: dict[str, Value]


@dataclass(frozen=True, eq=False)
class _Kept:
    """A row whose image is unchanged, but whose metadata is not."""

    file: ImageFile
    digest: int
    row: int
    metadata: dict[str, Value]


@dataclass(frozen=True, eq=False)
class _Batch:
    """The outcome of looking at a few files, in order."""

    reads: list[_Read]
    kept: list[_Kept]
    bad: list[BadFile]
    unchanged: int


class _Source:
    """What to do with each file, decided against the version the run began with."""

    def __init__(
        self,
        snapshot: Snapshot,
        spec: Preprocessing,
        *,
        table: Table | None,
        labels_from_folders: bool,
        several: bool,
    ) -> None:
        self.snapshot = snapshot
        self.spec = spec
        self.table = table
        self.labels_from_folders = labels_from_folders
        self.matched = 0
        # Paths of one folder differ; those of several may not.
        self._taken: dict[str, str] | None = {} if several else None

    def metadata(self, file: ImageFile) -> dict[str, Value]:
        values: dict[str, Value] = {}
        if self.labels_from_folders and "/" in file.id:
            values[LABEL] = file.id.split("/", 1)[0]
        if self.table is not None:
            row = self.table.row(file.id, file.path)
            if row is not None:
                self.matched += 1
                values.update({key: value for key, value in row.items() if value is not None})
        return values

    def taken(self, file: ImageFile) -> BadFile | None:
        """Refuse a second file of the same id in one run."""
        if self._taken is None:
            return None
        other = self._taken.setdefault(file.id, file.path)
        if other == file.path:
            return None
        return BadFile(
            file.path, f"its id {file.id!r} is that of {other}: index a folder that holds both"
        )

    def look(self, found: Sequence[ImageFile | BadFile], pool: ThreadPoolExecutor) -> _Batch:
        batch = _Batch([], [], [], 0)
        files = []
        for item in found:
            refused = item if isinstance(item, BadFile) else self.taken(item)
            if refused is not None:
                batch.bad.append(refused)
            elif isinstance(item, ImageFile):
                files.append(item)
        rows = self.snapshot.locate([file.id for file in files])
        unchanged = 0
        for outcome in pool.map(self._one, files, self._known(rows)):
            if isinstance(outcome, BadFile):
                batch.bad.append(outcome)
            elif isinstance(outcome, _Read):
                batch.reads.append(outcome)
            elif isinstance(outcome, _Kept):
                batch.kept.append(outcome)
            else:
                unchanged += 1
        return _Batch(batch.reads, batch.kept, batch.bad, unchanged)

    def _known(self, rows: Ints) -> list[_Known | None]:
        """What the store has of each row; None where the row is -1."""
        known: list[_Known | None] = [None] * len(rows)
        old = np.flatnonzero(rows >= 0)
        if not len(old):
            return known
        numbers = rows[old]
        paths = self.snapshot.paths(numbers)
        metadata = self.snapshot.metadata(numbers)
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
                known[old[place]] = _Known(int(numbers[place]), paths[place], *one, metadata[place])
        return known

    def _one(self, file: ImageFile, known: _Known | None) -> _Read | _Kept | BadFile | None:
        values = self.metadata(file)
        if known is not None:
            values = {**known.metadata, **values}
            same = (known.path, known.size, known.mtime_ns) == (
                file.path,
                file.size,
                file.mtime_ns,
            )
            if same:
                return self._unchanged(file, known, known.digest, values)
        try:
            data = read_bytes(file.path)
            digest = xxhash.xxh3_64_intdigest(data)
            if known is not None:
                if digest == known.digest:
                    return self._unchanged(file, known, digest, values)
                if known.path not in (None, file.path) and os.path.exists(known.path or ""):
                    return BadFile(
                        file.path,
                        f"its id {file.id!r} is that of {known.path} in the store: "
                        "index a folder that holds both",
                    )
            pixels = decode_pixels(data, self.spec, name=file.path)
        except ImageError as error:
            return BadFile(error.path, error.reason)
        return _Read(file, pixels, digest, -1 if known is None else known.row, values)

    def _unchanged(
        self, file: ImageFile, known: _Known, digest: int, values: dict[str, Value]
    ) -> _Kept | None:
        if values == known.metadata:
            return None
        return _Kept(file, digest, known.row, values)


@dataclass(frozen=True)
class _Known:
    """What the store has of an image."""

    row: int
    path: str | None
    size: int
    mtime_ns: int
    digest: int
    metadata: dict[str, Value]


class _Reader:
    """A thread that reads a few batches ahead of whoever iterates."""

    def __init__(self, source: _Source, found: Iterable[ImageFile | BadFile]) -> None:
        self._source = source
        self._found = found
        self._queue: queue.Queue[_Batch | BaseException | None] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="latentdb-reader", daemon=True)

    def __enter__(self) -> _Reader:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        while self._thread.is_alive():  # it may be waiting for room in the queue
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def __iter__(self) -> Iterator[_Batch]:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def _run(self) -> None:
        try:
            found = iter(self._found)
            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                while chunk := list(islice(found, BATCH)):
                    if self._stop.is_set():
                        return
                    self._queue.put(self._source.look(chunk, pool))
            self._queue.put(None)
        except BaseException as error:  # handed to the iterating thread, which raises it
            self._queue.put(error)


class _Pending:
    """Encoded rows that wait for the next commit."""

    def __init__(self, writer: Writer, kinds: dict[str, str]) -> None:
        self._writer = writer
        self._kinds = kinds
        self._clear()

    def _clear(self) -> None:
        self.files: list[ImageFile] = []
        self.digests: list[int] = []
        self.replaced: list[int] = []
        self.metadata: list[dict[str, Value]] = []
        self.means: list[Floats] = []
        self.log_vars: list[Floats] = []
        self.since = time.monotonic()

    def add(self, items: Sequence[_Read | _Kept], z_mean: Floats, log_var: Floats | None) -> None:
        for item in items:
            self.files.append(item.file)
            self.digests.append(item.digest)
            self.metadata.append(item.metadata)
            row = item.replaces if isinstance(item, _Read) else item.row
            if row >= 0:
                self.replaced.append(row)
        self.means.append(z_mean)
        if log_var is not None:
            self.log_vars.append(log_var)

    def due(self) -> bool:
        waited = time.monotonic() - self.since
        return len(self.files) >= COMMIT_ROWS or (bool(self.files) and waited > COMMIT_SECONDS)

    def commit(self) -> None:
        if not self.files:
            return
        keys = sorted({key for values in self.metadata for key in values})
        columns = make_columns(
            {key: [values.get(key) for values in self.metadata] for key in keys}, len(self.files)
        )
        rows = Rows(
            ids=[file.id for file in self.files],
            z_mean=np.concatenate(self.means),
            z_log_var=np.concatenate(self.log_vars) if self.log_vars else None,
            paths=[file.path for file in self.files],
            facts=FileFacts(
                np.array([file.size for file in self.files], np.int64),
                np.array([file.mtime_ns for file in self.files], np.int64),
                np.array(self.digests, np.uint64),
            ),
            columns={key: column.cast(self._kinds[key], key) for key, column in columns.items()},
        )
        self._writer.append(rows, np.array(self.replaced, np.int64))
        if is_due(self._writer.snapshot):
            compact(self._writer, everything=False)
        self._clear()


def index_images(
    writer: Writer,
    codec: Codec,
    sources: Sequence[str | os.PathLike[str]],
    *,
    table: Table | None = None,
    labels_from_folders: bool = False,
    strict: bool = False,
    report: Report | None = None,
) -> IndexReport:
    """Encode the new and the changed images of some folders into a store.

    A file is unchanged if its path, size and time are those of its row, or
    else if its content is.  Ctrl-C commits what is encoded and is raised again.

    Parameters
    ----------
    writer
        Of the store.
    codec
        The store's model.
    sources
        Folders and image files.
    table
        Metadata by id or path.
    labels_from_folders
        Give each image the name of its topmost folder as ``label``.
    strict
        Raise on the first bad file instead of skipping it.
    report
        Called with the progress.

    Raises
    ------
    ImageError
        With `strict`, for a bad file; what was committed stays.
    InvalidInputError
        If there are no images, or metadata does not fit the store's.
    """
    start = time.monotonic()
    require_images(sources)
    check_log_var(writer.snapshot, codec.card.has_z_log_var)
    kinds = _kinds(writer.snapshot.manifest.columns, table, labels_from_folders)
    source = _Source(
        writer.snapshot,
        codec.card.preprocessing,
        table=table,
        labels_from_folders=labels_from_folders,
        several=len(sources) > 1,
    )
    pending = _Pending(writer, kinds)
    total = _Total(sources) if report is not None else None
    added = updated = unchanged = 0
    bad: list[BadFile] = []
    try:
        with _Reader(source, discover(sources)) as reader:
            for batch in reader:
                if strict and batch.bad:
                    raise ImageError(batch.bad[0].path, batch.bad[0].reason)
                bad += batch.bad
                unchanged += batch.unchanged
                if batch.reads:
                    pending.add(
                        batch.reads, *codec.encode(np.stack([item.pixels for item in batch.reads]))
                    )
                if batch.kept:
                    pending.add(batch.kept, *_stored(source.snapshot, batch.kept, codec))
                replacing = sum(item.replaces >= 0 for item in batch.reads)
                added += len(batch.reads) - replacing
                updated += replacing + len(batch.kept)
                if pending.due():
                    pending.commit()
                if report is not None and total is not None:
                    done = added + updated + unchanged + len(bad)
                    report(Progress("indexing", done, total.count, len(bad)))
    finally:
        pending.commit()
    unmatched = 0 if table is None else max(0, len(table.rows) - source.matched)
    seconds = time.monotonic() - start
    rows = len(writer.snapshot)
    return IndexReport(added, updated, unchanged, tuple(bad), unmatched, rows, seconds)


def add_rows(writer: Writer, rows: Rows, on_conflict: str) -> int:
    """Append ready-made rows in one commit.

    Parameters
    ----------
    writer
        Of the store.
    rows
        Checked already.
    on_conflict
        For an id that is in the store: ``"error"``, ``"skip"`` or ``"replace"``.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    InvalidInputError
        If an id is taken, or z_log_var or metadata does not fit the store's.
    """
    if on_conflict not in CONFLICTS:
        raise InvalidInputError(f"on_conflict {on_conflict!r} is unknown: use one of {CONFLICTS}")
    snapshot = writer.snapshot
    check_log_var(snapshot, rows.z_log_var is not None)
    rows = replace(rows, hashes=hash_ids(rows.ids))  # needed twice: here, and by the segment
    old = snapshot.locate(rows.ids, rows.hashes)
    taken = np.flatnonzero(old >= 0)
    if len(taken) and on_conflict == "error":
        raise InvalidInputError(
            f"id {rows.ids[taken[0]]!r} ({len(taken)} in all) is in the store: "
            "pass on_conflict='skip' or 'replace'"
        )
    if on_conflict == "skip":
        rows, old = rows.take(np.flatnonzero(old < 0)), old[:0]
    if len(rows):
        writer.append(rows, old[old >= 0])
    return len(rows)


def check_log_var(snapshot: Snapshot, given: bool) -> None:
    """Refuse rows with z_log_var among rows without it, and the other way round.

    Raises
    ------
    InvalidInputError
        If it is so.
    """
    if snapshot.segments and snapshot.segments[0].has_log_var != given:
        raise InvalidInputError(
            "this store's rows have no z_log_var: leave it out, or use a new store"
            if given
            else "z_log_var is missing, and this store's rows have it: pass it too"
        )


def _kinds(columns: Any, table: Table | None, labels: bool) -> dict[str, str]:
    """Kind of every key, known before the first row, so that no run fails half-way."""
    kinds: dict[str, str] = dict(columns)
    given = {} if table is None else table.kinds
    if labels:
        given = {LABEL: "str", **given}
    for key, kind in given.items():
        stored = kinds.setdefault(key, kind)
        if stored != kind and (kind, stored) != ("int", "float"):
            raise InvalidInputError(
                f"metadata {key!r} is {kind} here and {stored} in this store: "
                "convert it or use another key"
            )
    return kinds


def _stored(
    snapshot: Snapshot, kept: Sequence[_Kept], codec: Codec
) -> tuple[Floats, Floats | None]:
    rows = np.array([item.row for item in kept], np.int64)
    return snapshot.vectors(rows), snapshot.log_vars(rows) if codec.card.has_z_log_var else None


class _Total:
    """Counts the files in a thread of its own, so that the first need not wait."""

    def __init__(self, sources: Sequence[str | os.PathLike[str]]) -> None:
        self.count: int | None = None
        self._sources = sources
        threading.Thread(target=self._run, name="latentdb-count", daemon=True).start()

    def _run(self) -> None:
        self.count = sum(1 for _ in discover(self._sources))
