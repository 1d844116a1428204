"""latentdb under filters that have to do with the query, and under such that have not.

A row has a random number (``chance``), and for some clusters its place among all
rows by distance from their centre, as a share (``place0``, ...).  Queries are drawn
from those clusters; so ``place0 < 0.01`` keeps the rows around the query, and
``place0 >= 0.99`` those farthest from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import latentdb_system, sets
from benchmarks.measuring import Watch, hits, lines, percentiles
from benchmarks.sets import Floats, K, Rows, Source
from latentdb import LatentDB
from latentdb.search.selection import parse_where

SHARES = (0.5, 0.1, 0.01, 0.001, 0.0001)
KINDS = ("independent", "near the query", "far from the query")
# Many clusters with a few queries each: recall differs more between clusters than
# within one, and of four clusters a single odd one decides the figure.
_ANCHORS = 20
_EACH = 20
_PART = 100_000


def _source(request: dict[str, Any]) -> Source:
    latents = request["latents"]
    paths = None if latents is None else (Path(latents[0]), Path(latents[1]))
    return sets.make_source(request["name"], request["seed"], paths)


def _clusters(source: Source) -> list[int]:
    random = np.random.default_rng([source.seed, 7])
    chosen: list[int] = random.choice(len(source.centres), _ANCHORS, replace=False).tolist()
    return chosen


def _columns(source: Source, rows: Rows) -> dict[str, NDArray[np.float64]]:
    """What the rows are filtered by, float64 ``[n]`` each, from 0 to below 1."""
    random = np.random.default_rng([source.seed, 8])
    columns = {"chance": random.permutation(rows.count) / rows.count}
    for number, cluster in enumerate(_clusters(source)):
        centre = source.centres[cluster]
        apart = np.concatenate([((part - centre) ** 2).sum(axis=1) for _, part in rows.parts()])
        places = np.empty(rows.count)
        places[np.argsort(apart, kind="stable")] = np.arange(rows.count) / rows.count
        columns[f"place{number}"] = places
    return columns


def build(request: dict[str, Any]) -> dict[str, Any]:
    """A store with those columns, indexed."""
    rows = Rows(Path(request["set"]) / "rows.npy")
    columns = _columns(_source(request), rows)

    def some(first: int, count: int) -> latentdb_system.Columns:
        return {name: each[first : first + count].tolist() for name, each in columns.items()}

    folder = Path(request["folder"])
    with LatentDB.create(
        folder / latentdb_system.STORE, dim=rows.dim, recall=request["target"]
    ) as db:
        latentdb_system.fill(db, rows.parts(min(rows.count, latentdb_system.PART)), some)
        seconds = latentdb_system.optimize(db, request["target"])
        return {"index_s": seconds, "told": latentdb_system.describe_search(db)}


def _cases(
    kind: str, share: float, source: Source, rows: int
) -> Iterator[tuple[str, str, float, Floats]]:
    """Column, sign and bound of a filter that keeps a share, and the queries it is for."""
    # The columns hold 0 / rows, 1 / rows and so on: at least one row is kept.
    kept = max(1, round(share * rows))
    if kind == KINDS[0]:
        yield "chance", "<", kept / rows, source.queries(1, _ANCHORS * _EACH)[1]
        return
    for number, cluster in enumerate(_clusters(source)):
        queries = source.around(cluster, 100 + number, _EACH)
        if kind == KINDS[1]:
            yield f"place{number}", "<", kept / rows, queries
        else:
            yield f"place{number}", ">=", (rows - kept) / rows, queries


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Times and recall of every kind of filter at every share of rows kept."""
    source = _source(request)
    rows = Rows(Path(request["set"]) / "rows.npy")
    columns, vectors = _columns(source, rows), rows.mapped()
    cells = []
    unfiltered: dict[str, list[float]] = {}
    with LatentDB.open(Path(request["folder"]) / latentdb_system.STORE) as db:
        for kind in KINDS:
            for share in SHARES:
                times: list[float] = []
                shares: list[float] = []
                whole: list[float] = []
                worst = 1.0
                exact = True
                for column, sign, bound, queries in _cases(kind, share, source, rows.count):
                    where = f"{column} {sign} {bound!r}"
                    values = columns[column]
                    kept = np.flatnonzero(values < bound if sign == "<" else values >= bound)
                    truth = np.full((len(queries), K), -1, np.int64)
                    found = sets.nearest([vectors[kept]], queries, min(K, len(kept)))
                    truth[:, : found.shape[1]] = kept[found]
                    searched = db._index_manager.searcher(db._snapshot(), "l2").search(
                        queries[:1], k=K, where=parse_where(db._snapshot(), where)
                    )
                    exact = searched.exact and exact
                    answers = []
                    for query in queries:
                        with Watch() as took:
                            _, answer = db.search(
                                query[None], k=K, where=where, **latentdb_system.AS_ROWS
                            )
                        times.append(took.seconds)
                        answers.append(answer[0])
                    own_shares = hits(lines(answers, K), truth)
                    shares += own_shares.tolist()
                    worst = min(worst, float(own_shares.mean()))
                    # The same queries without a filter: what it took, or gave.
                    key = column if kind != KINDS[0] else kind
                    if key not in unfiltered:
                        _, free = db.search(queries, k=K, **latentdb_system.AS_ROWS)
                        all_rows = (part for _, part in rows.parts(500_000))
                        unfiltered[key] = hits(free, sets.nearest(all_rows, queries, K)).tolist()
                    whole += unfiltered[key]
                cells.append(
                    {
                        "filter": kind,
                        "share": share,
                        "kept": len(kept),
                        "exact": exact,
                        "recall": float(np.mean(shares)),
                        "worst": worst,
                        "unfiltered": float(np.mean(whole)),
                        **percentiles(times),
                    }
                )
    return {"cells": cells}


def run(request: dict[str, Any]) -> dict[str, Any]:
    return build(request) if request["phase"] == "filters-build" else measure(request)
