"""Images to rows: encode what was read and append it, with a commit every few seconds.

Reading (`latentdb.ingest.read_ahead`), encoding and writing run concurrently;
none is more than a few batches ahead of the next, so that memory does not grow
with the folder.  A run that was killed resumes at its last commit: the next run
finds the committed images unchanged and skips them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from latentdb.base.errors import ImageError, InvalidInputError
from latentdb.base.progress import Progress, Report
from latentdb.base.wording import quoted
from latentdb.images.discover import Search
from latentdb.images.selection import EVERYTHING, Selection
from latentdb.images.sources import split_sources
from latentdb.ingest.allowance import DEFAULT_ALLOWANCE, parse_allowance
from latentdb.ingest.archives import MemberPlanner, ahead
from latentdb.ingest.known_images import missing_rows
from latentdb.ingest.labels import FolderLabels
from latentdb.ingest.planner import Batch, ImagePlanner, PlannedRow
from latentdb.ingest.read_ahead import read_batches
from latentdb.ingest.report import Counts, IndexReport
from latentdb.ingest.roots import RootPlan, plan_roots
from latentdb.ingest.table import RowMatcher, Table, Unmatched
from latentdb.model.codec import Codec
from latentdb.store.columns import LABEL, Value, make_columns
from latentdb.store.compaction import compact_if_due
from latentdb.store.edits import free_columns
from latentdb.store.restamp import Stamp, restamp
from latentdb.store.roots import Root
from latentdb.store.rows import FileStats, Floats, Ints, Rows
from latentdb.store.segment import hash_ids
from latentdb.store.snapshot import Snapshot
from latentdb.store.writer import Writer

COMMIT_ROWS = 16_384
COMMIT_SECONDS = 5.0
FIRST_SECONDS = 0.5  # until the first commit, so that the store can be queried early
_MOST_STAMPS = 65_536  # of moved files in memory
CONFLICTS = ("error", "skip", "replace")


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
        self._planned: list[PlannedRow] = []
        self._means: list[Floats] = []
        self._log_vars: list[Floats] = []
        self._since = time.monotonic()

    def add(self, planned: Sequence[PlannedRow], z_mean: Floats, log_var: Floats | None) -> None:
        self._planned += planned
        self._means.append(z_mean)
        if log_var is not None:
            self._log_vars.append(log_var)

    def restamp(self, stamps: Mapping[int, Stamp]) -> None:
        """Give rows that are committed the stamps of their files, in the same thread."""
        self._wait()
        self._commit = self._thread.submit(restamp, self._writer, stamps)

    def is_due(self) -> bool:
        waited = time.monotonic() - self._since
        count = len(self._planned)
        return count >= COMMIT_ROWS or (count > 0 and waited > self._seconds)

    def start_commit(self) -> None:
        """Commit the waiting rows; returns at once, unless the previous commit is not done."""
        self._wait()
        if self._planned:
            self._seconds = COMMIT_SECONDS
            rows = self._rows()
            replaced = np.array([p.replaces for p in self._planned if p.replaces >= 0], np.int64)
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

    def _rows(self) -> Rows:
        planned = self._planned
        keys = sorted({key for row in planned for key in row.metadata})
        columns = make_columns(
            {key: [row.metadata.get(key) for row in planned] for key in keys}, len(planned)
        )
        types = self._column_types
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

    def _write(self, rows: Rows, replaced: Ints) -> None:
        self._writer.append(rows, replaced)
        compact_if_due(self._writer)


def index_images(
    writer: Writer,
    codec: Codec,
    sources: Sequence[str | os.PathLike[str]],
    *,
    table: Table | None = None,
    labels_from_folders: bool = False,
    selection: Selection = EVERYTHING,
    rehash: bool = False,
    restore: bool = False,
    prune: bool = False,
    strict: bool = False,
    allow_bad: int | str = DEFAULT_ALLOWANCE,
    condition: Value = None,
    report: Report | None = None,
) -> IndexReport:
    """Encode the new and changed images of folders into a store.

    A file is unchanged if its path, size and modification time are those of its
    row, or else if its content is.  Ctrl-C commits what is encoded and is raised
    again.

    Parameters
    ----------
    writer
        The store's writer.
    codec
        The store's model.
    sources
        Folders, image files, and archives of images: see `latentdb.images.sources`.
    table
        Metadata by the names of images.
    labels_from_folders
        Give each image the name of its topmost folder as ``label``, or of the folder it
        lies in if the topmost are only train, val, test and the like.
    selection
        Which files of the sources are wanted.
    rehash
        Compare the content of every file, even where path, size and time are those
        of its row.
    restore
        Take images in that were deleted from the store.
    prune
        Delete rows whose files were in the sources and are gone.
    strict
        Raise on the first bad file instead of skipping it.
    allow_bad
        Number of bad files, or share of all as ``"P%"``, beyond which the report
        says that the run failed.
    condition
        Of a conditional model: the value of all images, in place of their metadata.
    report
        Called with the progress.

    Raises
    ------
    ImageError
        With `strict`, for a bad file; rows that were committed stay.
    InvalidInputError
        If there are no images, or the metadata does not fit the store's columns.
    """
    start = time.monotonic()
    allowance = parse_allowance(allow_bad)
    files, archives = split_sources(sources)
    plan = plan_roots(writer.snapshot, files, selection)
    if not archives:
        plan.search.require_images()
    check_log_var(writer.snapshot, codec.config.has_z_log_var)
    types = _column_types(writer, table, labels_from_folders)
    given = _given_condition(codec, types, condition, archives=bool(archives))
    if plan.recorded.all != writer.snapshot.manifest.roots:
        writer.set_roots(plan.recorded.all)
    matcher = None if table is None else RowMatcher(table)
    labels = FolderLabels([root.path for root in plan.tops]) if labels_from_folders else None
    planner = ImagePlanner(
        writer.snapshot,
        codec.config.preprocessing,
        plan,
        matcher=matcher,
        labels=labels,
        rehash=rehash,
        restore=restore,
        condition=codec.config.condition,
        given=given,
    )
    counts = Counts()
    write = partial(_write_batches, writer, codec, types, counts, strict=strict, report=report)
    counter = _FileCounter(planner.search) if report is not None and not archives else None
    try:
        with read_batches(planner) as batches:
            write(planner.snapshot, batches, counter)
    finally:
        if counter is not None:
            counter.stop()
    # Planned anew: images of this run may have the ids or the contents of members.
    members = MemberPlanner(planner.at(writer.snapshot), archives, selection, types)
    with ahead(members.batches()) as batches:
        write(writer.snapshot, batches, None)
    missing = _missing(planner, plan)
    if prune and len(missing):
        writer.delete(missing)
    if restore:
        known = planner.known, members.known
        writer.unbury(
            set().union(*(each.restored_ids for each in known)),
            set().union(*(each.restored_contents for each in known)),
        )
    tally = planner.search.tally
    return IndexReport(
        added=counts.added,
        updated=counts.updated,
        unchanged=counts.unchanged,
        encoded=counts.encoded,
        renamed=counts.renamed,
        restamped=counts.restamped,
        deleted=counts.deleted,
        missing=tuple(planner.snapshot.ids(missing)),
        pruned=len(missing) if prune else 0,
        bad=tuple(counts.bad),
        conflicts=tuple(counts.conflicts),
        failed=bool(counts.conflicts) or not allowance.permits(len(counts.bad), counts.files),
        passed_over=dict(tally.passed_over.most_common()),
        excluded=tally.excluded,
        links=tuple(tally.links),
        vanished=tuple(counts.vanished),
        unmatched=Unmatched() if matcher is None else matcher.unmatched(),
        notes=(
            *plan.notes,
            *(table.notes if table else ()),
            *((labels.note(),) if labels else ()),
            *members.notes(),
        ),
        rows=len(writer.snapshot),
        seconds=time.monotonic() - start,
    )


def _write_batches(
    writer: Writer,
    codec: Codec,
    column_types: dict[str, str],
    counts: Counts,
    snapshot: Snapshot,
    batches: Iterator[Batch],
    counter: _FileCounter | None,
    *,
    strict: bool,
    report: Report | None,
) -> None:
    """Encode and commit what was planned against a snapshot."""
    pending = _PendingRows(writer, column_types)
    stamps: dict[int, Stamp] = {}
    try:
        for batch in batches:
            if strict and (wrong := batch.bad + batch.conflicts):
                raise ImageError(wrong[0].path, wrong[0].reason)
            _encode(batch, pending, snapshot, codec)
            counts.add(batch)
            stamps.update(batch.restamped)
            if len(stamps) >= _MOST_STAMPS:
                pending.restamp(stamps)
                stamps = {}
            if pending.is_due():
                pending.start_commit()
            if report is not None:
                total = None if counter is None else counter.total
                report(Progress("indexing", counts.files, total, len(counts.bad)))
        if stamps:
            pending.restamp(stamps)
    finally:
        pending.close()


def _missing(planner: ImagePlanner, plan: RootPlan) -> Ints:
    """Rows whose files were in the folders of a run, and are gone; also where a move took them."""
    folders = [source.path for source in plan.search.sources]
    for old, new in plan.moved:
        folders += [
            os.path.normpath(old + path[len(new) :]) for path in folders if Root(new).holds(path)
        ]
    rows = missing_rows(planner.snapshot, planner.found_rows(), folders)
    return np.fromiter(rows, np.int64)


def _encode(batch: Batch, pending: _PendingRows, snapshot: Snapshot, codec: Codec) -> None:
    if batch.images:
        metadata = [row.metadata for row in batch.images]
        pending.add(batch.images, *codec.encode(batch.pixels, metadata))
    if batch.reused:
        rows = np.array([row.source for row in batch.reused], np.int64)
        log_vars = snapshot.log_vars(rows) if codec.config.has_z_log_var else None
        pending.add(batch.reused, snapshot.vectors(rows), log_vars)


def add_rows(writer: Writer, rows: Rows, on_conflict: str) -> int:
    """Append ready-made rows in one commit.

    Parameters
    ----------
    writer
        The store's writer.
    rows
        The rows, validated.
    on_conflict
        For an id that is in the store: ``"error"``, ``"skip"`` or ``"replace"``.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    InvalidInputError
        If an id is in the store, or z_log_var or metadata does not fit the store's.
    """
    check_conflict_rule(on_conflict)
    free_columns(writer, {key: column.type for key, column in rows.columns.items()})
    snapshot = writer.snapshot
    check_log_var(snapshot, rows.z_log_var is not None)
    rows = replace(rows, hashes=hash_ids(rows.ids))  # the segment needs them too
    old = snapshot.locate(rows.ids, rows.hashes)
    check_conflicts(rows.ids, old, on_conflict)
    if on_conflict == "skip":
        rows, old = rows.take(np.flatnonzero(old < 0)), old[:0]
    if len(rows):
        writer.append(rows, old[old >= 0])
    return len(rows)


def check_conflict_rule(on_conflict: str) -> None:
    """Refuse what is none of `CONFLICTS`."""
    if on_conflict not in CONFLICTS:
        raise InvalidInputError(f"on_conflict {on_conflict!r} is unknown: use one of {CONFLICTS}")


def check_conflicts(ids: Sequence[str], rows: Ints, on_conflict: str) -> None:
    """Refuse ids that are in the store, under the rule ``"error"``.

    Parameters
    ----------
    ids, rows
        Ids, and their row numbers; -1 for those that are not in the store.
    """
    existing = np.flatnonzero(rows >= 0)
    if len(existing) and on_conflict == "error":
        raise InvalidInputError(
            f"id {ids[existing[0]]!r} ({len(existing)} in all) is in the store: "
            "pass on_conflict='skip' or 'replace'"
        )


def check_log_var(snapshot: Snapshot, given: bool) -> None:
    """Refuse to mix rows with z_log_var and rows without it in one store.

    Raises
    ------
    InvalidInputError
        If the store's rows have it and the given ones do not, or the reverse.
    """
    if snapshot.segments and snapshot.segments[0].has_log_var != given:
        raise InvalidInputError(
            "this store's rows have no z_log_var: leave it out, or use a new store"
            if given
            else "z_log_var is missing, and this store's rows have it: pass it too"
        )


def _column_types(writer: Writer, table: Table | None, labels_from_folders: bool) -> dict[str, str]:
    """Type of every metadata key, checked before the first row so that no run fails half-way."""
    given = {} if table is None else table.types
    if labels_from_folders:
        given = {LABEL: "str", **given}
    free_columns(writer, given)
    types = dict(writer.snapshot.manifest.columns)
    for key, type_ in given.items():
        expected = types.setdefault(key, type_)
        if expected != type_ and (type_, expected) != ("int", "float"):
            raise InvalidInputError(
                f"metadata {key!r} is {type_} here and {expected} in this store: "
                f"convert it, use another key, or run latentdb metadata DB retype {key} {type_}"
            )
    return types


def _given_condition(
    codec: Codec, types: dict[str, str], value: Value, *, archives: bool
) -> dict[str, Value]:
    """The metadata that gives all images of a run one condition; its column joins the types.

    Raises
    ------
    InvalidInputError
        If the value is none of the model's, or images can have none for lack of it.
    """
    condition = codec.config.condition
    if value is not None:
        codec.with_condition(value)  # refuses it
    if condition is None:
        return {}
    if value is None:
        if condition.key not in types and not archives:
            raise InvalidInputError(
                f"the model is conditional, and these images have no metadata "
                f"{quoted(condition.key)}: give it by --metadata FILE, --labels-from-folders or "
                f"--condition {condition.key}=VALUE"
            )
        return {}
    type_ = types.setdefault(condition.key, "str" if condition.categories else "float")
    kinds: dict[str, Callable[[Any], Value]] = {"str": str, "int": int, "float": float}
    try:
        return {condition.key: kinds[type_](value)}
    except (KeyError, ValueError) as error:
        raise InvalidInputError(
            f"condition {quoted(value)} does not fit the column {quoted(condition.key)} of this "
            f"store, which is {type_}"
        ) from error


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
