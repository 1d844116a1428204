"""Refuse a search index whose parts do not fit each other.

A checksum tells damage from what was written, not who wrote it; faiss believes
what it reads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from latentdb.ann.plan import BITS, BLOCK
from latentdb.base.errors import CorruptStoreError


def rotation_of(index: Any) -> Any:
    """The first transform of an index."""
    import faiss

    return faiss.downcast_VectorTransform(index.chain.at(0))


def is_supported(index: Any) -> bool:
    """Whether an index is of one of the kinds that are built here."""
    import faiss

    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain
        turn = rotation_of(index)
        if chain.size() != 1 or not isinstance(turn, faiss.LinearTransform) or turn.have_bias:
            return False
        index = faiss.downcast_index(index.index)
    if isinstance(index, faiss.IndexIDMap):
        index = faiss.downcast_index(index.index)
        kinds: Any = (faiss.IndexHNSWSQ,)
    else:
        kinds = (faiss.IndexIVFScalarQuantizer, faiss.IndexIVFPQFastScan)
    return isinstance(index, kinds) and bool(index.metric_type == faiss.METRIC_L2)


def check_structure(index: Any) -> None:
    """Refuse an index whose parts do not fit each other: faiss would read past their ends.

    Raises
    ------
    CorruptStoreError
        Says which part.
    """
    import faiss

    if isinstance(index, faiss.IndexPreTransform):
        turn = rotation_of(index)
        inner = faiss.downcast_index(index.index)
        sides = (turn.d_in, turn.d_out, turn.A.size(), inner.ntotal)
        if sides != (index.d, inner.d, index.d * inner.d, index.ntotal):
            raise CorruptStoreError("the search index cannot be read: its axes do not fit it")
        index = inner
    if isinstance(index, faiss.IndexIDMap):
        graph: Any = faiss.downcast_index(index.index)
        codes: Any = faiss.downcast_index(graph.storage)
        if not (
            isinstance(codes, faiss.IndexScalarQuantizer)
            and index.ntotal == graph.ntotal == codes.ntotal == index.id_map.size()
            and index.d == graph.d == codes.d == codes.code_size
            and codes.codes.size() == codes.ntotal * codes.d
        ):
            raise CorruptStoreError("the search index cannot be read: its codes do not fit it")
        if index.ntotal and not _is_graph(graph.hnsw, int(index.ntotal)):
            raise CorruptStoreError("the search index cannot be read: its graph has loose ends")
        return
    centres = faiss.downcast_index(index.quantizer)
    if not isinstance(centres, faiss.IndexFlat):
        raise CorruptStoreError("the search index cannot be read: its lists have no centres")
    if isinstance(index, faiss.IndexIVFPQFastScan) and not _are_nibbles(index, centres):
        raise CorruptStoreError("the search index cannot be read: its codes do not fit it")


def _are_nibbles(index: Any, centres: Any) -> bool:
    """Whether an inverted file has codes of 4 bits for each dimension, of the vectors themselves.

    That every list is as long as its row numbers say is looked at by faiss since
    1.15, and by nobody before: Python cannot reach the codes.
    """
    import faiss

    kinds: Any = faiss
    codes, lists = index.pq, faiss.downcast_InvertedLists(index.invlists)
    dim = index.d
    return (
        isinstance(lists, kinds.BlockInvertedLists)
        and not index.by_residual
        and (index.M, index.nbits, index.ksub, index.bbs) == (dim, BITS, 1 << BITS, BLOCK)
        and (codes.d, codes.M, codes.nbits) == (dim, dim, BITS)
        and (codes.dsub, codes.ksub) == (1, 1 << BITS)
        and codes.centroids.size() == dim << BITS
        and dim + dim % 2 == index.M2
        and (lists.n_per_block, lists.block_size) == (BLOCK, BLOCK * index.M2 * BITS // 8)
        and lists.nlist == index.nlist == centres.ntotal
        and centres.d == dim
    )


def _is_graph(hnsw: Any, rows: int) -> bool:
    """Whether every link of a graph leads to a row that is on the floor of the link.

    faiss looks at row numbers alone, and versions before 1.15 not even at those.
    """
    import faiss

    width = faiss.vector_to_array(hnsw.cum_nneighbor_per_level).astype(np.int64)
    floors = faiss.vector_to_array(hnsw.levels)
    starts = faiss.vector_to_array(hnsw.offsets).astype(np.int64)
    size = hnsw.neighbors.size()
    if not (
        len(floors) == rows == len(starts) - 1
        and len(width) > 1
        and width[0] == 0
        and (np.diff(width) >= 0).all()
        and 1 <= floors.min() <= floors.max() < len(width)
        and starts[0] == 0
        and starts[-1] == size
        and np.array_equal(np.diff(starts), width[floors])
        and 0 <= hnsw.entry_point < rows
        and 0 <= hnsw.max_level < floors[hnsw.entry_point]
    ):
        return False
    links = faiss.rev_swig_ptr(hnsw.neighbors.data(), size)
    version = tuple(int(part) for part in faiss.__version__.split(".")[:2] if part.isdecimal())
    if version < (1, 15) and not -1 <= links.min() <= links.max() < rows:
        return False
    for floor in range(1, int(floors.max())):
        own = np.flatnonzero(floors > floor)  # one row in 32 of the floor below
        places = (starts[own] + width[floor])[:, None] + np.arange(width[floor + 1] - width[floor])
        ends = links[places]
        if (ends >= rows).any() or (floors[ends[ends >= 0]] <= floor).any():
            return False
    return True
