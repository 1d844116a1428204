"""What every class of the battery works on: small stores, operations, and the promise.

The content of a store is modelled as ``{id: version}``; vector and metadata of a
row follow from the two, so that a mixed or a stale row cannot go unnoticed.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import xxhash
from numpy.typing import NDArray

from latentdb.base.files import check_file
from latentdb.database import LatentDB
from latentdb.store import versions
from latentdb.store.lock import INDEX_LOCK, LOCK
from latentdb.store.manifest import FOLDERS, HISTORY, MANIFEST, PREVIOUS
from latentdb.store.store import Store
from latentdb.verify import verify

DIM = 8
LONGEST = 60.0  # seconds that a question may take; scripts/battery, on a quiet machine, allows 1
LOCKS = {LOCK, INDEX_LOCK}
State = dict[str, int]


class BrokenPromise(AssertionError):
    """The store did what it must never do."""


@dataclass
class Summary:
    """What a class found; printed as one line."""

    name: str
    cases: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    longest: list[float] = field(default_factory=lambda: [0.0, 0.0])
    started: float = field(default_factory=time.monotonic)

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def add(self, part: Mapping[str, Any]) -> None:
        """Take in what another process found: `asdict` of its summary."""
        self.cases += part["cases"]
        self.broken += part["broken"]
        for what, times in part["counts"].items():
            self.counts[what] = self.counts.get(what, 0) + times
        self.longest = [max(pair) for pair in zip(self.longest, part["longest"], strict=True)]

    def case(self, told: str, run: Callable[[], str | None]) -> None:
        """Run a case; a broken promise or a foreign exception in it is kept and told."""
        self.cases += 1
        computed, started = time.process_time(), time.perf_counter()
        try:
            outcome = run()
        except Exception as error:  # noqa: BLE001 - whatever escapes is the finding
            self.broken.append(f"{told}: {type(error).__name__}: {error}")
        else:
            self.count(outcome or "held")
        took = [time.process_time() - computed, time.perf_counter() - started]
        self.longest = [max(pair) for pair in zip(self.longest, took, strict=True)]

    def line(self) -> str:
        found = ", ".join(f"{what} {count}" for what, count in sorted(self.counts.items()))
        parts = [found, *self.notes, f"broken {len(self.broken)}"]
        told = "; ".join(part for part in parts if part)
        took = time.monotonic() - self.started
        return f"{self.name} | {self.cases} | {told} ({took:.0f} s)"


@dataclass(frozen=True)
class Op:
    """One operation of a writer: ``add``, ``replace``, ``delete``, ``compact`` or ``optimize``."""

    kind: str
    ids: tuple[str, ...] = ()
    version: int = 0

    def after(self, state: Mapping[str, int]) -> State:
        """The content after it."""
        if self.kind == "delete":
            return {name: version for name, version in state.items() if name not in self.ids}
        return {**state, **dict.fromkeys(self.ids, self.version)}

    def apply(self, db: LatentDB) -> None:
        if self.kind in ("add", "replace"):
            versions = [self.version] * len(self.ids)
            db.add(
                self.ids,
                vectors(self.ids, versions),
                metadata=metadata(self.ids, versions),
                on_conflict="replace" if self.kind == "replace" else "error",
            )
        elif self.kind == "delete":
            db.delete(list(self.ids))
        elif self.kind == "compact":
            db.compact()
        else:
            db.optimize()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> Op:
        return cls(item["kind"], tuple(item["ids"]), item["version"])


@lru_cache(100_000)
def _vector(name: str, version: int) -> bytes:
    seed = xxhash.xxh3_64_intdigest(f"{name} {version}".encode())
    values = np.random.default_rng(seed).normal(size=DIM).astype("<f4")
    return values.tobytes()


def vectors(names: Sequence[str], versions: Sequence[int]) -> NDArray[np.float32]:
    data = b"".join(_vector(name, version) for name, version in zip(names, versions, strict=True))
    return np.frombuffer(data, "<f4").reshape(-1, DIM)


def metadata(names: Sequence[str], versions: Sequence[int]) -> dict[str, list[Any]]:
    return {
        "version": list(versions),
        "tag": [f"{name}-{version % 7}" for name, version in zip(names, versions, strict=True)],
        "odd": [True if version % 2 else None for version in versions],
    }


def _expected(name: str, version: int) -> dict[str, Any]:
    given = metadata([name], [version])
    return {key: values[0] for key, values in given.items() if values[0] is not None}


def in_time(run: Callable[[], str]) -> str:
    """Run something that must not hang.

    It may compute for `LONGEST`.  Waiting is given ten times as long, because a
    busy machine makes everything wait; what waits for a lock waits for ever.
    """
    computed, started = time.process_time(), time.perf_counter()
    outcome = run()
    computed, took = time.process_time() - computed, time.perf_counter() - started
    if computed > LONGEST or took > 10 * LONGEST:
        raise BrokenPromise(f"computed for {computed:.1f} s, took {took:.1f} s")
    return outcome


class Generator:
    """Random operations that fit a content."""

    def __init__(self, seed: int, kinds: Sequence[str], *, most: int = 300, batch: int = 40):
        self.random = random.Random(seed)
        self.kinds, self.most, self.batch = kinds, most, batch
        self.version = 0

    def next(self, state: Mapping[str, int]) -> Op:
        draw = self.random
        self.version += 1
        kind = draw.choice(self.kinds)
        if len(state) > self.most:
            kind = "delete"
        if kind in ("delete", "replace") and len(state) < 4:
            kind = "add"
        size = draw.randint(1, self.batch)
        names = sorted(state)
        if kind == "add":
            new = tuple(f"r{self.version}.{number}" for number in range(size))
            return Op("add", new, self.version)
        if kind == "replace":
            old = draw.sample(names, min(size, len(names) // 2))
            return Op("replace", (*old, f"r{self.version}.new"), self.version)
        if kind == "delete":
            share = len(names) // 2 if len(state) > self.most else min(size, len(names) // 2)
            return Op("delete", tuple(draw.sample(names, share)), self.version)
        return Op(kind, (), self.version)


@contextmanager
def small(*, grace: float = -1, index_above: int = 100) -> Iterator[None]:
    """Make everything happen early: segments of a few rows, an index of a hundred."""
    changes: dict[str, dict[str, Any]] = {
        "latentdb.ann.plan": {"EXACT_ROWS": index_above},
        "latentdb.ann.tuning": {"QUERIES": 20},
        "latentdb.store.writer": {"GRACE_SECONDS": grace, "SEGMENT_BYTES": 1024},
        "latentdb.store.compaction": {
            "MOST_SEGMENTS": 8,
            "_LEAST_ROWS": 50,
            "SEGMENT_BYTES": 32768,
        },
    }
    with ExitStack() as stack:
        for module, values in changes.items():
            stack.enter_context(mock.patch.multiple(module, **values))
        yield


@contextmanager
def workshop() -> Iterator[Path]:
    """A folder for the stores of a class, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="battery-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make(path: Path, ops: Sequence[Op] = ()) -> State:
    """A store in which some operations were done; recall is low so that an index always pays."""
    state: State = {}
    with LatentDB.create(path, dim=DIM, recall=0.05) as db:
        for op in ops:
            op.apply(db)
            state = op.after(state)
    return state


