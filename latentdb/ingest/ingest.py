"""Images to rows of a store: which are wanted, who encodes them, and what is reported.

A run that was killed resumes at its last commit: the next run finds the committed images
unchanged and skips them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from latentdb.base.errors import InvalidInputError
from latentdb.base.progress import Report
from latentdb.base.wording import quoted
from latentdb.images.selection import EVERYTHING, Selection
from latentdb.images.sources import split_sources
from latentdb.ingest.allowance import DEFAULT_ALLOWANCE, parse_allowance
from latentdb.ingest.archives import MemberPlanner
from latentdb.ingest.execution import Executor, LocalExecutor, Run
from latentdb.ingest.known_images import missing_rows
from latentdb.ingest.labels import FolderLabels
from latentdb.ingest.planner import ImagePlanner
from latentdb.ingest.report import IndexReport
from latentdb.ingest.roots import RootPlan, plan_roots
from latentdb.ingest.table import RowMatcher, Table, Unmatched
from latentdb.model.codec import Codec
from latentdb.store.columns import LABEL, Value
from latentdb.store.edits import free_columns
from latentdb.store.roots import Root
from latentdb.store.rows import Ints, Rows
from latentdb.store.segment import hash_ids
from latentdb.store.snapshot import Snapshot
from latentdb.store.writer import Writer

CONFLICTS = ("error", "skip", "replace")


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
    executor: Executor | None = None,
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
    executor
        What reads, encodes and commits; this process by default.

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
    if plan.recorded.all != writer.snapshot.manifest.roots:
        writer.set_roots(plan.recorded.all)
    run = Run(writer, codec, plan, archives, selection, strict=strict, report=report)
    executor = executor or LocalExecutor()
    executor.start(run)
    run.types = _column_types(writer, table, labels_from_folders)
    given = _given_condition(codec, run.types, condition, archives=bool(archives))
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
    executor.index_files(run, planner)
    # Planned anew: images of this run may have the ids or the contents of members.
    members = MemberPlanner(planner.at(writer.snapshot), archives, selection, run.types)
    if archives:
        executor.index_archives(run, members)
    counts = run.counts
    missing = _missing(planner, plan)
    if prune and len(missing):
        writer.delete(missing)
    if restore:
        known = planner.known, members.planner.known
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
            *executor.notes(),
        ),
        rows=len(writer.snapshot),
        seconds=time.monotonic() - start,
    )


def _missing(planner: ImagePlanner, plan: RootPlan) -> Ints:
    """Rows whose files were in the folders of a run, and are gone; also where a move took them."""
    folders = [source.path for source in plan.search.sources]
    for old, new in plan.moved:
        folders += [
            os.path.normpath(old + path[len(new) :]) for path in folders if Root(new).holds(path)
        ]
    rows = missing_rows(planner.snapshot, planner.found_rows(), folders)
    return np.fromiter(rows, np.int64)


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
