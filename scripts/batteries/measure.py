"""Figures: commit and open times, bytes a row, and the peak of memory."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from batteries.world import BrokenPromise, Summary, workshop
from latentdb.database import LatentDB
from latentdb.store.rows import Rows
from latentdb.store.store import Store

DIM = 64
MOST_GROWTH = 1.5
_PART = 50_000


def _rows(first: int, count: int, seed: int = 0) -> Rows:
    vectors = np.random.default_rng([seed, first]).normal(size=(count, DIM)).astype(np.float32)
    return Rows([f"r{number:09d}" for number in range(first, first + count)], vectors)


def fill(path: Path, rows: int, *, part: int = _PART) -> None:
    """A store of so many rows, made in one commit of many parts."""
    parts: Iterator[Rows] = (
        _rows(first, min(part, rows - first)) for first in range(0, rows, part)
    )
    with Store.create(path, dim=DIM).writer() as writer:
        writer.append(parts)


def _commit_seconds(db: LatentDB, first: int, batch: int) -> tuple[float, float]:
    """Wall and processor time of a commit."""
    rows = _rows(first, batch, seed=1)
    started, computed = time.perf_counter(), time.process_time()
    db.add(rows.ids, rows.z_mean)
    return time.perf_counter() - started, time.process_time() - computed


def commit_times(
    rows: int = 1_000_000, *, repeats: int = 15, segments: tuple[int, ...] = (1, 100, 1000)
) -> Summary:
    """The class `commit-times`.

    Index builds and merges are kept out of it: they are commits of their own.
    What is told is the lower quartile: other work on the machine makes a commit
    several times slower now and then, and never quicker.
    """
    summary = Summary("commit-times")
    with (
        workshop() as folder,
        mock.patch("latentdb.ann.plan.EXACT_ROWS", 1 << 60),
        mock.patch("latentdb.store.compaction.MOST_SEGMENTS", 1 << 60),
    ):
        fill(folder / "full", rows)
        stored = sum(item.stat().st_size for item in (folder / "full").rglob("*") if item.is_file())
        for batch in (1, 100, 10_000):
            empty = folder / f"empty {batch}"
            Store.create(empty, dim=DIM)
            times: dict[str, list[tuple[float, float]]] = {"empty": [], "full": []}
            with LatentDB.open(empty) as small, LatentDB.open(folder / "full") as big:
                # In turns, so that other work on the machine slows both.
                for turn in range(repeats + 1):
                    first = 100_000_000 * batch + turn * batch
                    for name, db in (("empty", small), ("full", big)):
                        took = _commit_seconds(db, first, batch)
                        if turn:
                            times[name].append(took)
            (small_took, small_cpu), (big_took, big_cpu) = (
                (1000 * np.quantile(times[name], 0.25, axis=0)).tolist()
                for name in ("empty", "full")
            )
            growth = big_took / small_took
            told = (
                f"{batch} rows: {small_took:.1f} ms at 0, {big_took:.1f} ms at {rows} "
                f"(x{growth:.2f}; processor {small_cpu:.1f} and {big_cpu:.1f} ms, "
                f"x{big_cpu / small_cpu:.2f})"
            )
            summary.notes.append(told)
            summary.cases += 2 * repeats
            if growth > MOST_GROWTH:
                summary.broken.append(told)
        for count in segments:
            path = folder / f"{count} segments"
            fill(path, 10 * count, part=10)
            opened = [_open_seconds(path) for _ in range(5)]
            summary.notes.append(
                f"open at {count} segments {1000 * statistics.median(opened):.1f} ms"
            )
            summary.cases += 5
        summary.notes.append(f"{stored / rows:.1f} bytes a row of {4 * DIM} bytes of vector")
    return summary


def _open_seconds(path: Path) -> float:
    started = time.perf_counter()
    LatentDB.open(path).close()
    return time.perf_counter() - started


# --- memory ---------------------------------------------------------------------


class _Peak(threading.Thread):
    """Watches how much memory of its own this process has."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.anonymous = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.01):
            self.anonymous = max(self.anonymous, _status("RssAnon"))


def _status(key: str) -> int:
    """MiB, of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(key + ":"))


def _limited(what: str, path: Path, rows: int, limit: int, part: int) -> dict[str, int]:
    """In a child: add or index under a limit of address space; MiB at the peak."""
    with LatentDB.open(path) if what == "index" else mock.MagicMock() as db:
        peak = _Peak()
        peak.start()
        resource.setrlimit(resource.RLIMIT_AS, (limit << 20, limit << 20))
        if what == "index":
            db.optimize()
        else:
            fill(path, rows, part=part)
        peak.over.set()
    return {"own": peak.anonymous, "space": _status("VmPeak")}


def memory(rows: int = 1_000_000, *, limit: int = 4096, part: int = _PART) -> Summary:
    """The class `memory`: a quarter of the rows, then all, in `limit` MiB of address space."""
    summary = Summary("memory")
    here = str(Path(__file__).resolve().parent.parent)
    peaks: dict[tuple[str, int], dict[str, int]] = {}
    with workshop() as folder:
        for count in (rows // 4, rows):
            for what in ("add", "index"):
                words = [sys.executable, "-m", "batteries.measure", what,
                         str(folder / str(count)), str(count), str(limit), str(part)]  # fmt: skip
                done = subprocess.run(words, cwd=here, capture_output=True, text=True, check=False)

                def one(
                    done: Any = done,
                    key: tuple[str, int] = (what, count),
                    path: Path = folder / str(count),
                ) -> str:
                    if done.returncode:
                        raise BrokenPromise(f"exit {done.returncode}: {done.stderr[-300:]}")
                    peaks[key] = json.loads(done.stdout)
                    if len(Store.open(path).snapshot()) != key[1]:
                        raise BrokenPromise("rows are missing")
                    return "done"

                summary.case(f"{what} {count} rows", one)
    for (what, count), peak in peaks.items():
        summary.notes.append(f"{what} {count}: {peak['own']} MiB own, {peak['space']} MiB space")
    few, many = peaks.get(("add", rows // 4)), peaks.get(("add", rows))
    vectors = rows * DIM * 4 >> 20
    if few and many and many["own"] - few["own"] > max(16, vectors // 4):
        summary.broken.append("the memory of an add grows with the rows, not with the batch")
    return summary


if __name__ == "__main__":
    _what, _path, *_sizes = sys.argv[1:]
    print(json.dumps(_limited(_what, Path(_path), *map(int, _sizes))))
