"""ScaNN: a tree of partitions, anisotropic 4-bit codes, candidates ranked by the vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import Watch, grid
from benchmarks.sets import Floats, Ints, K, Rows
from benchmarks.systems import System

_THRESHOLD = 0.2  # of the anisotropic loss, as in ScaNN's own examples
# Dimensions under one 4-bit code: its examples take two, which lose neighbours of latents.
_PER_CODE = 1
_RANKED = 100
_TRAINED = 250_000


class Scann(System):
    """Its knob is the number of leaves to search."""

    knob = "leaves"

    def build(self, rows: Rows, folder: Path, step: dict[str, Any]) -> dict[str, Any]:
        import scann

        leaves = round(math.sqrt(rows.count))
        make = scann.scann_ops_pybind.builder(np.array(rows.mapped()), K, "squared_l2")
        with Watch() as took:
            searcher = (
                make.tree(leaves, 1, training_sample_size=_TRAINED)
                .score_ah(_PER_CODE, anisotropic_quantization_threshold=_THRESHOLD)
                .reorder(_RANKED)
                .build()
            )
        with Watch() as saved:
            (folder / "index").mkdir()
            searcher.serialize(str(folder / "index"))
        np.save(folder / "leaves.npy", leaves)
        return {
            "index_s": took.seconds,
            "save_s": saved.seconds,
            "parameters": {"leaves": leaves, "per code": _PER_CODE, "ranked": _RANKED},
        }

    def open(self, folder: Path, threads: int, *, cold: bool = False) -> None:
        import scann

        self.searcher = scann.scann_ops_pybind.load_searcher(str(folder / "index"))
        self.threads, self.value = threads, 1
        self.leaves = int(np.load(folder / "leaves.npy"))

    def values(self) -> Sequence[int]:
        return grid(1, self.leaves)

    def set_knob(self, value: int) -> None:
        self.value = value

    def one(self, query: Floats) -> Sequence[int]:
        return self.searcher.search(query, leaves_to_search=self.value)[0].tolist()

    def many(self, queries: Floats) -> Ints:
        search = self.searcher.search_batched
        if self.threads > 1:
            search = self.searcher.search_batched_parallel
        return np.asarray(search(queries, leaves_to_search=self.value)[0], np.int64)
