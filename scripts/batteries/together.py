"""Processes at work together: readers that must never see a mixed version, writers that contend.

In the first store all rows are of one version, and every answer is exact.  The
second has so many other rows besides that a search index is built, used and
built again: an answer by it may lack a row, but never be wrong.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from batteries.world import DIM, BrokenPromise, Summary, workshop
from latentdb.base.errors import LatentDBError, LockedError
from latentdb.database import LatentDB
from latentdb.verify import verify

ROWS = 40
OTHERS = 24_000  # rows that never change: enough for an index above so many:
_INDEX_ABOVE = 20_000  # fewer than by default, so that many are built in the time
MOST_MISSING = 0.05  # share of rows that answers by an index may lack; its target is 0.01
_STEP = 1 / 64  # of a version; exact in binary
_NAMES = [f"row{number}" for number in range(ROWS)]
_ACKNOWLEDGED = "acknowledged"
Totals = dict[str, int]


def _batch(version: int, rows: int = ROWS) -> NDArray[np.float32]:
    """The first component of each vector tells its version, the second its place."""
    vectors = np.zeros((rows, DIM), np.float32)
    vectors[:, 0] = version * _STEP
    vectors[:, 1] = np.arange(rows)
    return vectors


def _others(count: int) -> NDArray[np.float32]:
    """Vectors far from those of any version."""
    vectors = np.random.default_rng(0).normal(0, 10, (count, DIM)).astype(np.float32)
    vectors[:, 2] += 1000
    return vectors


def _write(path: Path, until: float, seed: int, others: int) -> Totals:
    """Replace all rows by the next version, over and over; delete the second half at times."""
    draw = random.Random(seed)
    note = path.parent / _ACKNOWLEDGED
    totals = {"commits": 0, "compactions": 0, "indexes": 0}
    version, index = 0, ""
    with LatentDB.open(path) as db:
        while time.time() < until:
            version += 1
            metadata = {"version": [version] * ROWS}
            db.add(_NAMES, _batch(version), metadata=metadata, on_conflict="replace")
            totals["commits"] += 1
            temporary = note.with_suffix(".new")
            temporary.write_text(str(version))
            temporary.rename(note)
            if draw.random() < 0.2:
                db.delete(_NAMES[ROWS // 2 :])
                totals["commits"] += 1
            if draw.random() < 0.05:
                db.compact()
                totals["compactions"] += 1
            if others:
                if draw.random() < 0.01:
                    db.optimize()
                entry = db.info().index
                if entry is None:
                    raise BrokenPromise("there is no index")
                totals["indexes"] += entry.file.name != index
                index = entry.file.name
    return totals


class _Asker:
    """Asks one question after the other; every answer must be of one version."""

    def __init__(self, path: Path, others: int) -> None:
        self.path = path
        self.db = LatentDB.open(path)
        self.others = _others(others)
        self.totals = {"answers": 0, "by index": 0, "expected": 0, "missing": 0}

    def again(self) -> None:
        """Open the store anew."""
        self.db.close()
        self.db = LatentDB.open(self.path)

    def ask(self, way: int, acknowledged: int) -> int:
        """Ask one question; give the version the answer is of."""
        ways = (self._average, self._query, self._vectors)
        if len(self.others) and way == len(ways):
            self._other()
            way = 1
        rows, versions = ways[way]()
        self.totals["answers"] += 1
        if len(versions) != 1 or rows not in (ROWS, ROWS // 2):
            raise BrokenPromise(f"{rows} rows of versions {sorted(versions)}")
        version = versions.pop()
        if version < acknowledged:
            raise BrokenPromise(f"version {version} after {acknowledged} was acknowledged")
        return version

    def _average(self) -> tuple[int, set[int]]:
        average = self.db.average(where="version >= 0")
        version = round(float(average.vector[0]) / _STEP)
        expected = _batch(version, average.rows).mean(axis=0)
        if not np.allclose(average.vector, expected, rtol=0, atol=_STEP / 10):
            raise BrokenPromise(f"an average of several versions: {average}")
        return average.rows, {version}

    def _query(self) -> tuple[int, set[int]]:
        # By id: a query by a vector compares every row, and this is about the index too.
        found = self.db.query(_NAMES[0], k=2 * ROWS)
        own = next((match for match in found.matches if match.id == _NAMES[0]), None)
        if own is None:
            raise BrokenPromise(f"{_NAMES[0]} does not find itself")
        origin = np.zeros(DIM)
        origin[0] = int(str(own.metadata["version"])) * _STEP
        if len({match.id for match in found.matches}) != len(found.matches):
            raise BrokenPromise("an id twice")
        versions, names = set(), set()
        for match in found.matches:
            if match.id.startswith("other"):
                length = float(np.linalg.norm(self.others[int(match.id[5:])] - origin))
            else:
                names.add(match.id)
                version = int(str(match.metadata["version"]))
                versions.add(version)
                length = float(np.hypot(version * _STEP - origin[0], _NAMES.index(match.id)))
            if abs(match.distance - length) > 1e-4 * max(1, length):
                raise BrokenPromise(f"distance {match.distance}, not {length}, of {match}")
        rows = len(names)
        if not found.exact:
            # Half of the rows may be deleted, but the others are always there.
            missing = sum(name not in names for name in _NAMES[: ROWS // 2])
            self.totals["by index"] += 1
            self.totals["expected"] += ROWS // 2
            self.totals["missing"] += missing
            rows = ROWS
            if len(found.matches) < 2 * ROWS or not names:
                raise BrokenPromise(f"{len(found.matches)} matches, {len(names)} of them near")
        return rows, versions

    def _vectors(self) -> tuple[int, set[int]]:
        # Half of the rows may be deleted, but these are always there.
        vectors = self.db.vectors(_NAMES[: ROWS // 2])
        if not np.array_equal(vectors[:, 1], np.arange(ROWS // 2)):
            raise BrokenPromise("vectors of other rows")
        return ROWS, {round(float(value) / _STEP) for value in vectors[:, 0]}

    def _other(self) -> None:
        """A row that never changed is its own neighbour."""
        number = random.randrange(len(self.others))
        found = self.db.query(self.others[number], k=1).matches
        if [match.id for match in found] != [f"other{number}"] or found[0].distance > 1e-3:
            raise BrokenPromise(f"other{number} is not its own neighbour: {found}")


def _read(path: Path, until: float, seed: int, others: int) -> Totals:
    """Ask until the time is over; versions never go back."""
    draw = random.Random(seed)
    note = path.parent / _ACKNOWLEDGED
    last = 0
    asker = _Asker(path, others)
    while time.time() < until:
        if draw.random() < 0.05:
            asker.again()
        last = asker.ask(draw.randrange(4 if others else 3), max(last, int(note.read_text())))
    return asker.totals


def _contend(path: Path, commits: int, seed: int) -> Totals:
    """Commit so many batches against another writer."""
    locked = 0
    with LatentDB.open(path) as db:
        for number in range(commits):
            while True:
                try:
                    db.add([f"{seed}.{number}"], _batch(number, 1), metadata={"who": [seed]})
                except LockedError:
                    locked += 1
                    time.sleep(0.001)
                else:
                    break
    return {"locked": locked}


def _start(
    what: str, path: Path, amount: float, seed: int, others: int = 0
) -> subprocess.Popen[str]:
    here = str(Path(__file__).resolve().parent.parent)
    words = [
        sys.executable,
        "-m",
        "batteries.together",
        what,
        str(path),
        str(amount),
        str(seed),
        str(others),
    ]
    return subprocess.Popen(
        words,
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )


def _ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, told = process.communicate()
    if process.returncode:
        last = told.strip().splitlines()[-1:]
        raise BrokenPromise(f"exit {process.returncode}: {last}")
    result: dict[str, Any] = json.loads(out)
    return result


def _readers(
    summary: Summary, folder: Path, seconds: float, readers: int, seed: int, others: int = 0
) -> None:
    """A writer among readers, on a store with so many rows besides."""
    folder.mkdir()
    path = folder / "read.ldb"
    above = mock.patch("latentdb.ann.plan.EXACT_ROWS", _INDEX_ABOVE)
    with above, LatentDB.create(path, dim=DIM) as db:
        if others:
            db.add([f"other{number}" for number in range(others)], _others(others))
        db.add(_NAMES, _batch(0), metadata={"version": [0] * ROWS})
    (folder / _ACKNOWLEDGED).write_text("0")
    writer = _start("write", path, seconds, seed, others)
    processes = [
        _start("read", path, seconds, seed + 1 + number, others) for number in range(readers)
    ]
    totals: Totals = {}
    for process in [writer, *processes]:
        with suppress(BrokenPromise):
            for what, count in _outcome(summary, process).items():
                totals[what] = totals.get(what, 0) + count
    summary.cases += totals.get("answers", 0)
    told = (
        f"{seconds:.0f} s: {totals.get('commits')} commits, "
        f"{totals.get('compactions')} explicit compactions, "
        f"{totals.get('answers')} answers of {readers} readers"
    )
    if others:
        expected, missing = totals.get("expected", 0), totals.get("missing", 0)
        told += (
            f", {totals.get('by index')} of them by {totals.get('indexes')} indexes in turn, "
            f"which lacked {missing} of {expected} rows"
        )
        if not expected or missing > MOST_MISSING * expected:
            summary.broken.append(f"answers by an index lack rows: {told}")
    summary.notes.append(told)
    summary.case("verify afterwards", lambda: _verified(path))


def _outcome(summary: Summary, process: subprocess.Popen[str]) -> dict[str, Any]:
    try:
        return _ended(process)
    except BrokenPromise as error:
        summary.broken.append(str(error))
        raise


def _verified(path: Path) -> str:
    problems = verify(path).problems
    if problems:
        raise BrokenPromise(str(problems[0]))
    return "verified"


def _writers(summary: Summary, folder: Path, commits: int, seed: int) -> None:
    path = folder / "write.ldb"
    LatentDB.create(path, dim=DIM).close()
    processes = [_start("contend", path, commits, seed + number) for number in range(2)]
    locked = 0
    for process in processes:
        with suppress(BrokenPromise):
            locked += _outcome(summary, process)["locked"]
    summary.notes.append(f"2 writers x {commits} commits, {locked} times locked")

    def all_there() -> str:
        with LatentDB.open(path) as db:
            expected = {f"{seed + who}.{number}" for who in range(2) for number in range(commits)}
            if set(db.ids()) != expected or len(db) != len(expected):
                raise BrokenPromise(f"{len(db)} rows of {len(expected)}")
        return _verified(path)

    summary.case("both writers' rows", all_there)
    summary.cases += 2 * commits


def run(
    seconds: float = 600,
    *,
    indexed: float = 600,
    readers: int = 8,
    commits: int = 500,
    seed: int = 1,
) -> Summary:
    """The class `concurrency`: a writer among readers, without and with an index; two writers."""
    summary = Summary("concurrency")
    with workshop() as folder:
        _readers(summary, folder / "exact", seconds, readers, seed)
        _readers(summary, folder / "indexed", indexed, readers, seed + 100, OTHERS)
        _writers(summary, folder, commits, seed)
    return summary


def main(what: str, path: str, amount: str, seed: str, others: str) -> None:
    """In a child: do one part, and print what was done."""
    with (
        mock.patch("latentdb.ann.plan.EXACT_ROWS", _INDEX_ABOVE),
        mock.patch("latentdb.store.writer.GRACE_SECONDS", 0.5),
        mock.patch("latentdb.store.compaction.MOST_SEGMENTS", 20),
    ):
        if what == "contend":
            done = _contend(Path(path), int(float(amount)), int(seed))
        else:
            part = _write if what == "write" else _read
            done = part(Path(path), time.time() + float(amount), int(seed), int(others))
    print(json.dumps(done))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (LatentDBError, BrokenPromise) as error:
        sys.exit(f"{type(error).__name__}: {error}")
