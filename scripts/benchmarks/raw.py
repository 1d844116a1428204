"""Raw FAISS: what latentdb is built on, with nothing around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import Watch, grid
from benchmarks.sets import Floats, Ints, K, Rows
from benchmarks.systems import System

CANDIDATES = 36  # ranked for 10 neighbours: 2 k + 16, as latentdb 0.1 does
_TRAIN_PER_LIST = 64


def threads_of(count: int) -> None:
    import faiss

    faiss.omp_set_num_threads(count)


class Ranked:
    """An index of codes whose candidates are ranked by the vectors themselves.

    Parameters
    ----------
    index
        Numbers rows as `vectors` does.
    vectors
        float32 ``[n, d]``, mapped.
    candidates
        How many of the index's answers are ranked.
    """

    def __init__(self, index: Any, vectors: Floats, candidates: int = CANDIDATES) -> None:
        self.index, self.vectors, self.candidates = index, vectors, candidates
        self.options: Any = None

    def one(self, query: Floats) -> Ints:
        _, rows = self.index.search(query[None], self.candidates, params=self.options)
        found = rows[0]
        if found[-1] < 0:
            found = found[found >= 0]
        differences = self.vectors[found] - query
        squares = np.einsum("nd,nd->n", differences, differences)
        return np.asarray(found[np.argsort(squares, kind="stable")[:K]])

    def many(self, queries: Floats) -> Ints:
        _, rows = self.index.search(queries, self.candidates, params=self.options)
        differences = self.vectors[rows] - queries[:, None]
        squares = np.einsum("qnd,qnd->qn", differences, differences)
        squares[rows < 0] = np.inf
        order = np.argsort(squares, axis=1, kind="stable")[:, :K]
        return np.asarray(np.take_along_axis(rows, order, axis=1))


def nlist_for(rows: int) -> int:
    return max(1, round(4 * math.sqrt(rows)))


def build_ivf(index: Any, rows: Rows) -> tuple[float, float]:
    """Train and fill an IVF index: seconds of each."""
    index.cp.min_points_per_centroid = 1
    with Watch() as trained:
        index.train(rows.sample(_TRAIN_PER_LIST * index.nlist))
    with Watch() as added:
        for _, part in rows.parts():
            index.add(part)
    return trained.seconds, added.seconds


def new_ivf_codes(dim: int, nlist: int) -> Any:
    import faiss

    quantizer = faiss.IndexFlatL2(dim)
    return faiss.IndexIVFScalarQuantizer(quantizer, dim, nlist, faiss.ScalarQuantizer.QT_8bit)


def ivf_parameters(value: int) -> Any:
    import faiss

    make: Any = faiss.SearchParametersIVF
    return make(nprobe=value)


def hnsw_parameters(value: int) -> Any:
    import faiss

    make: Any = faiss.SearchParametersHNSW
    return make(efSearch=value)


class _Raw(System):
    """An index in one file; the vectors of the set stay where they are."""

    def _save(self, index: Any, rows: Rows, folder: Path, **measured: Any) -> dict[str, Any]:
        import faiss

        with Watch() as saved:
            faiss.write_index(index, str(folder / "index.faiss"))
        (folder / "rows").symlink_to(rows.file)
        # Ranking needs the vectors; IVF-flat holds them itself.
        more = 0 if isinstance(self, IvfFlat) else rows.file.stat().st_size
        return {"save_s": saved.seconds, "more_bytes": more, **measured}

    def open(self, folder: Path, threads: int, *, cold: bool = False) -> None:
        import faiss

        flags = faiss.IO_FLAG_MMAP if cold else 0
        self.index = faiss.read_index(str(folder / "index.faiss"), flags)
        self.ranked = Ranked(self.index, np.load(folder / "rows", mmap_mode="r"))
        threads_of(threads)

    def one(self, query: Floats) -> Sequence[int]:
        return self.ranked.one(query).tolist()

    def many(self, queries: Floats) -> Ints:
        return self.ranked.many(queries)


class IvfCodes(_Raw):
    """IVF of 8-bit codes."""

    knob = "nprobe"

    def build(self, rows: Rows, folder: Path, step: dict[str, Any]) -> dict[str, Any]:
        index = new_ivf_codes(rows.dim, nlist_for(rows.count))
        trained, added = build_ivf(index, rows)
        parameters = {"lists": index.nlist, "candidates": CANDIDATES}
        return self._save(index, rows, folder, index_s=trained + added, parameters=parameters)

    def values(self) -> Sequence[int]:
        return grid(1, self.index.nlist)

    def set_knob(self, value: int) -> None:
        self.ranked.options = ivf_parameters(value)


class IvfFlat(IvfCodes):
    """IVF of the vectors themselves."""

    def build(self, rows: Rows, folder: Path, step: dict[str, Any]) -> dict[str, Any]:
        import faiss

        quantizer = faiss.IndexFlatL2(rows.dim)
        index = faiss.IndexIVFFlat(quantizer, rows.dim, nlist_for(rows.count))
        trained, added = build_ivf(index, rows)
        parameters = {"lists": index.nlist}
        return self._save(index, rows, folder, index_s=trained + added, parameters=parameters)

    def one(self, query: Floats) -> Sequence[int]:
        _, rows = self.index.search(query[None], K, params=self.ranked.options)
        return rows[0].tolist()

    def many(self, queries: Floats) -> Ints:
        _, rows = self.index.search(queries, K, params=self.ranked.options)
        return np.asarray(rows)


class GraphCodes(_Raw):
    """HNSW over 8-bit codes."""

    knob = "efSearch"

    def build(self, rows: Rows, folder: Path, step: dict[str, Any]) -> dict[str, Any]:
        import faiss

        index = faiss.IndexHNSWSQ(rows.dim, faiss.ScalarQuantizer.QT_8bit, 32)
        with Watch() as took:
            index.train(rows.sample(100_000))
            for _, part in rows.parts():
                index.add(part)
        return self._save(
            index,
            rows,
            folder,
            index_s=took.seconds,
            parameters={
                "M": 32,
                "efConstruction": index.hnsw.efConstruction,
                "candidates": CANDIDATES,
            },
        )

    def values(self) -> Sequence[int]:
        return grid(CANDIDATES, 2000)

    def set_knob(self, value: int) -> None:
        self.ranked.options = hnsw_parameters(value)
