"""latentdb by its public interface, and raw FAISS on the very same index beside it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import raw, sets
from benchmarks.measuring import Watch, grid, hits, lines, tune
from benchmarks.sets import Floats, Ints, K, Rows
from benchmarks.systems import Missing, System
from latentdb import LatentDB

STORE = "store.ldb"
PART = 500_000  # rows of one add
Columns = Mapping[str, Sequence[Any]]


def named(first: int, count: int) -> list[str]:
    return [f"r{number:08d}" for number in range(first, first + count)]


def numbers(ids: Iterable[str]) -> list[int]:
    return [int(name[1:]) for name in ids]


def plain(first: int, count: int) -> Columns:
    """Two columns, so that there is metadata to fetch."""
    rows = np.arange(first, first + count)
    return {
        "label": [f"class {number}" for number in (rows % 10).tolist()],
        "year": (1950 + rows % 75).tolist(),
    }


def fill(db: LatentDB, parts: Iterable[tuple[int, Floats]], columns: Any = plain) -> dict[str, Any]:
    """Add rows part by part.

    Returns
    -------
    dict
        ``add_s``, and in ``automatic_s`` the index builds that came with it, which
        are no part of ``add_s``.
    """
    automatic = 0.0
    seen: str | None = None
    with Watch() as took:
        for first, part in parts:
            db.add(named(first, len(part)), part, metadata=columns(first, len(part)))
            index = db.info().index
            if index is not None and index.file.name != seen:
                seen = index.file.name
                automatic += index.build_seconds
    return {"add_s": max(0.0, took.seconds - automatic), "automatic_s": automatic}


# The queries of the sets are like the rows.  Earlier releases took all to be.
_COMPOSED = "composed" in inspect.signature(LatentDB.search).parameters
AS_ROWS: dict[str, Any] = {"composed": False} if _COMPOSED else {}


def _has_prefer() -> bool:
    return "prefer" in inspect.signature(LatentDB.optimize).parameters


def optimize(db: LatentDB, recall: float, prefer: str = "build") -> float:
    """Seconds of building the index for a recall."""
    options: dict[str, Any] = {"recall": recall}
    if _has_prefer():
        options["prefer"] = prefer
    with Watch() as took:
        db.optimize(**options)
    return took.seconds


def describe_search(db: LatentDB) -> dict[str, Any]:
    """What `LatentDB.info` says about the search."""
    info = db.info()
    index = None if info.index is None else asdict(info.index)
    return {
        "search": info.search,
        "covered": info.covered_rows,
        "bytes": info.bytes,
        "index": index,
    }


class Default(System):
    """As ``optimize(recall=...)`` leaves it: the recall is the input, nothing else is tuned."""

    prefer = "build"

    def build(self, rows: Rows, folder: Path, step: dict[str, Any]) -> dict[str, Any]:
        if self.prefer != "build" and not _has_prefer():
            raise Missing("this latentdb has no optimize(prefer=...)")
        recall = float(step.get("recall", 0.99))
        with LatentDB.create(folder / STORE, dim=rows.dim, recall=recall) as db:
            # All at once as far as memory allows: one commit, one index.
            size = rows.count if rows.count <= 2 * PART else PART
            added = fill(db, rows.parts(size))
            seconds = optimize(db, recall, self.prefer)
            account = describe_search(db)
        index = account["index"]
        parameters = {} if index is None else dict(index["parameters"])
        parameters["search"] = account["search"]
        return {
            **added,
            "index_s": seconds,
            "parameters": parameters,
            "told": account,
            # Not the size of the folder: the index of the add is garbage-collected later.
            "bytes": account["bytes"],
        }

    def open(self, folder: Path, threads: int, *, cold: bool = False) -> None:
        self.db = LatentDB.open(folder / STORE)

    def one(self, query: Floats) -> Sequence[int]:
        _, rows = self.db.search(query[None], k=K, **AS_ROWS)
        found: list[int] = rows[0].tolist()
        return found

    def many(self, queries: Floats) -> Ints:
        _, rows = self.db.search(queries, k=K, **AS_ROWS)
        return rows

    def close(self) -> None:
        self.db.close()


class Latency(Default):
    prefer = "latency"


# --- the same index without latentdb -------------------------------------------------


def _parameter(parameters: Mapping[str, Any], *words: str) -> int | None:
    """The parameter of an index, tuned for 10 neighbours, whose name contains one of the words."""
    for word in words:
        for name, value in parameters.items():
            if word in name.lower() and (name.endswith(f"_{K}") or "_" not in name):
                return int(value)
    return None


def _inner(index: Any) -> Any:
    """The inverted file or graph within an index, for as long as that lives."""
    import faiss

    while isinstance(index, faiss.IndexPreTransform | faiss.IndexIDMap):
        index = faiss.downcast_index(index.index)
    return index


def _search_parameters(index: Any, nprobe: int) -> Any:
    """Search parameters: nprobe of an inverted file, or ef_search of a graph."""
    import faiss

    inverted = hasattr(_inner(index), "nprobe")
    inner = raw.ivf_parameters(nprobe) if inverted else raw.hnsw_parameters(nprobe)
    make: Any = faiss.SearchParametersPreTransform
    return make(index_params=inner) if isinstance(index, faiss.IndexPreTransform) else inner


class Twin:
    """Raw FAISS with the index of a store, its parameters, and the vectors of the set.

    Attributes
    ----------
    origin
        Where the index and its parameters are from.
    """

    def __init__(self, db: LatentDB, folder: Path, vectors: Floats) -> None:
        account = db.info().index
        self.origin = "exact scan"
        self.ranked: raw.Ranked | None = None
        self._vectors = vectors
        if account is None:
            return
        index = self._stored(folder / STORE / account.file.name, len(vectors))
        self.origin = "the store's own index file"
        if index is None:
            index = self._rebuild(account.kind, dict(account.parameters), vectors)
            self.origin = "an index built alike"
        parameters = dict(account.parameters)
        candidates = _parameter(parameters, "width") or raw.CANDIDATES
        self.ranked = raw.Ranked(index, vectors, candidates)
        self._inverted = hasattr(_inner(index), "nprobe")
        value = _parameter(parameters, "effort", "probe", "ef")
        if value is not None:
            value = value if self._inverted else max(value, candidates)
            self.set_knob(value)
            self.origin += f", {'nprobe' if self._inverted else 'efSearch'} {value}"
        self.value = value

    def one_by_one(self) -> None:
        """Search 4-bit codes list by list, as latentdb does for one query."""
        if self.ranked is not None and hasattr(_inner(self.ranked.index), "implem"):
            _inner(self.ranked.index).implem = 10

    def set_knob(self, value: int) -> None:
        if self.ranked is not None:
            self.ranked.options = _search_parameters(self.ranked.index, value)

    def match(self, queries: Floats, truth: Ints, target: float) -> None:
        """Tune to the recall of latentdb, where the parameters could not be read."""
        if self.ranked is None or self.value is not None:
            return
        most = _inner(self.ranked.index).nlist if self._inverted else 2000
        values = grid(1 if self._inverted else raw.CANDIDATES, most)

        def shares(value: int) -> Any:
            self.set_knob(value)
            return hits(self.many(queries), truth)

        done = tune(shares, values, target, 0.0)
        self.value = int(done["value"])
        self.set_knob(self.value)
        self.origin += f", tuned to the same recall: {self.value}"

    @staticmethod
    def _stored(file: Path, rows: int) -> Any:
        """The index in the store, if it is a file that FAISS reads."""
        import faiss

        try:
            index = faiss.read_index(str(file))
        except RuntimeError:
            return None
        inner = _inner(index)
        known = hasattr(inner, "nprobe") or hasattr(inner, "hnsw")
        return index if known and index.ntotal == rows else None

    @staticmethod
    def _rebuild(kind: str, parameters: Mapping[str, Any], vectors: Floats) -> Any:
        import faiss

        dim = vectors.shape[1]
        if "hnsw" in kind:
            index = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, 32)
        else:
            nlist = _parameter(parameters, "list") or raw.nlist_for(len(vectors))
            index = raw.new_ivf_codes(dim, nlist)
            index.cp.min_points_per_centroid = 1
        index.train(np.ascontiguousarray(vectors[:: max(1, len(vectors) // 250_000)]))
        for start in range(0, len(vectors), 100_000):
            index.add(np.ascontiguousarray(vectors[start : start + 100_000]))
        return index

    def one(self, query: Floats) -> Sequence[int]:
        if self.ranked is None:
            return self._scan(query[None])[0].tolist()
        return self.ranked.one(query).tolist()

    def many(self, queries: Floats) -> Ints:
        return self._scan(queries) if self.ranked is None else self.ranked.many(queries)

    def _scan(self, queries: Floats) -> Ints:
        import faiss

        _, found = faiss.knn(queries, self._vectors, K)
        return np.asarray(found)


def _turns(count: int, ways: int) -> Iterator[tuple[int, list[int]]]:
    """For every turn: which way goes first, and the query of each way.

    No two ways get the same query in a turn: its rows would be in the cache.
    """
    for turn in range(count):
        yield turn % ways, [(turn + way * (count // ways)) % count for way in range(ways)]


def pair_single(folder: Path, rows: Path, queries: Floats, truth: Ints) -> dict[str, Any]:
    """One query at a time by FAISS, `LatentDB.search`, and `LatentDB.query` by id, in turns."""
    raw.threads_of(1)
    vectors = np.load(rows, mmap_mode="r")
    asked = np.random.default_rng(0).integers(0, len(vectors), len(queries))
    near_asked = sets.nearest([vectors], np.array(vectors[asked]), K)
    names = [named(row, 1)[0] for row in asked.tolist()]
    with LatentDB.open(folder / STORE) as db:
        twin = Twin(db, folder, vectors)
        _, stored = db.search(queries, k=K, **AS_ROWS)
        twin.match(queries, truth, float(hits(stored, truth).mean()))
        twin.one_by_one()
        raw.threads_of(1)
        ways = (
            lambda number: twin.one(queries[number]),
            lambda number: db.search(queries[number][None], k=K, **AS_ROWS)[1][0],
            lambda number: db.query(names[number], k=K),
        )
        for number in range(len(queries) // 10):
            for way in ways:
                way(number)
        times: list[list[float]] = [[], [], []]
        found: list[list[Any]] = [[None] * len(queries) for _ in ways]
        for first, order in _turns(len(queries), len(ways)):
            for position in range(len(ways)):
                number = (first + position) % len(ways)
                with Watch() as took:
                    answer = ways[number](order[number])
                times[number].append(took.seconds)
                found[number][order[number]] = answer
        matches = [numbers(match.id for match in answer) for answer in found[2]]
        p50 = [float(np.median(each)) * 1e6 for each in times]
        return {
            "twin": twin.origin,
            "faiss_us": p50[0],
            "search_us": p50[1],
            "query_us": p50[2],
            "faiss_recall": float(hits(lines(found[0], K), truth).mean()),
            "search_recall": float(hits(lines(found[1], K), truth).mean()),
            "query_recall": float(hits(lines(matches, K), near_asked).mean()),
        }


def pair_batch(folder: Path, rows: Path, queries: Floats, truth: Ints) -> dict[str, Any]:
    """All queries at once, by FAISS and by latentdb in turns, on all processors."""
    vectors = np.load(rows, mmap_mode="r")
    with LatentDB.open(folder / STORE) as db:
        twin = Twin(db, folder, vectors)
        _, stored = db.search(queries, k=K, **AS_ROWS)
        twin.match(queries, truth, float(hits(stored, truth).mean()))
        times: list[list[float]] = [[], []]
        for turn in range(8):
            for number in (turn % 2, 1 - turn % 2):
                raw.threads_of(os.cpu_count() or 1)
                with Watch() as took:
                    if number:
                        db.search(queries, k=K, **AS_ROWS)
                    else:
                        twin.many(queries)
                if turn:
                    times[number].append(took.seconds)
    seconds = [float(np.median(each)) for each in times]
    return {
        "twin": twin.origin,
        "faiss_qps": len(queries) / seconds[0],
        "latentdb_qps": len(queries) / seconds[1],
        "ratio": seconds[1] / seconds[0],
    }
