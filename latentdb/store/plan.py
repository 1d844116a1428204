"""The plan of a run that many processes share: which rows and which segment each task makes.

It lies in the folder ``plan`` of the store and belongs to no version.  The plan is durable
before the first task begins, so that a run that was killed is resumed from the disk alone:

plan/PLAN.json                    the tasks: input, digest of the input, segment, row numbers
plan/inputs                       what the tasks are made of
plan/PLAN-TASK-EPOCH-ATTEMPT.json a receipt: a task is finished, and its segments are durable

Each run that goes on with a plan raises its epoch, and each attempt at a task has a number.
Both are in the names of segments and receipts, so that a process of an earlier run, or one
that was thought dead, writes beside its successor and is never taken for it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from latentdb.base.errors import (
    CorruptStoreError,
    InvalidInputError,
    LatentDBError,
    NotFoundError,
    StoreError,
)
from latentdb.base.files import (
    check_file,
    checksum,
    make_folder,
    open_folder,
    os_reason,
    read_limited,
    replace_atomically,
    sync,
    sync_folder,
    try_remove,
    unwritable,
    write_all,
)
from latentdb.store.manifest import (
    MAX_BYTES,
    MAX_ROW,
    PLAN,
    SegmentEntry,
    parse_segment,
    unique_name,
)

_FORMAT = 1
_FILE = "PLAN.json"
_INPUTS = "inputs"
_RECEIPT = re.compile(r"([0-9a-f]{32})-([0-9]{1,9})-([0-9]{1,9})-([0-9]{1,9})\.json\Z")
_NAME = re.compile(r"[0-9a-f]{32}\Z")
MAX_INPUT = 1 << 30  # bytes of the input of one task


@dataclass(frozen=True)
class Task:
    """One task of a plan.

    Attributes
    ----------
    first_row, rows
        The row numbers that are reserved for it.
    segment
        What the names of its segments begin with.
    offset, bytes, digest
        Where its input is in the file of inputs, and the checksum of that.
    """

    first_row: int
    rows: int
    segment: str
    offset: int
    bytes: int
    digest: str


@dataclass(frozen=True)
class Plan:
    """The tasks of a run, in the order of their rows.

    Attributes
    ----------
    name
        32 hex digits, which the names of all its segments begin with.
    run
        Digest of what was asked for: another run does not go on with the plan.
    kind
        What the tasks are made of.
    epoch
        How many runs have worked on it.
    first_row
        Rows from this number on are its own: what it compares with are those before.
    tasks
        The tasks; their number is their place.
    types
        Type of every metadata key that was known when it was made.
    """

    name: str
    run: str
    kind: str
    epoch: int
    first_row: int
    tasks: tuple[Task, ...]
    types: Mapping[str, str]


@dataclass(frozen=True)
class Receipt:
    """What a task has written.

    Attributes
    ----------
    digest
        Of its input.
    segments
        Its segments, none if there was no row to write.
    types
        Type of every metadata key in them.
    replaced
        Numbers of the rows that its rows replace.
    """

    digest: str
    segments: tuple[SegmentEntry, ...]
    types: Mapping[str, str]
    replaced: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(entry.rows for entry in self.segments)


class PlanWriter:
    """Writes the inputs of tasks, then the plan itself.

    Parameters
    ----------
    root
        Folder of the store, whose lock is held.  A plan that is there is removed.
    """

    def __init__(self, root: Path) -> None:
        remove(root)
        make_folder(root / PLAN)
        self._root = root
        self._path = root / PLAN / _INPUTS
        self._size = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self._path, flags, 0o644)
        except OSError as error:
            raise unwritable(self._path, error) from error

    def add(self, data: bytes) -> int:
        """Append a part of an input; returns its size."""
        try:
            write_all(self._descriptor, data)
        except OSError as error:
            raise unwritable(self._path, error) from error
        self._size += len(data)
        return len(data)

    def close(self) -> None:
        os.close(self._descriptor)

    def commit(
        self,
        inputs: Sequence[tuple[int, int]],
        *,
        run: str,
        kind: str,
        first_row: int,
        types: Mapping[str, str],
    ) -> Plan:
        """Make the plan durable.

        Parameters
        ----------
        inputs
            Bytes of the input of each task, one after the other, and the rows it may make.
        run, kind, first_row, types
            As in `Plan`.

        Raises
        ------
        StoreError
            If it cannot be written.
        InvalidInputError
            If the store has no row numbers left.
        """
        try:
            sync(self._descriptor)
        except OSError as error:
            raise unwritable(self._path, error) from error
        name, tasks = unique_name(), []
        offset, row = 0, first_row
        for number, (size, rows) in enumerate(inputs):
            digest = checksum(_pread(self._descriptor, self._path, size, offset))
            tasks.append(Task(row, rows, f"{name}-{number}", offset, size, digest))
            offset, row = offset + size, row + rows
        if row > MAX_ROW:
            raise InvalidInputError(
                f"{self._root} has no row numbers left for {row - first_row:,} images"
            )
        plan = Plan(name, run, kind, 1, first_row, tuple(tasks), dict(types))
        _write(self._root / PLAN / _FILE, asdict(plan))
        sync_folder(self._root)
        return plan


def read(root: Path) -> Plan | None:
    """The plan of a store; None if there is none that can be read."""
    with suppress(LatentDBError, ValueError, KeyError, TypeError):
        body = _read(root / PLAN / _FILE)
        tasks = tuple(Task(**task) for task in body.pop("tasks"))
        plan = Plan(**body, tasks=tasks)
        if _NAME.match(plan.name) and all(
            task.segment == f"{plan.name}-{number}" and 0 <= task.bytes <= MAX_INPUT
            for number, task in enumerate(tasks)
        ):
            return plan
    return None


def next_epoch(root: Path, plan: Plan) -> Plan:
    """The plan with the next epoch, durably: what earlier runs still write is not looked at."""
    later = replace(plan, epoch=plan.epoch + 1)
    _write(root / PLAN / _FILE, asdict(later))
    return later


def read_input(root: Path, task: Task) -> bytes:
    """The input of a task.

    Raises
    ------
    CorruptStoreError, StoreError
        If it is damaged, or cannot be read.
    """
    path = root / PLAN / _INPUTS
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            data = _pread(descriptor, path, task.bytes, task.offset)
        finally:
            os.close(descriptor)
    except OSError as error:
        if isinstance(error, LatentDBError):
            raise
        raise StoreError(f"{path} cannot be read: {os_reason(error)}") from error
    if checksum(data) != task.digest:
        raise CorruptStoreError(
            f"{path} is damaged: delete the folder {root / PLAN}, and run latentdb index again"
        )
    return data


def _pread(descriptor: int, path: Path, size: int, offset: int) -> bytes:
    parts = []
    while size:
        try:
            part = os.pread(descriptor, size, offset)
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {os_reason(error)}") from error
        if not part:
            break
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)


def segment_name(task: Task, epoch: int, attempt: int, part: int) -> str:
    """The name of a segment of a task, without its ending: no other process has it."""
    return f"{task.segment}-{epoch}-{attempt}-{part}"


def write_receipt(root: Path, task: Task, epoch: int, attempt: int, receipt: Receipt) -> None:
    """Say that a task is finished, durably; its segments must be durable already.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    _write(root / PLAN / f"{task.segment}-{epoch}-{attempt}.json", asdict(receipt))


