"""What a worker is asked to do, and what it answers: paths go there, and counts come back."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Protocol

from latentdb.base.errors import CorruptStoreError
from latentdb.images.discover import Candidate
from latentdb.images.selection import Selection
from latentdb.ingest.report import Counts
from latentdb.ingest.roots import RootPlan
from latentdb.store.columns import Value
from latentdb.store.plan import Receipt, Task
from latentdb.store.restamp import Stamp

FILES, ARCHIVES = "files", "archives"  # kinds of a plan
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Wanted:
    """An image file to encode, and its label and metadata."""

    candidate: Candidate
    values: dict[str, Value]


@dataclass(frozen=True)
class Context:
    """What all tasks of a plan have in common, in one run.

    Attributes
    ----------
    plan, kind, epoch, first_row
        Name of the plan, and its attributes.
    roots, selection, rehash, restore
        Of the run.
    """

    plan: str
    kind: str
    epoch: int
    first_row: int
    roots: RootPlan
    selection: Selection
    rehash: bool
    restore: bool


@dataclass(frozen=True)
class Order:
    """One attempt at a task.

    Attributes
    ----------
    number, task
        The task.
    attempt
        Different for every attempt of a run; the pool numbers them.
    types
        Type of every metadata key so far.
    context
        Of the plan.
    """

    number: int
    task: Task
    attempt: int
    types: Mapping[str, str]
    context: Context


@dataclass(frozen=True)
class TaskResult:
    """What a worker did; the rows themselves are in the segments.

    Attributes
    ----------
    receipt
        The segments.
    counts
        Images by what became of them.
    node
        The machine that did it.
    types
        Type of every metadata key, with those that the worker met first.
    deferred
        Files whose content may be that of a row whose file is gone: a renamed image, which
        is one for one process alone to decide.
    restamped
        New stamps of rows, by number.
    restored_ids, restored_contents
        Of deleted images that are taken in again: hashes and digests.
    excluded
        Images that the selection left out.
    left_out
        Values of archives that fit no column, by key.
    """

    receipt: Receipt
    counts: Counts
    node: str
    types: Mapping[str, str]
    deferred: tuple[Wanted, ...] = ()
    restamped: Mapping[int, Stamp] = field(default_factory=dict)
    restored_ids: frozenset[int] = frozenset()
    restored_contents: frozenset[int] = frozenset()
    excluded: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)


class Pool(Protocol):
    """Workers, and the orders that they have."""

    def submit(self, order: Order) -> None:
        """Give an order to the next worker that is free; one of a lower number goes first."""

    def results(self) -> Iterator[tuple[Order, TaskResult]]:
        """What the orders came to, as they are finished, until there is none; more may be given.

        Raises
        ------
        LatentDBError
            If a worker raised it, or an order cannot be finished.
        """

    def notes(self) -> Sequence[str]:
        """What happened to the workers, a sentence each."""


def pack(wanted: Sequence[Wanted]) -> bytes:
    """Image files as a part of the input of a task."""
    lines = [
        [each.candidate.id, each.candidate.path, each.candidate.source, each.values]
        for each in wanted
    ]
    data = zlib.compress(json.dumps(lines, default=_dated, separators=(",", ":")).encode(), 1)
    return _LENGTH.pack(len(data)) + data


def unpack(data: bytes) -> list[Wanted]:
    """The image files of the input of a task.

    Raises
    ------
    CorruptStoreError
        If it is none.
    """
    wanted = []
    try:
        while data:
            (size,) = _LENGTH.unpack_from(data)
            part, data = data[_LENGTH.size : _LENGTH.size + size], data[_LENGTH.size + size :]
            for name, path, source, values in json.loads(zlib.decompress(part)):
                plain = {key: _undated(value) for key, value in values.items()}
                wanted.append(Wanted(Candidate(str(name), str(path), int(source)), plain))
    except (ValueError, TypeError, struct.error, zlib.error) as error:
        raise CorruptStoreError(f"the input of a task cannot be read ({error})") from error
    return wanted


def _dated(value: Any) -> dict[str, str]:
    kind = "datetime" if isinstance(value, datetime) else "date"
    return {kind: value.isoformat()}


def _undated(value: Any) -> Value:
    if isinstance(value, dict):
        (kind, text) = next(iter(value.items()))
        return datetime.fromisoformat(text) if kind == "datetime" else date.fromisoformat(text)
    plain: Value = value
    return plain
