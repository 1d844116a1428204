"""A process of its own for one phase of one system: so memory and threads are its own.

    python -m benchmarks.worker REQUEST.json

The request names the phase, the system and the files; the result is written beside
it.  The phase ``cold`` writes nothing, it prints ``answered`` when it has.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measuring, sets, systems

_BATCHES = 3
Request = dict[str, Any]


def _versions(name: str) -> dict[str, str]:
    found = {}
    for package in systems.SYSTEMS[name].packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def build(request: Request) -> dict[str, Any]:
    system = systems.make(request["system"])
    step = dict(system.steps[request["step"]])
    if request["system"].startswith("latentdb"):
        step["recall"] = request["target"]
    folder = Path(request["folder"])
    peak = measuring.Peak(watch=True)
    with measuring.Watch() as took:
        built = system.build(sets.Rows(Path(request["set"]) / "rows.npy"), folder, step)
    memory = peak.mebibytes()
    stored = measuring.bytes_of(folder) + built.pop("more_bytes", 0)
    return {
        "bytes": stored,
        **built,
        "build_s": took.seconds,
        "memory": memory,
        "steps": len(system.steps),
        "versions": _versions(request["system"]),
    }


def _opened(request: Request, threads: int, *, cold: bool = False) -> systems.System:
    system = systems.make(request["system"])
    system.open(Path(request["folder"]), threads, cold=cold)
    if request.get("value") is not None:
        system.set_knob(request["value"])
    return system


def tune(request: Request) -> dict[str, Any]:
    """The least value of the knob that reaches the recall on the tuning queries."""
    system = _opened(request, os.cpu_count() or 1)
    queries, truth = sets.load(Path(request["set"]), "tune")
    values = system.values()

    def shares(value: int) -> Any:
        system.set_knob(value)
        return measuring.hits(system.many(queries), truth)

    done: dict[str, Any]
    if values:
        done = measuring.tune(shares, values, request["target"], request["margin"])
    else:
        done = {"value": None, "reached": True}
    system.close()
    return {"knob": system.knob, **done}


def single(request: Request) -> dict[str, Any]:
    """One query at a time on one thread; the recall is that of the answers timed."""
    peak = measuring.Peak(watch=False)
    system = _opened(request, 1)
    before, _ = sets.load(Path(request["set"]), "tune")
    queries, truth = sets.load(Path(request["set"]), "test")
    start = time.perf_counter()
    for query in before[:100]:
        system.one(query)
        if time.perf_counter() - start > 5:
            break
    times, answers = [], []
    for query in queries:
        with measuring.Watch() as took:
            answers.append(system.one(query))
        times.append(took.seconds)
    memory = peak.mebibytes()
    system.close()
    found = measuring.lines(answers, sets.K)
    return {
        **measuring.percentiles(times),
        "recall": measuring.recall(found, truth),
        "memory": memory,
    }


def batch(request: Request) -> dict[str, Any]:
    """All queries at once on all processors."""
    system = _opened(request, os.cpu_count() or 1)
    queries, truth = sets.load(Path(request["set"]), "test")
    seconds: list[float] = []
    # Where one batch takes long, nothing is left to warm up.
    while len(seconds) < _BATCHES and sum(seconds) < 60:
        with measuring.Watch() as took:
            found = system.many(queries)
        seconds.append(took.seconds)
    system.close()
    return {
        "qps": len(queries) / min(seconds),
        "recall": measuring.recall(np.asarray(found), truth),
    }


def cold(request: Request) -> None:
    """Open what is stored and answer one query."""
    system = _opened(request, 1, cold=True)
    query = np.load(Path(request["set"]) / "test.npy", mmap_mode="r")[0]
    if len(system.one(np.array(query))) != sets.K:
        sys.exit("fewer than 10 neighbours came back")
    print("answered", flush=True)
    system.close()


def pair(request: Request) -> dict[str, Any]:
    """latentdb and raw FAISS with its index, in turns."""
    from benchmarks.latentdb_system import pair_batch, pair_single

    queries, truth = sets.load(Path(request["set"]), "test")
    run = pair_single if request["phase"] == "pair-single" else pair_batch
    return run(Path(request["folder"]), Path(request["set"]) / "rows.npy", queries, truth)


def _filters(request: Request) -> dict[str, Any]:
    from benchmarks import filtered

    return filtered.run(request)


def _composed(request: Request) -> dict[str, Any]:
    from benchmarks import composed

    return composed.run(request)


def _grow(request: Request) -> dict[str, Any]:
    from benchmarks import growth

    return growth.run(request)


PHASES: dict[str, Callable[[Request], dict[str, Any]]] = {
    "build": build,
    "tune": tune,
    "single": single,
    "batch": batch,
    "pair-single": pair,
    "pair-batch": pair,
    "filters-build": _filters,
    "filters": _filters,
    "composed-build": _composed,
    "composed": _composed,
    "growth-build": _grow,
    "growth-truth": _grow,
    "growth-single": _grow,
}


def main() -> None:
    file = Path(sys.argv[1])
    request: Request = json.loads(file.read_text())
    if request["phase"] == "cold":
        cold(request)
        return
    try:
        result = PHASES[request["phase"]](request)
    except systems.Missing as missing:
        result = {"failed": str(missing)}
    file.with_suffix(".result").write_text(json.dumps(result, default=float))


if __name__ == "__main__":
    main()
