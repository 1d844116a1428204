"""LanceDB with two of its indexes: lists of whole vectors, and a graph of 8-bit codes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import Watch, grid, lines
from benchmarks.sets import Floats, Ints, K, Rows
from benchmarks.systems import System


class _Lance(System):
    def _config(self, step: dict[str, Any]) -> Any:
        raise NotImplementedError

    def build(self, rows: Rows, folder: Path, step: dict[str, Any]) -> dict[str, Any]:
        import lancedb
        import pyarrow as pa

        kind = pa.list_(pa.float32(), rows.dim)
        schema = pa.schema([("id", pa.int64()), ("vector", kind)])

        def batches() -> Any:
            for first, part in rows.parts():
                flat = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), rows.dim)
                numbers = pa.array(np.arange(first, first + len(part)))
                yield pa.RecordBatch.from_arrays([numbers, flat], schema=schema)

        with Watch() as added:
            database = lancedb.connect(str(folder / "lance"))
            reader = pa.RecordBatchReader.from_batches(schema, batches())
            table = database.create_table("rows", reader)
        with Watch() as indexed:
            table.create_index("vector", config=self._config(step))
        return {"add_s": added.seconds, "index_s": indexed.seconds, "parameters": dict(step)}

    def open(self, folder: Path, threads: int, *, cold: bool = False) -> None:
        import lancedb

        self.table = lancedb.connect(str(folder / "lance")).open_table("rows")
        self.value = 1

    def set_knob(self, value: int) -> None:
        self.value = value

    def _options(self, search: Any) -> Any:
        raise NotImplementedError

    def one(self, query: Floats) -> Sequence[int]:
        search = self.table.search(query).select(["id", "_distance"]).limit(K)
        found: list[int] = self._options(search).to_arrow()["id"].to_pylist()
        return found

    def many(self, queries: Floats) -> Ints:
        search = self.table.search(list(queries)).select(["id", "_distance"]).limit(K)
        found = self._options(search).to_arrow()
        answers: list[list[int]] = [[] for _ in queries]
        for query, number in zip(
            found["query_index"].to_pylist(), found["id"].to_pylist(), strict=True
        ):
            answers[query].append(number)
        return lines(answers, K)


class Ivf(_Lance):
    """IVF-flat with its default number of lists; every probe exact."""

    knob = "nprobes"

    def _config(self, step: dict[str, Any]) -> Any:
        from lancedb.index import IvfFlat

        return IvfFlat(distance_type="l2")

    def values(self) -> Sequence[int]:
        return grid(1, 1000)

    def _options(self, search: Any) -> Any:
        return search.nprobes(self.value)


class Graph(_Lance):
    """HNSW of 8-bit codes with its defaults; four times k are ranked by the vectors."""

    knob = "ef"
    _REFINE = 4

    def _config(self, step: dict[str, Any]) -> Any:
        from lancedb.index import HnswSq

        return HnswSq(distance_type="l2")

    def values(self) -> Sequence[int]:
        return grid(K * self._REFINE, 2000)

    def _options(self, search: Any) -> Any:
        # One list for a million rows is its default; all lists, where there are more.
        return search.nprobes(64).ef(self.value).refine_factor(self._REFINE)
