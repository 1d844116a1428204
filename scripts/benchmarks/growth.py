"""latentdb from ten thousand rows to ten million: what grows, and how."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import latentdb_system, measuring, sets
from benchmarks.sets import Floats, K, Source
from latentdb import LatentDB


def parts(
    source: Source, rows: int, size: int = latentdb_system.PART
) -> Iterator[tuple[int, Floats]]:
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
    file, ids, path = folder / "rows.npy", folder / "ids.txt", folder / latentdb_system.STORE
    _written(sets.make_source("easy", request["seed"]), rows, file)
    with open(ids, "w") as stream:
        for first in range(0, rows, latentdb_system.PART):
            names = latentdb_system.named(first, min(latentdb_system.PART, rows - first))
            stream.writelines(f"{name}\n" for name in names)
    peak = measuring.Peak(watch=True)
    with measuring.Watch() as took:
        LatentDB.create(path, dim=sets.DIM, recall=request["target"]).close()
        LatentDB.import_into(path, file, ids=ids)
    memory = peak.mebibytes()
    file.unlink()
    ids.unlink()
    with LatentDB.open(path) as db:
        account = latentdb_system.describe_search(db)
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
    system = latentdb_system.Default()
    system.open(folder, 1)
    warm, _ = np.array_split(queries, [100])
    for query in warm:
        system.one(query + np.float32(0.001))
    times, answers = [], []
    for query in queries:
        with measuring.Watch() as took:
            answers.append(system.one(query))
        times.append(took.seconds)
    memory = peak.mebibytes()
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
