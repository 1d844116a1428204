"""`VectorIndex`: a FAISS index of codes that gives candidates by row number.

It knows arrays and row numbers, never the store. Codes have 4 or 8 bits a dimension; the
candidates are ranked afterwards by the vectors themselves (`latentdb.ann.exact.rank`).
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import numpy as np

from latentdb.ann.exact import (
    MAX_SQUARE,
    Candidates,
    Floats,
    Ints,
    faiss_threads,
    is_overflow,
)
from latentdb.ann.plan import HNSW, IVF, IVF4
from latentdb.ann.validation import check_structure, is_supported, rotation_of
from latentdb.base.errors import CorruptStoreError

Buffer = bytes | memoryview | mmap.mmap

# Largest re-rank depth in multiples of the least one: beyond, 8-bit codes are faster than 4-bit.
MAX_RERANK_FACTOR = 4
# The same for queries composed of rows: the gaps between their distances are smaller.
MAX_COMPOSED_FACTOR = 16
# FAISS checks the size of tables it would compute, though none are made here, against its limit on
# vectors: at most 16 times the centroids, more than the whole file only of a small index.
_TABLE_FACTOR, _MAX_TABLE_BYTES = 16, 64 << 20
_LIMIT_LOCK = threading.Lock()  # that limit is one for the whole process
_COUNTER_LOCK = threading.Lock()  # so is the counter of the vectors that graphs compare
# Fast scans go list by list with a reservoir of candidates.  The default makes 32 queries share
# lists: it takes up to 1.8 times as long for one query, and 1.1 times for 500.
_LIST_BY_LIST = 11
_AS_IT_IS = nullcontext()
_PARALLEL_QUERIES = 3  # threads share out queries; by default they do not with given lists


def least_rerank_depth(k: int) -> int:
    """Candidates to rank for `k` neighbours where the codes are nearly exact."""
    return 2 * k + 16


def _deserialize(data: Buffer, *, copy: bool) -> Any:
    """The FAISS index of some bytes, which it maps unless they are copied."""
    import faiss

    reader: Any = faiss
    view = np.frombuffer(data, np.uint8)
    with _LIMIT_LOCK:
        # Without a limit, a forged size makes FAISS allocate more memory than there is.
        before = faiss.get_deserialization_vector_byte_limit()
        limit = max(len(data), min(_TABLE_FACTOR * len(data), _MAX_TABLE_BYTES))
        faiss.set_deserialization_vector_byte_limit(limit)
        try:
            if copy:
                return faiss.deserialize_index(view)
            return faiss.read_index(reader.ZeroCopyIOReader(faiss.swig_ptr(view), view.size))
        finally:
            faiss.set_deserialization_vector_byte_limit(before)


class VectorIndex:
    """An inverted file, or an HNSW graph, of codes by row number.

    Parameters
    ----------
    faiss_index
        The index.
    parameters
        As tuned: see `latentdb.ann.tuning.Tuning`.
    buffer
        The memory that the index is mapped from, kept alive with it.

    Attributes
    ----------
    kind
        `latentdb.ann.plan.IVF4`, `latentdb.ann.plan.IVF` or `latentdb.ann.plan.HNSW`.
    nprobes
        nprobe of an inverted file, or ef_search of a graph, by number of neighbours, ascending.
    rerank_depths
        Candidates to rank by number of neighbours, where they are tuned.
    composed
        nprobe and candidates to rank by number of neighbours, for queries composed of rows.
    max_k
        Neighbours it is tuned for at most; more are found by a scan.
    """

    parameters: dict[str, int]
    nprobes: dict[int, int]
    rerank_depths: dict[int, int]
    composed: dict[int, tuple[int, int]]
    max_k: int

    def __init__(
        self, faiss_index: Any, parameters: Mapping[str, int], buffer: Buffer | None = None
    ) -> None:
        import faiss

        self._outer = faiss_index
        self._buffer = buffer
        self.set_parameters(parameters)
        self._basis: Floats | None = None
        inner = faiss_index
        if isinstance(inner, faiss.IndexPreTransform):
            rotation = rotation_of(inner)
            shape = (rotation.d_out, rotation.d_in)
            self._basis = np.ascontiguousarray(faiss.vector_to_array(rotation.A).reshape(shape).T)
            inner = faiss.downcast_index(inner.index)
        self._inner = inner
        if isinstance(inner, faiss.IndexIDMap):
            self.kind = HNSW
        else:
            self.kind = IVF4 if isinstance(inner, faiss.IndexIVFPQFastScan) else IVF
            inner.parallel_mode = _PARALLEL_QUERIES
        # Set once, for searches of every size: threads that search share the index.
        if self.kind == IVF4:
            inner.implem = _LIST_BY_LIST
        self._search_parameters: dict[int, Any] = {}

    def set_parameters(self, parameters: Mapping[str, int]) -> None:
        """Search with other tuned parameters from now on."""
        self.parameters = dict(parameters)
        nprobes, depths, composed = {}, {}, {}
        for name, value in self.parameters.items():
            prefix, _, k = name.rpartition("_")
            if not k.isdecimal():
                continue
            # Format version 1 knew only inverted files, and named them "probes".
            if prefix in ("effort", "probes") and value >= 1:
                nprobes[int(k)] = value
            elif prefix == "width":
                least = least_rerank_depth(int(k))
                depths[int(k)] = min(max(value, least), MAX_RERANK_FACTOR * least)
            elif prefix == "composed" and value >= 1:
                least = least_rerank_depth(int(k))
                depth = self.parameters.get(f"composed_width_{k}", 0)
                composed[int(k)] = value, min(max(depth, least), MAX_COMPOSED_FACTOR * least)
        self.nprobes = dict(sorted(nprobes.items()))
        self.rerank_depths = dict(sorted(depths.items()))
        self.composed = dict(sorted(composed.items()))
        self.max_k = max(self.nprobes, default=0)

    @classmethod
    def load(
        cls, data: Buffer, parameters: Mapping[str, int], *, rows: int, dim: int
    ) -> VectorIndex:
        """Open a serialized index whose checksum was compared, without copying it.

        Raises
        ------
        CorruptStoreError
            If it is no valid index, or not the one the manifest describes.
        """
        try:
            index = _deserialize(data, copy=False)
        except (RuntimeError, AssertionError, MemoryError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CorruptStoreError(f"the search index cannot be read: {reason}") from error
        if index.ntotal != rows or index.d != dim:
            raise CorruptStoreError(
                f"the search index has {index.ntotal} rows of {index.d} dimensions, "
                f"the manifest says {rows} of {dim}"
            )
        if not is_supported(index):
            raise CorruptStoreError(
                f"the search index is of a type other than {IVF4}, {IVF} and {HNSW}: "
                "latentdb optimize rebuilds it"
            )
        check_structure(index)
        opened = cls(index, parameters, data)
        if not opened.nprobes:
            raise CorruptStoreError("the search index has no parameters in the manifest")
        return opened

    def is_intact(self) -> bool:
        """Whether the mapped file still has its size: reading past a cut is SIGBUS."""
        buffer = self._buffer
        return not isinstance(buffer, mmap.mmap) or buffer.size() == len(buffer)

    def copy(self) -> VectorIndex:
        """The same index in memory, to which rows can be added."""
        return VectorIndex(_deserialize(self.dump(), copy=True), self.parameters)

    def dump(self) -> memoryview:
        """The serialized index: made in memory, because FAISS can report success on a full disk."""
        import faiss

        data: Any = faiss.serialize_index(self._outer)
        return memoryview(data).cast("B")

    @property
    def rows(self) -> int:
        """Rows in the index."""
        return int(self._outer.ntotal)

    @property
    def nlist(self) -> int:
        """Inverted lists; 0 for a graph."""
        return 0 if self.kind == HNSW else int(self._inner.nlist)

    @property
    def max_nprobe(self) -> int:
        """Lists, or rows that a graph visits, beyond which a scan of all vectors takes no longer.

        All 4-bit codes are compared in less than half of the time of the vectors.
        """
        if self.kind == HNSW:
            return self.rows // 8
        return self.nlist if self.kind == IVF4 else self.nlist // 2

    def row_numbers(self) -> Ints:
        """Row numbers in the index, ascending."""
        import faiss

        if self.kind == HNSW:
            return np.sort(faiss.vector_to_array(self._inner.id_map))
        parts = [np.empty(0, np.int64)]
        parts += [self._rows_in(number).copy() for number in range(self.nlist)]
        return np.sort(np.concatenate(parts))

    def list_of(self, rows: Ints) -> Ints:
        """The inverted list of each of some rows, from 1; 0 for a row that is not in the index.

        Parameters
        ----------
        rows
            int64 ``[n]``: row numbers, ascending.
        """
        result = np.zeros(len(rows) + 1, np.int64)  # the last is for rows of others
        gapless = len(rows) and rows[-1] - rows[0] + 1 == len(rows)
        for number in range(self.nlist):
            listed = self._rows_in(number)
            if gapless:
                positions = np.clip(listed - rows[0], -1, len(rows))
            else:
                positions = rows.searchsorted(listed)
                positions[np.append(rows, -1)[positions] != listed] = -1
            result[positions] = number + 1
        return result[:-1]

    def list_sizes(self) -> Ints:
        """Rows in each inverted list, deleted ones too: int64 ``[nlist]``."""
        lists = self._inner.invlists
        return np.array([lists.list_size(number) for number in range(self.nlist)], np.int64)

    def _rows_in(self, number: int) -> Ints:
        """Row numbers in an inverted list: memory of FAISS, not a copy."""
        import faiss

        lists = self._inner.invlists
        size = lists.list_size(number)
        if not size:
            return np.empty(0, np.int64)
        rows: Ints = faiss.rev_swig_ptr(lists.get_ids(number), size)
        return rows

    def add(self, vectors: Floats, rows: Ints) -> None:
        """Add rows to an index that was built or copied, not to one that is mapped."""
        with faiss_threads():
            self._inner.add_with_ids(self.rotated(vectors), rows)
        self.__dict__.pop("_list_sizes", None)
        if self._outer is not self._inner:
            self._outer.ntotal = self._inner.ntotal

    def search(self, queries: Floats, k: int, deleted: Ints) -> Candidates:
        """Candidates for the `k` nearest, at most `max_k`, with the tuned parameters.

        Parameters
        ----------
        queries
            float32 ``[q, d]``.
        k
            Neighbours wanted; more candidates come back, for ranking, but fewer
            where most rows around a query are deleted.
        deleted
            Row numbers, ascending, that must not come back.
        """
        return self.probe(queries, *self.effort(k), deleted)

    def effort(self, k: int) -> tuple[int, int]:
        """nprobe and re-rank depth for `k` neighbours of a row."""
        return self.nprobe(k), self.rerank_depth(k)

    def nprobe(self, k: int) -> int:
        """nprobe of an inverted file, or ef_search of a graph, for `k` neighbours."""
        for tuned, nprobe in self.nprobes.items():  # a generator takes longer than that
            if k <= tuned:
                return nprobe
        raise ValueError(f"{k} neighbours: this index is tuned for {self.max_k} at most")

    def rerank_depth(self, k: int) -> int:
        """Candidates to rank for `k` neighbours."""
        for tuned, depth in self.rerank_depths.items():
            if k <= tuned:
                return depth
        return least_rerank_depth(k)

    def composed_effort(self, k: int) -> tuple[int, int] | None:
        """nprobe and re-rank depth for `k` neighbours of a query composed of rows.

        None where a scan finds them: nothing less was measured to reach the recall.
        """
        return next((effort for tuned, effort in self.composed.items() if k <= tuned), None)

    def probe(self, queries: Floats, nprobe: int, depth: int, deleted: Ints) -> Candidates:
        """The `depth` nearest rows by their codes, with an nprobe (ef_search of a graph)."""
        rotated = np.ascontiguousarray(self.rotated(queries))
        # FAISS uses no other thread for one query in given lists.
        alone = len(queries) == 1 and self.kind != HNSW
        with _AS_IT_IS if alone else faiss_threads(len(queries)):
            if self.kind == HNSW:
                squares, rows, scanned = self._walk(rotated, max(nprobe, depth), depth)
            else:
                nprobe = min(nprobe, self.nlist)
                of_lists, lists = self._nearest_lists(rotated, nprobe)
                parameters = self._parameters_of(nprobe)
                squares, rows = self._search_lists(rotated, depth, lists, of_lists, parameters)
                scanned = int(self._list_sizes[lists].sum())
        # Lists of 8-bit codes leave these out themselves.  Squares ascend.
        farthest = squares.item(-1) if len(queries) == 1 else squares[:, -1].max(initial=0)
        if self.kind != IVF and not farthest < MAX_SQUARE:
            rows[is_overflow(squares)] = -1
        if len(deleted):
            positions = np.minimum(np.searchsorted(deleted, rows), len(deleted) - 1)
            rows[deleted[positions] == rows] = -1
        return Candidates(rows, scanned)

    def nearest_lists(self, queries: Floats) -> tuple[Floats, Ints]:
        """Every inverted list by distance of its centroid: squares and numbers ``[q, nlist]``."""
        with faiss_threads(len(queries)):
            return self._nearest_lists(np.ascontiguousarray(self.rotated(queries)), self.nlist)

    def _nearest_lists(self, rotated: Floats, count: int) -> tuple[Floats, Ints]:
        """Squared distances and numbers of the nearest inverted lists, ``[q, count]`` each."""
        import faiss

        squares = np.empty((len(rotated), count), np.float32)
        lists = np.empty((len(rotated), count), np.int64)
        pointer: Any = faiss.swig_ptr
        # Not its Python wrapper, which takes as long as the search itself.
        self._centroids.search_c(
            len(rotated), pointer(rotated), count, pointer(squares), pointer(lists)
        )
        return squares, lists

    @cached_property
    def _centroids(self) -> Any:
        return self._inner.quantizer

    def _search_lists(
        self, rotated: Floats, depth: int, lists: Ints, squares: Floats, parameters: Any
    ) -> tuple[Floats, Ints]:
        """Squared distances by codes, and rows, ``[q, depth]``, in given lists ``[q, nprobe]``."""
        import faiss

        found = np.empty((len(rotated), depth), np.float32)
        rows = np.empty((len(rotated), depth), np.int64)
        pointer: Any = faiss.swig_ptr
        # The Python wrapper of it takes no parameters (FAISS 1.15).
        self._inner.search_preassigned_c(
            len(rotated),
            pointer(rotated),
            depth,
            pointer(lists),
            pointer(squares),
            pointer(found),
            pointer(rows),
            False,
            parameters,
        )
        return found, rows

    def _walk(self, rotated: Floats, ef_search: int, depth: int) -> tuple[Floats, Ints, int]:
        """Squared distances by codes, and rows, ``[q, depth]``, of a graph; vectors compared.

        One thread at a time: FAISS counts them in one counter for the process.
        """
        import faiss

        counters: Any = faiss.cvar
        parameters = self._parameters_of(ef_search)
        with _COUNTER_LOCK:
            before = counters.hnsw_stats.ndis
            squares, rows = self._inner.search(rotated, depth, params=parameters)
            return squares, rows, int(counters.hnsw_stats.ndis - before)

    @cached_property
    def _list_sizes(self) -> Ints:
        """Rows in each inverted list, and 0 at the end: FAISS names no list -1."""
        return np.append(self.list_sizes(), 0)

    def rotated(self, vectors: Floats) -> Floats:
        """Vectors along the axes of the codes: float32 ``[n, dims]``."""
        return vectors if self._basis is None else vectors @ self._basis

    def quantized(self, vectors: Floats) -> Floats:
        """Rotated vectors rounded to 4-bit codes and decoded: float32 ``[n, dims]``."""
        quantizer = self._inner.pq
        decoded: Floats = quantizer.decode(quantizer.compute_codes(self.rotated(vectors)))
        return decoded

    def _parameters_of(self, nprobe: int) -> Any:
        import faiss

        if nprobe not in self._search_parameters:
            make: Any = faiss
            self._search_parameters[nprobe] = (
                make.SearchParametersHNSW(efSearch=nprobe)
                if self.kind == HNSW
                else make.SearchParametersIVF(nprobe=nprobe)
            )
        return self._search_parameters[nprobe]
