"""The other systems, each by its own interface and its own knobs.

Each gets row numbers and vectors, nothing else: less than latentdb stores.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import Watch, grid, lines
from benchmarks.sets import Floats, Ints, K, Rows
from benchmarks.systems import System

# Links per row and ef_construction: defaults, then more.
_GRAPHS = ({"M": 16, "ef": 200}, {"M": 32, "ef": 400})
_SYNC = 10_000
_HOUR = 3600.0  # seconds
_CPUS = os.cpu_count() or 1


class Hnswlib(System):
    knob = "ef"
    steps = ({"M": 16, "ef": 200},)

    def build(self, rows: Rows, folder: Path, step: dict[str, Any]) -> dict[str, Any]:
        import hnswlib

        index = hnswlib.Index(space="l2", dim=rows.dim)
        with Watch() as took:
            index.init_index(rows.count, M=step["M"], ef_construction=step["ef"])
            for first, part in rows.parts():
                numbers = np.arange(first, first + len(part))
                index.add_items(part, numbers, num_threads=_CPUS)
        with Watch() as saved:
            index.save_index(str(folder / "index"))
        np.save(folder / "shape.npy", [rows.count, rows.dim])
        return {
            "index_s": took.seconds,
            "save_s": saved.seconds,
            "parameters": {"M": step["M"], "ef_construction": step["ef"]},
        }

    def open(self, folder: Path, threads: int, *, cold: bool = False) -> None:
        import hnswlib

        count, dim = np.load(folder / "shape.npy").tolist()
        self.index = hnswlib.Index(space="l2", dim=dim)
        self.index.load_index(str(folder / "index"), max_elements=count)
        self.index.set_num_threads(threads)
        self.threads = threads

    def values(self) -> Sequence[int]:
        return grid(K, 2000)

    def set_knob(self, value: int) -> None:
        self.index.set_ef(value)

    def one(self, query: Floats) -> Sequence[int]:
        found, _ = self.index.knn_query(query, k=K, num_threads=1)
        return found[0].tolist()

    def many(self, queries: Floats) -> Ints:
        found, _ = self.index.knn_query(queries, k=K, num_threads=self.threads)
        return np.asarray(found, np.int64)


class HnswlibWide(Hnswlib):
    steps = ({"M": 32, "ef": 200},)


class Usearch(System):
    knob = "expansion_search"
    steps = ({"M": 16, "ef": 128},)

    def build(self, rows: Rows, folder: Path, step: dict[str, Any]) -> dict[str, Any]:
        from usearch.index import Index

        index = Index(
            ndim=rows.dim,
            metric="l2sq",
            dtype="f32",
            connectivity=step["M"],
            expansion_add=step["ef"],
        )
        with Watch() as took:
            for first, part in rows.parts():
                index.add(np.arange(first, first + len(part)), part, threads=_CPUS)
        with Watch() as saved:
            index.save(str(folder / "index"))
        return {
            "index_s": took.seconds,
            "save_s": saved.seconds,
            "parameters": {"connectivity": step["M"], "expansion_add": step["ef"]},
        }

    def open(self, folder: Path, threads: int, *, cold: bool = False) -> None:
        from usearch.index import Index

        index = Index.restore(str(folder / "index"), view=cold)
        if index is None:
            raise OSError("usearch did not open its index")
        self.index = index
        self.threads = threads

    def values(self) -> Sequence[int]:
        return grid(K, 2000)

    def set_knob(self, value: int) -> None:
        self.index.expansion_search = value

    def one(self, query: Floats) -> Sequence[int]:
        keys: Any = self.index.search(query, K, threads=1).keys
        return keys.tolist()

    def many(self, queries: Floats) -> Ints:
        return np.asarray(self.index.search(queries, K, threads=self.threads).keys, np.int64)


class UsearchWide(Usearch):
    steps = ({"M": 32, "ef": 128},)


class Chroma(System):
    """HNSW of hnswlib, built while rows are added."""

    knob = "ef_search"
    steps = ({"M": 16, "ef": 100}, {"M": 32, "ef": 200})

    def _client(self, folder: Path) -> Any:
        import chromadb

        settings = chromadb.Settings(anonymized_telemetry=False)
        return chromadb.PersistentClient(path=str(folder / "chroma"), settings=settings)

    def build(self, rows: Rows, folder: Path, step: dict[str, Any]) -> dict[str, Any]:
        with Watch() as took:
            client = self._client(folder)
            graph = {
                "space": "l2",
                "max_neighbors": step["M"],
                "ef_construction": step["ef"],
                "num_threads": _CPUS,
                # By default the whole index is written after every 1,000 rows.
                "sync_threshold": _SYNC,
            }
            collection = client.create_collection(
                "rows", embedding_function=None, configuration={"hnsw": graph}
            )
            most = min(client.get_max_batch_size(), 5000)
            for first, part in rows.parts(most):
                numbers = [str(number) for number in range(first, first + len(part))]
                collection.add(ids=numbers, embeddings=part)
        return {
            "add_s": took.seconds,
            "parameters": {"max_neighbors": step["M"], "ef_construction": step["ef"]},
        }

    def open(self, folder: Path, threads: int, *, cold: bool = False) -> None:
        self.folder = folder
        self.client = self._client(folder)
        # None: not the default function, which would load a text model.
        self.collection = self.client.get_collection("rows", embedding_function=None)

    def values(self) -> Sequence[int]:
        return grid(K, 2000)

    def set_knob(self, value: int) -> None:
        from chromadb.api.shared_system_client import SharedSystemClient

        if self.collection.configuration["hnsw"]["ef_search"] == value:
            return
        self.collection.modify(configuration={"hnsw": {"ef_search": value}})
        # An open index keeps the ef it was opened with.
        self.client.close()
        SharedSystemClient.clear_system_cache()
        self.open(self.folder, 1)

    def one(self, query: Floats) -> Sequence[int]:
        return self._ask([query])[0]

    def many(self, queries: Floats) -> Ints:
        return lines(self._ask(queries), K)

    def _ask(self, queries: Any) -> list[list[int]]:
        found = self.collection.query(query_embeddings=queries, n_results=K, include=[])
        return [[int(name) for name in line] for line in found["ids"]]


class Qdrant(System):
    """Its local mode: all vectors in memory, compared by numpy."""

    def _client(self, folder: Path) -> Any:
        import warnings

        from qdrant_client import QdrantClient

        # Above 20,000 points it advises to run a server instead.
        warnings.filterwarnings("ignore", module="qdrant_client")
        warnings.filterwarnings("ignore", message=".*local mode.*", category=UserWarning)
        return QdrantClient(path=str(folder / "qdrant"))

    def build(self, rows: Rows, folder: Path, step: dict[str, Any]) -> dict[str, Any]:
        from qdrant_client import models

        with Watch() as took:
            client = self._client(folder)
            size = models.VectorParams(size=rows.dim, distance=models.Distance.EUCLID)
            client.create_collection("rows", vectors_config=size)
            for first, part in rows.parts(10_000):
                numbers = range(first, first + len(part))
                client.upload_collection("rows", vectors=part, ids=numbers)
            client.close()
        return {"add_s": took.seconds, "parameters": {}}

    def open(self, folder: Path, threads: int, *, cold: bool = False) -> None:
        self.client = self._client(folder)

    def one(self, query: Floats) -> Sequence[int]:
        found = self.client.query_points("rows", query, limit=K, with_payload=False)
        return [point.id for point in found.points]

    def many(self, queries: Floats) -> Ints:
        from qdrant_client import models

        asked = [
            models.QueryRequest(query=query.tolist(), limit=K, with_payload=False)
            for query in queries
        ]
        found = self.client.query_batch_points("rows", requests=asked)
        return lines([[point.id for point in answer.points] for answer in found], K)

    def close(self) -> None:
        self.client.close()


class Milvus(System):
    knob = "ef"
    steps = _GRAPHS

    def _client(self, folder: Path) -> Any:
        from pymilvus import MilvusClient

        return MilvusClient(str(folder / "milvus.db"))

    def build(self, rows: Rows, folder: Path, step: dict[str, Any]) -> dict[str, Any]:
        from pymilvus import DataType

        with Watch() as added:
            client = self._client(folder)
            schema = client.create_schema(auto_id=False)
            schema.add_field("id", DataType.INT64, is_primary=True)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=rows.dim)
            client.create_collection("rows", schema=schema)
            for first, part in rows.parts(10_000):
                entries = [
                    {"id": first + number, "vector": vector} for number, vector in enumerate(part)
                ]
                client.insert("rows", entries)
            client.flush("rows")
        with Watch() as indexed:
            index = client.prepare_index_params()
            index.add_index(
                field_name="vector",
                index_type="HNSW",
                metric_type="L2",
                params={"M": step["M"], "efConstruction": step["ef"]},
            )
            # Without a limit it is asked again while it works, and says "already exists".
            client.create_index("rows", index, timeout=_HOUR)
            client.load_collection("rows")
        client.close()
        return {
            "add_s": added.seconds,
            "index_s": indexed.seconds,
            "parameters": {"M": step["M"], "efConstruction": step["ef"]},
        }

    def open(self, folder: Path, threads: int, *, cold: bool = False) -> None:
        self.client = self._client(folder)
        self.client.load_collection("rows")
        self.value = K

    def values(self) -> Sequence[int]:
        return grid(K, 2000)

    def set_knob(self, value: int) -> None:
        self.value = value

    def one(self, query: Floats) -> Sequence[int]:
        return self._ask([query])[0]

    def many(self, queries: Floats) -> Ints:
        # Answers of a few hundred at a time: gRPC limits the size of a message.
        return lines(
            [line for start in range(0, len(queries), 250)
             for line in self._ask(list(queries[start : start + 250]))],
            K,
        )  # fmt: skip

    def _ask(self, queries: list[Floats]) -> list[list[int]]:
        options = {"params": {"ef": self.value}}
        found = self.client.search("rows", data=queries, limit=K, search_params=options)
        return [[hit["id"] for hit in line] for line in found]

    def close(self) -> None:
        self.client.close()
