"""latentdb from ten thousand rows to ten million: what grows, and how."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from latentdb import LatentDB
from search_parts import measuring, own, sets
from search_parts.sets import Floats, K, Source


def parts(source: Source, rows: int, size: int = own.PART) -> Iterator[tuple[int, Floats]]:
    """The rows as they are drawn, some chunks at a time."""
    held: list[Floats] = []
    first = 0
    for _, chunk in source.chunks(rows):
        held.append(chunk)
        count = sum(map(len, held))
        if count >= size:
            yield first, np.concatenate(held)
            first, held = first + count, []
    if held:
        yield first, np.concatenate(held)


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Draw and add; index what the adds left uncovered."""
    source = sets.make_source("easy", request["seed"])
    folder, rows = Path(request["folder"]), int(request["rows"])
    peak = measuring.Peak(watch=True)
    path = folder / own.STORE
    with (
        measuring.Watch() as took,
        LatentDB.create(path, dim=sets.DIM, recall=request["target"]) as db,
    ):
        added = own.fill(db, parts(source, rows))
        indexed = 0.0
        if own.told(db)["covered"] < rows:
            indexed = own.optimize(db, request["target"])
        account = own.told(db)
    return {
        **added,
        "index_s": indexed,
        "build_s": took.seconds,
        "memory": peak.told(),
        "bytes": account["bytes"],
        "told": account,
    }


def truth(request: dict[str, Any]) -> dict[str, Any]:
    """Queries and their true neighbours: apart, so that it is no part of what is measured."""
    source = sets.make_source("easy", request["seed"])
    folder = Path(request["folder"])
    _, queries = source.queries(1)
    blocks = (part for _, part in parts(source, int(request["rows"])))
    np.save(folder / "truth.npy", sets.nearest(blocks, queries, K))
    np.save(folder / "queries.npy", queries)
    return {}


def single(request: dict[str, Any]) -> dict[str, Any]:
    """One query at a time on one thread."""
    folder = Path(request["folder"])
    peak = measuring.Peak(watch=False)
    queries, truth = np.load(folder / "queries.npy"), np.load(folder / "truth.npy")
    system = own.Default()
    system.open(folder, 1)
    warm, _ = np.array_split(queries, [100])
    for query in warm:
        system.one(query + np.float32(0.001))
    times, answers = [], []
    for query in queries:
        with measuring.Watch() as took:
            answers.append(system.one(query))
        times.append(took.seconds)
    memory = peak.told()
    system.close()
    found = measuring.lines(answers, K)
    return {
        **measuring.percentiles(times),
        "recall": measuring.recall(found, truth),
        "memory": memory,
    }


def run(request: dict[str, Any]) -> dict[str, Any]:
    return {"growth-build": build, "growth-truth": truth, "growth-single": single}[
        request["phase"]
    ](request)
