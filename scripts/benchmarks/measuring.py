"""How things are measured: recall, percentiles, memory, bytes, and the tuning of a knob."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def hits(found: Ints, truth: Ints) -> NDArray[np.float64]:
    """Of each query: the share of its true neighbours that were found."""
    both = (found[:, :, None] == truth[:, None, :]) & (truth[:, None, :] >= 0)
    wanted = np.maximum((truth >= 0).sum(axis=1), 1)
    return np.asarray(both.any(axis=1).sum(axis=1) / wanted)


def recall(found: Ints, truth: Ints) -> float:
    return float(hits(found, truth).mean())


def lines(found: Sequence[Sequence[int]], k: int) -> Ints:
    """Answers of any length as one array, -1 where there are fewer than k."""
    out = np.full((len(found), k), -1, np.int64)
    for number, line in enumerate(found):
        out[number, : min(k, len(line))] = line[:k]
    return out


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99 and mean in milliseconds."""
    times = 1000 * np.asarray(seconds)
    return {
        "p50_ms": float(np.percentile(times, 50)),
        "p99_ms": float(np.percentile(times, 99)),
        "mean_ms": float(times.mean()),
        "queries": len(times),
    }


def grid(low: int, high: int) -> list[int]:
    """Whole numbers from low to high, each some 7 % above the one before."""
    values = [low]
    while values[-1] < high:
        values.append(min(high, max(values[-1] + 1, round(values[-1] * 1.07))))
    return values


def tune(
    shares: Callable[[int], NDArray[np.float64]],
    values: Sequence[int],
    target: float,
    margin: float,
) -> dict[str, float | bool]:
    """The least value of a knob that reaches the target, by bisection.

    Parameters
    ----------
    shares
        Recall of each tuning query at a value.
    values
        Ascending; recall is taken to grow with them.
    target
        Recall wanted.
    margin
        So many standard errors above it, so that it holds on other queries.
    """
    low, high = -1, len(values)
    reached = {"value": values[-1], "recall": 0.0, "reached": False}
    # The end first: where even that falls short there is nothing to look for.
    middle = len(values) - 1
    while high - low > 1:
        measured = shares(values[middle])
        mean = float(measured.mean())
        error = margin * float(measured.std()) / math.sqrt(len(measured))
        if mean - error >= target:
            high = middle
            reached = {"value": values[middle], "recall": mean, "reached": True}
        else:
            if middle == len(values) - 1:
                return {"value": values[middle], "recall": mean, "reached": False}
            low = middle
        middle = (low + high) // 2
    return reached


def _status(key: str) -> int:
    """MiB, of a line of /proc/self/status."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in status if line.startswith(key + ":"))


class Peak:
    """Peak memory of this process: resident, and anonymous.

    Resident memory includes mapped files; anonymous memory does not. A thread
    watches it, which is not used in timed queries.
    """

    def __init__(self, *, watch: bool) -> None:
        self._own = 0
        self._over = threading.Event()
        self._linux = sys.platform == "linux"
        if watch and self._linux:
            threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self._own = max(self._own, _status("RssAnon"))

    def mebibytes(self) -> dict[str, int]:
        """What was resident, and anonymous memory (``own``), in MiB."""
        self._over.set()
        if not self._linux:
            import resource

            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return {"resident": most >> (20 if sys.platform == "darwin" else 10), "own": 0}
        # Not ru_maxrss: that begins with what the process had that started this one.
        return {"resident": _status("VmHWM"), "own": max(self._own, _status("RssAnon"))}


def bytes_of(folder: Path) -> int:
    """Of all files in a folder."""
    return sum(
        os.path.getsize(os.path.join(where, name))
        for where, _, names in os.walk(folder)
        for name in names
    )


class Watch:
    """``with Watch() as took: ...`` and then ``took.seconds``."""

    seconds: float

    def __enter__(self) -> Watch:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