def names(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{number}" for number in range(count))


def scenarios() -> dict[str, tuple[list[Op], Op]]:
    """What is done to a store before, and the operation under test."""
    few = [Op("add", names("a", 30), 1), Op("replace", (*names("a", 5), "b"), 2)]
    holes = [*few, Op("delete", names("a", 12), 3), Op("add", names("c", 20), 4)]
    many = [Op("add", names("a", 90), 1), Op("delete", names("a", 10), 2)]
    indexed = [*many, Op("add", names("d", 60), 3)]
    return {
        "add": (few, Op("add", names("n", 70), 9)),
        "add to none": ([], Op("add", names("n", 3), 9)),
        "replace": (few, Op("replace", (*names("a", 20), "new"), 9)),
        "delete": (few, Op("delete", names("a", 15), 9)),
        "compact": (holes, Op("compact")),
        "add and index": (many, Op("add", names("n", 50), 9)),
        "optimize": (indexed, Op("optimize")),
        "delete indexed": (indexed, Op("delete", names("a", 80)[10:], 9)),
        "compact indexed": ([*indexed, Op("delete", names("d", 30), 8)], Op("compact")),
        "replace indexed": (indexed, Op("replace", names("d", 40), 9)),
    }


def held(path: Path) -> State:
    """The content of a store; every vector and every metadata value is compared."""
    snapshot = Store.open(path).snapshot()
    rows = snapshot.live_rows()
    found = snapshot.ids(rows)
    if len(set(found)) != len(found) or len(found) != len(snapshot):
        raise BrokenPromise(f"{len(found)} ids, {len(set(found))} different, {len(snapshot)} rows")
    told = snapshot.metadata(rows)
    state = {}
    for name, values in zip(found, told, strict=True):
        version = values.get("version")
        if not isinstance(version, int) or values != _expected(name, version):
            raise BrokenPromise(f"{name} has metadata {values}")
        state[name] = version
    if found:
        expected = vectors(found, list(state.values()))
        if not np.array_equal(snapshot.vectors(rows), expected):
            raise BrokenPromise("a vector is not the one of its id and version")
        if not np.array_equal(snapshot.find(found), rows):
            raise BrokenPromise("looking ids up gives other rows")
    return state


def check(path: Path, allowed: Sequence[State], *, write: bool = True) -> int:
    """Hold a store to its promise after a fault.

    Parameters
    ----------
    path
        Of the store, which no process has open.
    allowed
        The contents it may have.
    write
        Whether the next writer is tried too; it adds and deletes a row.

    Returns
    -------
    int
        Which of `allowed` it has.
    """
    state = held(path)
    if state not in allowed:
        sizes = [len(each) for each in allowed]
        raise BrokenPromise(f"it holds {len(state)} rows, none of the allowed {sizes}")
    report = verify(path)
    if report.problems:
        raise BrokenPromise(f"verify: {report.problems[0].file} {report.problems[0].what}")
    check_previous(path)
    if write:
        with LatentDB.open(path) as db:
            Op("add", ("the next",), 1).apply(db)
            if held(path) != {**state, "the next": 1}:
                raise BrokenPromise("the next writer's row is not there")
            Op("delete", ("the next",)).apply(db)
            if held(path) != state:
                raise BrokenPromise("the next writer changed more than its row")
    return allowed.index(state)


def check_previous(path: Path) -> None:
    """The version before, where there is one, is whole: a repair could go back to it."""
    if (path / PREVIOUS).exists():
        for entry in versions.read_previous(path).files():
            check_file(path / entry.name, entry.bytes, entry.checksum)


def check_goes_back(path: Path) -> None:
    """A repair of a store whose manifest is damaged goes back to the version before."""
    if not (path / PREVIOUS).exists():
        return
    expected = _rows_of(Store.open(path, version=versions.read_previous(path).version))
    (path / MANIFEST).write_bytes(b"damaged")
    report = verify(path, repair=True)
    if [problem.file for problem in report.problems] != [MANIFEST]:
        raise BrokenPromise(f"repaired {report.problems}")
    if _rows_of(Store.open(path)) != expected or verify(path).problems:
        raise BrokenPromise("a repair did not go back to the version before")


def _rows_of(store: Store) -> dict[str, list[float]]:
    snapshot = store.snapshot()
    rows = snapshot.live_rows()
    return dict(zip(snapshot.ids(rows), snapshot.vectors(rows).tolist(), strict=True))


def check_garbage_collected(path: Path) -> None:
    """The next writer leaves nothing that no version names (the grace must be over)."""
    store = Store.open(path)
    with store.writer() as writer:
        writer.collect_garbage()
        named = writer.snapshot.manifest.file_names() | {MANIFEST}
        if (path / PREVIOUS).exists():
            named |= versions.read_previous(path).file_names() | {PREVIOUS}
    found = {str(item.relative_to(path)) for item in path.rglob("*") if item.is_file()} - LOCKS
    if found != named:
        raise BrokenPromise(f"left behind: {sorted(found ^ named)[:3]}")
    if {item.name for item in path.iterdir()} - {*FOLDERS, HISTORY, MANIFEST, PREVIOUS, *LOCKS}:
        raise BrokenPromise("something is left beside the manifest")


class Bases:
    """The store of each scenario before its operation, made once and copied for each case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[str, State] = {}
        self._number = 0

    def copy(self, name: str) -> tuple[Path, State, Op]:
        """A fresh copy: its path, its content, and the operation under test."""
        before, op = scenarios()[name]
        base = self.folder / ("base " + name)
        if name not in self._made:
            self._made[name] = make(base, before)
        self._number += 1
        path = self.folder / f"case {self._number}"
        shutil.copytree(base, path)
        return path, self._made[name], op
