"""Processes at work together: readers that must never see a mixed version, writers that contend."""

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

from battery_parts.world import DIM, BrokenPromise, Summary, workshop
from latentdb.database import LatentDB
from latentdb.errors import LatentDBError, LockedError
from latentdb.verify import verify

ROWS = 40
_NAMES = [f"row{number}" for number in range(ROWS)]
_ACKNOWLEDGED = "acknowledged"


def _batch(version: int, rows: int = ROWS) -> NDArray[np.float32]:
    """The first component of each vector is its version, the second its place."""
    vectors = np.zeros((rows, DIM), np.float32)
    vectors[:, 0] = version
    vectors[:, 1] = np.arange(rows)
    return vectors


def _write(path: Path, until: float, seed: int) -> dict[str, Any]:
    """Replace all rows by the next version, over and over; delete the second half at times."""
    draw = random.Random(seed)
    note = path.parent / _ACKNOWLEDGED
    version = commits = compactions = 0
    with LatentDB.open(path) as db:
        while time.time() < until:
            version += 1
            metadata = {"version": [version] * ROWS}
            db.add(_NAMES, _batch(version), metadata=metadata, on_conflict="replace")
            commits += 1
            temporary = note.with_suffix(".new")
            temporary.write_text(str(version))
            temporary.rename(note)
            if draw.random() < 0.2:
                db.delete(_NAMES[ROWS // 2 :])
                commits += 1
            if draw.random() < 0.05:
                db.compact()
                compactions += 1
    return {"commits": commits, "compactions": compactions}


def _one_version(db: LatentDB, way: int, acknowledged: int) -> int:
    """Ask one question; give the version the answer is of."""
    if way == 0:
        average = db.average()
        rows = average.rows
        expected = _batch(round(float(average.vector[0])), rows).mean(axis=0)
        if not np.allclose(average.vector, expected, rtol=0, atol=1e-3):
            raise BrokenPromise(f"an average of several versions: {average}")
        versions = {round(float(average.vector[0]))}
    elif way == 1:
        matches = db.query(np.zeros(DIM, np.float32), k=2 * ROWS).matches
        rows = len(matches)
        versions = {int(str(match.metadata["version"])) for match in matches}
        for match in matches:
            place = _NAMES.index(match.id)
            length = np.hypot(int(str(match.metadata["version"])), place)
            if abs(match.distance - length) > 1e-3 * max(1, length):
                raise BrokenPromise(f"distance {match.distance} is not of {match}")
        if len({match.id for match in matches}) != rows:
            raise BrokenPromise("an id twice")
    else:
        # Half of the rows may be deleted, but these are always there.
        vectors = db.vectors(_NAMES[: ROWS // 2])
        rows, versions = ROWS, {int(version) for version in vectors[:, 0]}
    if rows not in (ROWS, ROWS // 2) or len(versions) != 1:
        raise BrokenPromise(f"{rows} rows of versions {sorted(versions)}")
    version = versions.pop()
    if version < acknowledged:
        raise BrokenPromise(f"version {version} after {acknowledged} was acknowledged")
    return version


def _read(path: Path, until: float, seed: int) -> dict[str, Any]:
    """Ask until the time is over; versions never go back."""
    draw = random.Random(seed)
    note = path.parent / _ACKNOWLEDGED
    answers, seen, last = 0, set(), 0
    db = LatentDB.open(path)
    while time.time() < until:
        if draw.random() < 0.05:
            db.close()
            db = LatentDB.open(path)
        version = _one_version(db, draw.randrange(3), max(last, int(note.read_text())))
        last = version
        seen.add(version)
        answers += 1
    return {"answers": answers, "versions": len(seen)}


def _contend(path: Path, commits: int, seed: int) -> dict[str, Any]:
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


def _start(what: str, path: Path, amount: float, seed: int) -> subprocess.Popen[str]:
    here = str(Path(__file__).resolve().parent.parent)
    words = [
        sys.executable,
        "-m",
        "battery_parts.together",
        what,
        str(path),
        str(amount),
        str(seed),
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


def _readers(summary: Summary, folder: Path, seconds: float, readers: int, seed: int) -> None:
    path = folder / "read.ldb"
    with LatentDB.create(path, dim=DIM) as db:
        db.add(_NAMES, _batch(0), metadata={"version": [0] * ROWS})
    (folder / _ACKNOWLEDGED).write_text("0")
    until = time.time() + seconds
    writer = _start("write", path, until, seed)
    processes = [_start("read", path, until, seed + 1 + number) for number in range(readers)]
    totals: dict[str, int] = {}
    for process in [writer, *processes]:
        with suppress(BrokenPromise):
            for what, count in _outcome(summary, process).items():
                totals[what] = totals.get(what, 0) + count
    summary.cases += totals.get("answers", 0)
    summary.notes.append(
        f"{totals.get('commits')} commits, {totals.get('compactions')} explicit compactions, "
        f"{totals.get('answers')} answers of {readers} readers"
    )
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


def run(seconds: float = 600, *, readers: int = 8, commits: int = 500, seed: int = 1) -> Summary:
    """The class `concurrency`: a writer among readers, then two writers."""
    summary = Summary("concurrency")
    with workshop() as folder:
        _readers(summary, folder, seconds, readers, seed)
        _writers(summary, folder, commits, seed)
    return summary


def main(what: str, path: str, amount: str, seed: str) -> None:
    """In a child: do one part, and print what was done."""
    with (
        mock.patch("latentdb.store.GRACE_SECONDS", 0.5),
        mock.patch("latentdb.compaction.MOST_SEGMENTS", 20),
    ):
        if what == "contend":
            done = _contend(Path(path), int(float(amount)), int(seed))
        else:
            part = _write if what == "write" else _read
            done = part(Path(path), float(amount), int(seed))
    print(json.dumps(done))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (LatentDBError, BrokenPromise) as error:
        sys.exit(f"{type(error).__name__}: {error}")
