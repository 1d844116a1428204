"""An index that a stranger wrote is refused where FAISS would read past the end of its memory."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest

from latentdb.ann.builder import build
from latentdb.ann.exact import Block
from latentdb.ann.index import VectorIndex
from latentdb.ann.plan import HNSW, Plan
from latentdb.base.errors import CorruptStoreError
from tests.ann.vectors import DIM, NONE, make


@pytest.fixture(scope="module")
def graph() -> VectorIndex:
    vectors = make("uniform", 6_000)
    blocks = [Block(np.arange(6_000), vectors)]
    built = build(
        lambda: iter(blocks), DIM, lambda rows: vectors[rows], Plan((HNSW,), 1, 0, ""), recall=0.99
    )
    assert built is not None
    return built[0]


def forged(index: VectorIndex, name: str) -> bytes:
    """A graph with one thing wrong, as bytes."""
    copied = index.copy()
    outer: Any = copied._outer
    inner: Any = faiss.downcast_index(outer.index)
    hnsw = inner.hnsw
    links = faiss.rev_swig_ptr(hnsw.neighbors.data(), hnsw.neighbors.size())
    levels = faiss.rev_swig_ptr(hnsw.levels.data(), hnsw.levels.size())
    starts = faiss.rev_swig_ptr(hnsw.offsets.data(), hnsw.offsets.size())
    widths = faiss.vector_to_array(hnsw.cum_nneighbor_per_level)
    low, high = int(np.flatnonzero(levels == 1)[-1]), int(np.flatnonzero(levels > 1)[0])
    if name == "a link past the rows":
        links[0] = len(levels)
    elif name == "a link to nowhere":
        links[0] = -7
    elif name == "a link to a row of a lower level":
        links[int(starts[high]) + int(widths[1])] = low
    elif name == "an entry past the rows":
        hnsw.entry_point = len(levels)
    elif name == "an entry on a lower level":
        hnsw.entry_point = low
    elif name == "a level past the highest":
        hnsw.max_level = 60
    elif name == "a row on another level":
        levels[low] = 2
    elif name == "links past the end":
        starts[5] = 10**9
    elif name == "fewer row numbers":
        outer.id_map.resize(len(levels) - 1)
    elif name == "fewer codes":
        codes: Any = faiss.downcast_index(inner.storage)
        codes.codes.resize(8)
    return bytes(copied.dump())


@pytest.mark.parametrize(
    "name",
    [
        "a link past the rows",
        "a link to nowhere",
        "a link to a row of a lower level",
        "an entry past the rows",
        "an entry on a lower level",
        "a level past the highest",
        "a row on another level",
        "links past the end",
        "fewer row numbers",
        "fewer codes",
    ],
)
def test_a_forged_graph_is_refused(graph: VectorIndex, name: str) -> None:
    with pytest.raises(CorruptStoreError, match="the search index"):
        VectorIndex.load(forged(graph, name), graph.parameters, rows=6_000, dim=DIM)


def test_a_valid_graph_is_not_refused(graph: VectorIndex) -> None:
    data = forged(graph, "nothing")
    assert VectorIndex.load(data, graph.parameters, rows=6_000, dim=DIM).rows == 6_000


def forged_fast_scan(name: str) -> bytes:
    """An inverted file of 4-bit codes with one thing wrong, as bytes."""
    vectors = make("uniform", 600)
    made: Any = faiss.IndexIVFPQFastScan(
        faiss.IndexFlatL2(DIM), DIM, 8, DIM // 2 if name == "codes of two dimensions" else DIM, 4
    )
    made.by_residual = name == "codes of residuals"
    made.cp.min_points_per_centroid = made.pq.cp.min_points_per_centroid = 1
    made.train(vectors)
    made.add(vectors)
    if name == "fewer centroids of the codes":
        made.pq.centroids.resize(8)
    elif name == "another number of sub-quantizers":
        made.M2 = 4 * DIM
    elif name == "longer blocks":
        made.bbs = 64
    elif name == "fewer centroids":
        made.quantizer.ntotal = 7
    return faiss.serialize_index(made).tobytes()


@pytest.mark.parametrize(
    "name",
    [
        "codes of two dimensions",
        "codes of residuals",
        "fewer centroids of the codes",
        "another number of sub-quantizers",
        "longer blocks",
        "fewer centroids",
    ],
)
def test_forged_4_bit_codes_are_refused(name: str) -> None:
    with pytest.raises(CorruptStoreError, match="the search index"):
        VectorIndex.load(forged_fast_scan(name), {"effort_10": 1}, rows=600, dim=DIM)


@pytest.mark.parametrize(
    ("parameters", "depth"),
    [
        ({}, 36),
        ({"width_10": 72}, 72),
        ({"width_10": 10**15}, 144),
        ({"width_10": -1}, 36),
        ({"width_x": 72}, 36),
    ],
)
def test_a_forged_rerank_depth_takes_no_memory(parameters: dict[str, int], depth: int) -> None:
    data = forged_fast_scan("nothing")
    opened = VectorIndex.load(data, {"effort_10": 2, **parameters}, rows=600, dim=DIM)
    assert opened.rerank_depth(10) == depth
    assert opened.search(make("uniform", 3), 10, NONE).rows.shape == (3, depth)


def test_lists_without_flat_centroids_are_refused() -> None:
    """Their centroids are in a graph, which nothing checks."""
    vectors = make("uniform", 600)
    centroids: Any = faiss.IndexHNSWFlat(DIM, 8)
    lists: Any = faiss.IndexIVFScalarQuantizer(
        centroids, DIM, 8, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2
    )
    lists.train(vectors)
    lists.add(vectors)
    data = faiss.serialize_index(lists).tobytes()
    with pytest.raises(CorruptStoreError, match="its inverted lists have no flat centroids"):
        VectorIndex.load(data, {"effort_10": 1}, rows=600, dim=DIM)


@pytest.mark.parametrize("count", [7, 9])
def test_lists_with_other_centroids_than_lists_are_refused(count: int) -> None:
    vectors = make("uniform", 600)
    lists: Any = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatL2(DIM), DIM, 8, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2
    )
    lists.train(vectors)
    lists.add(vectors)
    other: Any = faiss.IndexFlatL2(DIM)
    other.add(vectors[:count])
    lists.quantizer = other
    data = faiss.serialize_index(lists).tobytes()
    with pytest.raises(CorruptStoreError, match="the search index"):
        VectorIndex.load(data, {"effort_10": 1}, rows=600, dim=DIM)


def test_a_rotation_of_another_size_is_refused() -> None:
    vectors = make("uniform", 600)
    lists: Any = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatL2(4), 4, 8, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2
    )
    lists.train(vectors[:, :4].copy())
    rotation: Any = faiss.LinearTransform(DIM, 4, False)
    faiss.copy_array_to_vector(np.eye(4, DIM, dtype=np.float32).reshape(-1), rotation.A)
    rotation.is_trained = True
    both: Any = faiss.IndexPreTransform(rotation, lists)
    both.add_with_ids(vectors, np.arange(600))
    data = faiss.serialize_index(both).tobytes()
    assert VectorIndex.load(data, {"effort_10": 1}, rows=600, dim=DIM).rows == 600
    rotation.A.resize(3)
    data = faiss.serialize_index(both).tobytes()
    with pytest.raises(CorruptStoreError, match="the search index"):
        VectorIndex.load(data, {"effort_10": 1}, rows=600, dim=DIM)
