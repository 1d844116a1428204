"""What every system that is measured can do, and the list of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from benchmarks.sets import Floats, Ints, Rows


class Missing(Exception):
    """A system that cannot do what is asked, in one line."""


class System:
    """A system under measurement; one instance lives in one process.

    Attributes
    ----------
    knob
        Name of the parameter of a search that is tuned; none for an exact search,
        or where the recall itself is the input.
    steps
        Ways to build, tried in turn until one reaches the recall: the library's
        own defaults first.
    """

    knob = ""
    steps: Sequence[dict[str, Any]] = ({},)

    def build(self, rows: Rows, folder: Path, step: dict[str, Any]) -> dict[str, Any]:
        """Store all rows in a folder; give ``add_s`` and ``index_s``, as far as they are
        apart, and ``parameters``."""
        raise NotImplementedError

    def open(self, folder: Path, threads: int, *, cold: bool = False) -> None:
        """Make what is stored ready for searches with so many threads.

        With `cold` in the way that answers a first query soonest.
        """
        raise NotImplementedError

    def values(self) -> Sequence[int]:
        """What the knob may be, ascending."""
        return ()

    def set_knob(self, value: int) -> None:
        """Set the knob."""

    def one(self, query: Floats) -> Sequence[int]:
        """Numbers of the 10 rows nearest to one query."""
        raise NotImplementedError

    def many(self, queries: Floats) -> Ints:
        """The same for many at once: ``[q, 10]``."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what is open."""


@dataclass(frozen=True)
class Entry:
    """A line of the table.

    Attributes
    ----------
    title
        What the table calls it.
    home
        Module and class, loaded only in the process that measures it.
    packages
        Distributions whose versions are reported; none for what is in this clone.
    peer
        Whether it is looked for in the environment of the peers.
    note
        What a reader of the table should know.
    """

    title: str
    home: str
    packages: tuple[str, ...] = ()
    peer: bool = True
    note: str = ""


SYSTEMS: dict[str, Entry] = {
    "latentdb": Entry("latentdb", "latentdb_system:Default", ("latentdb", "faiss-cpu"), False),
    "latentdb-latency": Entry(
        'latentdb, `prefer="latency"`', "latentdb_system:Latency", ("latentdb", "faiss-cpu"), False
    ),
    "faiss-ivf-sq8": Entry(
        "FAISS IVF-SQ8, ranked by the vectors", "raw:IvfCodes", ("faiss-cpu",), False
    ),
    "faiss-hnsw-sq8": Entry(
        "FAISS HNSW32-SQ8, ranked by the vectors", "raw:GraphCodes", ("faiss-cpu",), False
    ),
    "faiss-ivf-flat": Entry("FAISS IVF-flat", "raw:IvfFlat", ("faiss-cpu",), False),
    # By their defaults, quick to build, and with twice the links, quicker on hard sets.
    "hnswlib": Entry("hnswlib", "peers:Hnswlib", ("hnswlib",)),
    "hnswlib-32": Entry("hnswlib, M 32", "peers:HnswlibWide", ("hnswlib",)),
    "usearch": Entry("usearch", "peers:Usearch", ("usearch",)),
    "usearch-32": Entry("usearch, connectivity 32", "peers:UsearchWide", ("usearch",)),
    "scann": Entry("ScaNN, tree and 4-bit codes, re-ranked", "trees:Scann", ("scann",)),
    "lancedb-ivf": Entry("LanceDB IVF-flat", "lance:Ivf", ("lancedb",)),
    "lancedb-hnsw": Entry("LanceDB HNSW-SQ, refined", "lance:Graph", ("lancedb",)),
    "chroma": Entry("Chroma", "peers:Chroma", ("chromadb",)),
    "qdrant": Entry(
        "Qdrant local",
        "peers:Qdrant",
        ("qdrant-client",),
        note="Qdrant's local mode compares every vector in numpy: its answers are exact",
    ),
    "milvus": Entry(
        "Milvus Lite HNSW",
        "peers:Milvus",
        ("milvus-lite", "pymilvus"),
        note="Milvus Lite answers through gRPC within its process, "
        "from one index for every 100,000 rows or so",
    ),
}


def make(name: str) -> System:
    """An instance of a system, in this process."""
    module, kind = SYSTEMS[name].home.split(":")
    return cast(System, getattr(import_module(f"benchmarks.{module}"), kind)())
