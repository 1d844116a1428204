"""latentdb with queries that are composed of rows, unlike those that its index was tuned on.

Sums and differences of latents are far from all rows: quantisation error exceeds the
gaps between their distances.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import latentdb_system, sets
from benchmarks.measuring import Watch, hits, lines, percentiles
from benchmarks.sets import Floats, K, Rows
from latentdb import LatentDB

KINDS = ("like the rows", "(a + b) / 2", "mean of ten", "a + b - c", "3 a")
_QUERIES = 500
_WARM = 20


def queries(kind: str, rows: Rows, folder: Path) -> Floats:
    """float32 ``[500, d]`` of a kind: the same every time."""
    if kind == KINDS[0]:
        return sets.load(folder, "test")[0][:_QUERIES]
    random = np.random.default_rng(KINDS.index(kind))
    mapped = rows.mapped()

    def some() -> Floats:
        return np.asarray(mapped[random.integers(0, rows.count, _QUERIES)])

    if kind == KINDS[1]:
        return np.asarray((some() + some()) / 2, np.float32)
    if kind == KINDS[2]:
        return np.asarray(np.mean([some() for _ in range(10)], axis=0), np.float32)
    if kind == KINDS[3]:
        return some() + some() - some()
    return 3 * some()


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Times and recall of every kind of query, one at a time on one thread."""
    folder = Path(request["set"])
    rows = Rows(folder / "rows.npy")
    cells = []
    with LatentDB.open(Path(request["folder"]) / latentdb_system.STORE) as db:
        for kind in KINDS:
            asked = queries(kind, rows, folder)
            truth = sets.nearest((part for _, part in rows.parts(500_000)), asked, K)
            for query in asked[-_WARM:]:
                db.search(query[None], k=K)
            times, answers = [], []
            for query in asked:
                with Watch() as took:
                    _, found = db.search(query[None], k=K)
                times.append(took.seconds)
                answers.append(found[0])
            recall = float(hits(lines(answers, K), truth).mean())
            cells.append({"kind": kind, "recall": recall, **percentiles(times)})
    return {"cells": cells}


def run(request: dict[str, Any]) -> dict[str, Any]:
    if request["phase"] == "composed":
        return measure(request)
    rows, folder = Rows(Path(request["set"]) / "rows.npy"), Path(request["folder"])
    return latentdb_system.Default().build(rows, folder, {"recall": request["target"]})