def read_receipts(root: Path, plan: Plan) -> dict[int, Receipt]:
    """Receipts of earlier epochs, by the numbers of tasks, whose segments are there and whole."""
    receipts: dict[int, Receipt] = {}
    names: list[str] = []
    with suppress(NotFoundError, StoreError), open_folder(root / PLAN) as at:
        names = os.listdir(at)
    for name in sorted(names):
        found = _RECEIPT.match(name)
        if found is None or found[1] != plan.name:
            continue
        number, epoch = int(found[2]), int(found[3])
        if epoch >= plan.epoch or number in receipts:
            continue
        with suppress(LatentDBError, ValueError, KeyError, TypeError, IndexError):
            task = plan.tasks[number]
            receipt = _receipt(_read(root / PLAN / name), task, f"{epoch}-{found[4]}")
            for entry in receipt.segments:
                check_file(root / entry.file.name, entry.file.bytes, entry.file.checksum)
            receipts[number] = receipt
    return receipts


def _receipt(body: dict[str, Any], task: Task, attempt: str) -> Receipt:
    """A receipt as it was parsed; ValueError if it is not one of an attempt at a task."""
    segments = tuple(parse_segment(item) for item in body["segments"])
    row = task.first_row
    for part, entry in enumerate(segments):
        expected = f"segments/{task.segment}-{attempt}-{part}.h5"
        if entry.file.name != expected or entry.first_row != row:
            raise ValueError("it is not a segment of this task")
        row = entry.last_row + 1
    if body["digest"] != task.digest or row > task.first_row + task.rows:
        raise ValueError("it is not of this task")
    types = {str(key): str(type_) for key, type_ in body["types"].items()}
    return Receipt(body["digest"], segments, types, tuple(map(int, body["replaced"])))


def segment_names(root: Path) -> set[str]:
    """Names of the segments of a plan that is there, finished or not: they are no garbage."""
    plan = read(root)
    if plan is None:
        return set()
    with suppress(OSError):
        return {
            f"segments/{name}"
            for name in os.listdir(root / "segments")
            if name.startswith(f"{plan.name}-")
        }
    return set()


def remove(root: Path) -> None:
    """Remove the plan; segments of it that no version names are garbage from then on.

    Raises
    ------
    StoreError
        If the removal cannot be made durable.
    """
    folder = root / PLAN
    if not os.path.lexists(folder):
        return
    try_remove(folder / _FILE)
    sync_folder(folder)  # a power cut must not bring back a plan without its inputs
    shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, body: dict[str, Any]) -> None:
    text = json.dumps(body, separators=(",", ":"))
    document = {"format": "latentdb plan", "format_version": _FORMAT, "body": text}
    document["checksum"] = checksum(text.encode())
    replace_atomically(path, json.dumps(document).encode())


def _read(path: Path) -> dict[str, Any]:
    """The body of a file that `_write` wrote; ValueError, KeyError or TypeError for another."""
    document = json.loads(read_limited(path, MAX_BYTES).decode())
    text = document["body"]
    if document["format_version"] != _FORMAT or document["checksum"] != checksum(text.encode()):
        raise ValueError("its checksum does not match")
    body: dict[str, Any] = json.loads(text)
    return body
