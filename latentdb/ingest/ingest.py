"""Images to rows: encode what was read and append it, with a commit every few seconds.

Finding and reading (`latentdb.ingest.reading`), encoding, and writing run beside each
other; none is more than a few batches ahead of the next, so that memory does
not grow with the folder.  A commit is the point where a killed run goes on:
what is committed is found unchanged and skipped.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latentdb.base.errors import ImageError, InvalidInputError
from latentdb.base.progress import Progress, Report
from latentdb.images.discover import BadFile, count_candidates, require_images
from latentdb.ingest.reading import LABEL, Batch, Entry, ImagePlanner, read_ahead
from latentdb.model.codec import Codec
from latentdb.store.columns import Table, make_columns
from latentdb.store.compaction import compact, is_due
from latentdb.store.segment import FileFacts, Floats, Ints, Rows, hash_ids
from latentdb.store.snapshot import Snapshot
from latentdb.store.writer import Writer

COMMIT_ROWS = 16_384
COMMIT_SECONDS = 5.0
FIRST_SECONDS = 0.5  # after which the first rows are committed: queries need not wait for more
CONFLICTS = ("error", "skip", "replace")


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


class _Pending:
    """Encoded rows that wait for the next commit, which is made by a thread of its own."""

    def __init__(self, writer: Writer, kinds: dict[str, str]) -> None:
        self._writer = writer
        self._kinds = kinds
        self._thread = ThreadPoolExecutor(1, "latentdb-commit")
        self._last: Future[None] | None = None
        self._limit = FIRST_SECONDS
        self._clear()

    def _clear(self) -> None:
        self._entries: list[Entry] = []
        self._means: list[Floats] = []
        self._log_vars: list[Floats] = []
        self._since = time.monotonic()

    def add(self, entries: Sequence[Entry], z_mean: Floats, log_var: Floats | None) -> None:
        self._entries += entries
        self._means.append(z_mean)
        if log_var is not None:
            self._log_vars.append(log_var)

    def due(self) -> bool:
        waited = time.monotonic() - self._since
        return len(self._entries) >= COMMIT_ROWS or (bool(self._entries) and waited > self._limit)

    def commit(self) -> None:
        """Hand over what waits; returns at once, unless the commit before is not done yet."""
        self.settle()
        if self._entries:
            self._limit = COMMIT_SECONDS
            rows = self._rows()
            replaced = np.array([e.replaces for e in self._entries if e.replaces >= 0], np.int64)
            self._clear()
            self._last = self._thread.submit(self._write, rows, replaced)

    def settle(self) -> None:
        """Wait until what was handed over is committed.

        Raises
        ------
        LatentDBError
            If it could not be.
        """
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def close(self) -> None:
        """Commit the rest, and wait for it."""
        try:
            self.commit()
            self.settle()
        finally:
            self._thread.shutdown()

    def _rows(self) -> Rows:
        entries = self._entries
        keys = sorted({key for entry in entries for key in entry.metadata})
        columns = make_columns(
            {key: [entry.metadata.get(key) for entry in entries] for key in keys}, len(entries)
        )
        return Rows(
            ids=[entry.file.id for entry in entries],
            z_mean=np.concatenate(self._means),
            z_log_var=np.concatenate(self._log_vars) if self._log_vars else None,
            paths=[entry.file.path for entry in entries],
            facts=FileFacts(
                np.array([entry.file.size for entry in entries], np.int64),
                np.array([entry.file.mtime_ns for entry in entries], np.int64),
                np.array([entry.digest for entry in entries], np.uint64),
            ),
            columns={key: column.cast(self._kinds[key], key) for key, column in columns.items()},
        )

    def _write(self, rows: Rows, replaced: Ints) -> None:
        self._writer.append(rows, replaced)
        if is_due(self._writer.snapshot):
            compact(self._writer, everything=False)


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
    check_log_var(writer.snapshot, codec.config.has_z_log_var)
    kinds = _kinds(writer.snapshot.manifest.columns, table, labels_from_folders)
    source = ImagePlanner(
        writer.snapshot,
        codec.config.preprocessing,
        table=table,
        labels_from_folders=labels_from_folders,
        sources=sources,
    )
    pending = _Pending(writer, kinds)
    total = _Total(sources) if report is not None else None
    added = updated = unchanged = matched = 0
    bad: list[BadFile] = []
    try:
        with read_ahead(source, sources) as batches:
            for batch in batches:
                if strict and batch.bad:
                    raise ImageError(batch.bad[0].path, batch.bad[0].reason)
                bad += batch.bad
                unchanged += batch.unchanged
                matched += batch.matched
                _encode(batch, pending, source.snapshot, codec)
                replacing = sum(entry.replaces >= 0 for entry in batch.entries)
                added += len(batch.entries) - replacing
                updated += replacing + len(batch.kept)
                if pending.due():
                    pending.commit()
                if report is not None and total is not None:
                    done = added + updated + unchanged + len(bad)
                    report(Progress("indexing", done, total.count, len(bad)))
    finally:
        if total is not None:
            total.stop()
        pending.close()
    unmatched = 0 if table is None else max(0, len(table.rows) - matched)
    seconds = time.monotonic() - start
    rows = len(writer.snapshot)
    return IndexReport(added, updated, unchanged, tuple(bad), unmatched, rows, seconds)


def _encode(batch: Batch, pending: _Pending, snapshot: Snapshot, codec: Codec) -> None:
    if batch.entries:
        pending.add(batch.entries, *codec.encode(batch.pixels))
    if batch.kept:
        rows = np.array([entry.replaces for entry in batch.kept], np.int64)
        log_vars = snapshot.log_vars(rows) if codec.config.has_z_log_var else None
        pending.add(batch.kept, snapshot.vectors(rows), log_vars)


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


class _Total:
    """Counts the files in a thread of its own, so that the first need not wait."""

    def __init__(self, sources: Sequence[str | os.PathLike[str]]) -> None:
        self.count: int | None = None
        self._sources = sources
        self._stop = threading.Event()
        threading.Thread(target=self._run, name="latentdb-count", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        total = count_candidates(self._sources, self._stop.is_set)
        if not self._stop.is_set():
            self.count = total
