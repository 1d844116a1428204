"""Refuse a search index whose fields contradict each other.

A checksum detects damage, not intent: a stranger may have written the index, and
FAISS reads past the end of arrays that are shorter than other fields say.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from latentdb.ann.plan import BITS, BLOCK
from latentdb.base.errors import CorruptStoreError


def rotation_of(index: Any) -> Any:
    """The first transform of an ``IndexPreTransform``."""
    import faiss

    return faiss.downcast_VectorTransform(index.chain.at(0))


def is_supported(index: Any) -> bool:
    """Whether an index is of a type that latentdb builds."""
    import faiss

    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain
        rotation = rotation_of(index)
        is_rotation = isinstance(rotation, faiss.LinearTransform) and not rotation.have_bias
        if chain.size() != 1 or not is_rotation:
            return False
        index = faiss.downcast_index(index.index)
    supported: Any = (faiss.IndexIVFScalarQuantizer, faiss.IndexIVFPQFastScan)
    if isinstance(index, faiss.IndexIDMap):
        index = faiss.downcast_index(index.index)
        supported = (faiss.IndexHNSWSQ,)
    return isinstance(index, supported) and bool(index.metric_type == faiss.METRIC_L2)


def check_structure(index: Any) -> None:
    """Refuse a supported index that FAISS would read past the end of.

    Raises
    ------
    CorruptStoreError
        Says which part contradicts another.
    """
    import faiss

    if isinstance(index, faiss.IndexPreTransform):
        rotation = rotation_of(index)
        inner = faiss.downcast_index(index.index)
        sizes = (rotation.d_in, rotation.d_out, rotation.A.size(), inner.ntotal)
        if sizes != (index.d, inner.d, index.d * inner.d, index.ntotal):
            raise _invalid("its rotation has another size than its vectors")
        index = inner
    if isinstance(index, faiss.IndexIDMap):
        graph: Any = faiss.downcast_index(index.index)
        if not _fits_graph(index, graph):
            raise _invalid("its codes have another size than its graph")
        if index.ntotal and not _is_valid_hnsw(graph.hnsw, int(index.ntotal)):
            raise _invalid("its graph has invalid links")
        return
    centroids = faiss.downcast_index(index.quantizer)
    if not isinstance(centroids, faiss.IndexFlat):
        raise _invalid("its inverted lists have no flat centroids")
    if (centroids.ntotal, centroids.d) != (index.nlist, index.d):
        raise _invalid("it has other centroids than inverted lists")
    if isinstance(index, faiss.IndexIVFPQFastScan) and not _is_valid_fast_scan(index):
        raise _invalid("its 4-bit codes have another size than its inverted lists")


def _invalid(reason: str) -> CorruptStoreError:
    return CorruptStoreError(f"the search index cannot be read: {reason}")


def _fits_graph(index: Any, graph: Any) -> bool:
    """Whether row numbers, graph and 8-bit codes have the same rows and dimensions."""
    import faiss

    codes: Any = faiss.downcast_index(graph.storage)
    return (
        isinstance(codes, faiss.IndexScalarQuantizer)
        and index.ntotal == graph.ntotal == codes.ntotal == index.id_map.size()
        and index.d == graph.d == codes.d == codes.code_size
        and codes.codes.size() == codes.ntotal * codes.d
    )


def _is_valid_fast_scan(index: Any) -> bool:
    """Whether an inverted file has a 4-bit code for each dimension of the vectors themselves.

    FAISS compares the length of each list with its row numbers since 1.15 only,
    and Python cannot reach the codes.
    """
    import faiss

    module: Any = faiss
    quantizer, lists = index.pq, faiss.downcast_InvertedLists(index.invlists)
    dim = index.d
    return (
        isinstance(lists, module.BlockInvertedLists)
        and not index.by_residual
        and (index.M, index.nbits, index.ksub, index.bbs) == (dim, BITS, 1 << BITS, BLOCK)
        and (quantizer.d, quantizer.M, quantizer.nbits) == (dim, dim, BITS)
        and (quantizer.dsub, quantizer.ksub) == (1, 1 << BITS)
        and quantizer.centroids.size() == dim << BITS
        and dim + dim % 2 == index.M2
        and (lists.n_per_block, lists.block_size) == (BLOCK, BLOCK * index.M2 * BITS // 8)
        and lists.nlist == index.nlist
    )


def _is_valid_hnsw(hnsw: Any, rows: int) -> bool:
    """Whether every link of a graph leads to a row that is on the level of the link.

    FAISS checks the range of links only, and that since 1.15.
    """
    import faiss

    # Of a row, links of levels below `level` take `widths[level]` entries from `starts[row]` on.
    widths = faiss.vector_to_array(hnsw.cum_nneighbor_per_level).astype(np.int64)
    levels = faiss.vector_to_array(hnsw.levels)  # levels that a row is on, at least 1
    starts = faiss.vector_to_array(hnsw.offsets).astype(np.int64)
    size = hnsw.neighbors.size()
    if not (
        len(levels) == rows == len(starts) - 1
        and len(widths) > 1
        and widths[0] == 0
        and (np.diff(widths) >= 0).all()
        and 1 <= levels.min() <= levels.max() < len(widths)
        and starts[0] == 0
        and starts[-1] == size
        and np.array_equal(np.diff(starts), widths[levels])
        and 0 <= hnsw.entry_point < rows
        and 0 <= hnsw.max_level < levels[hnsw.entry_point]
    ):
        return False
    links = faiss.rev_swig_ptr(hnsw.neighbors.data(), size)
    version = tuple(int(part) for part in faiss.__version__.split(".")[:2] if part.isdecimal())
    if version < (1, 15) and not -1 <= links.min() <= links.max() < rows:
        return False
    for level in range(1, int(levels.max())):
        members = np.flatnonzero(levels > level)  # one row in 32 of the level below
        offsets = np.arange(widths[level], widths[level + 1])
        targets = links[starts[members, None] + offsets]
        if (targets >= rows).any() or (levels[targets[targets >= 0]] <= level).any():
            return False
    return True
