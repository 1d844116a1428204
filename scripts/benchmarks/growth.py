"""latentdb from ten thousand rows to ten million: what grows, and how."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measuring, own, sets
from benchmarks.sets import Floats, K, Source
from latentdb import LatentDB


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


def _written(source: Source, rows: int, file: Path) -> None:
    """The rows as an array on disk, part by part so that they are no part of the memory."""
    shape = rows, source.centres.shape[1]
    array = np.lib.format.open_memmap(file, "w+", np.float32, shape)
    for first, part in parts(source, rows):
        array[first : first + len(part)] = part
    array.flush()


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Draw, and import: one commit, one index, as the command line makes them."""
    folder, rows = Path(request["folder"]), int(request["rows"])
    file, ids, path = folder / "rows.npy", folder / "ids.txt", folder / own.STORE
    _written(sets.make_source("easy", request["seed"]), rows, file)
    with open(ids, "w") as stream:
        for first in range(0, rows, own.PART):
            names = own.named(first, min(own.PART, rows - first))
            stream.writelines(f"{name}\n" for name in names)
    peak = measuring.Peak(watch=True)
    with measuring.Watch() as took:
        LatentDB.create(path, dim=sets.DIM, recall=request["target"]).close()
        LatentDB.import_into(path, file, ids=ids)
    memory = peak.told()
    file.unlink()
    ids.unlink()
    with LatentDB.open(path) as db:
        account = own.told(db)
    index = account["index"]
    indexed = 0.0 if index is None else index["build_seconds"]
    return {
        "add_s": took.seconds - indexed,
        "index_s": indexed,
        "build_s": took.seconds,
        "memory": memory,
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
