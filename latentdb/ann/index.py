"""Nearest neighbours in arrays: exact scans, exact ranking, and an index of codes.

Knows arrays and row numbers, never the store.  The index holds codes of 4 or 8
bits a dimension; its candidates are ranked by the vectors themselves, which live
elsewhere.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.plan import HNSW, IVF, IVF4
from latentdb.ann.validation import check_structure, is_supported, rotation_of
from latentdb.base.cores import core_count
from latentdb.base.errors import CorruptStoreError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Fetch = Callable[[Ints], Floats]
Buffer = bytes | memoryview | mmap.mmap

CHUNK = 65_536  # rows that are looked at together
DELETED = -2
MAX_RERANK_FACTOR = (
    4  # times as many candidates as are needed at least: beyond, 8 bits are quicker than 4
)
_SLACK = 16  # more candidates than asked for, so that rounding cannot lose one
_TINY = 1e-30  # squares below are not told apart in float32
_FAR = 1e38  # squares beyond are about to leave float32
_BATCH = 8  # queries from which threads pay
_HEAP = 400  # candidates up to which a heap is quicker than a reservoir
# What faiss reckons for tables that are not made here is at most 16 times the centres of the lists;
# only of a small index more than all of it.
_TABLES, _MOST_TABLES = 16, 64 << 20
_RANK_BYTES = 1 << 20  # of candidate vectors held at a time


@dataclass(frozen=True, eq=False)
class Block:
    """Some vectors to scan.

    Attributes
    ----------
    rows
        int64 ``[n]``: row numbers.
    vectors
        float32 ``[n, d]``, mapped or in memory.
    keep
        bool ``[n]``: which to look at; None for all.
    """

    rows: Ints
    vectors: Floats
    keep: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class Candidates:
    """Row numbers that may be neighbours.

    Attributes
    ----------
    rows
        int64 ``[q, c]``; -1 where there are no more, `DELETED` where one was deleted.
    scanned
        Vectors that were compared, over all queries.
    """

    rows: Ints
    scanned: int


def is_measurable(vectors: Floats) -> bool:
    """Whether squared distances stay in float32, in which an index computes.

    Beyond, k-means ends the process and an inverted file leaves rows out.
    """
    if not vectors.size:
        return True
    most = max(abs(float(vectors.max())), abs(float(vectors.min())))
    return bool(4 * vectors.shape[-1] * most * most < _FAR)


def least_rerank_depth(k: int) -> int:
    """Candidates that are ranked for `k` neighbours where codes hardly differ from vectors."""
    return 2 * k + _SLACK


def set_threads(queries: int) -> None:
    """One thread for a few queries: a second one is slower on a busy machine."""
    import faiss

    faiss.omp_set_num_threads(1 if queries < _BATCH else core_count())


def scan(blocks: Iterable[Block], queries: Floats, k: int) -> Candidates:
    """Compare queries with every kept vector.

    Parameters
    ----------
    blocks
        The vectors.
    queries
        float32 ``[q, d]``.
    k
        Neighbours wanted; a few more candidates come back.

    Returns
    -------
    Candidates
        The true nearest ones.
    """
    set_threads(len(queries))
    wanted = k + _SLACK
    best = np.full((len(queries), 0), 0, np.float64)
    rows = np.full((len(queries), 0), -1, np.int64)
    scanned = 0
    for block in blocks:
        for start in range(0, len(block.rows), CHUNK):
            part = slice(start, start + CHUNK)
            vectors, numbers = block.vectors[part], block.rows[part]
            if block.keep is not None:
                keep = block.keep[part]
                vectors, numbers = vectors[keep], numbers[keep]
            if not len(numbers):
                continue
            scanned += len(numbers) * len(queries)
            distances, places = _nearest(queries, vectors, min(wanted, len(numbers)))
            best = np.concatenate([best, distances], axis=1)
            rows = np.concatenate([rows, numbers[places]], axis=1)
            if best.shape[1] > wanted:
                order = np.argsort(best, axis=1, kind="stable")[:, :wanted]
                best = np.take_along_axis(best, order, axis=1)
                rows = np.take_along_axis(rows, order, axis=1)
    return Candidates(rows, scanned)


def _nearest(queries: Floats, vectors: Floats, k: int) -> tuple[NDArray[np.float64], Ints]:
    """Squared distances and places of the k nearest vectors."""
    import faiss

    found, places = faiss.knn(queries, vectors, k)
    distances = found.astype(np.float64)
    # Squares that leave float32: of infinite ones faiss finds no place, and tiny ones are all 0.
    for number in np.flatnonzero((places < 0).any(axis=1) | (found[:, -1] < _TINY)):
        squares = ((vectors - queries[number].astype(np.float64)) ** 2).sum(axis=1)
        places[number] = np.argsort(squares, kind="stable")[:k]
        distances[number] = squares[places[number]]
    return distances, places


def rank(queries: Floats, candidates: Ints, fetch: Fetch, k: int) -> tuple[Floats, Ints]:
    """Rank candidates by true L2 distance, computed from the vectors in float64.

    Parameters
    ----------
    queries
        float32 ``[q, d]``.
    candidates
        int64 ``[q, c]`` row numbers, -1 for none.
    fetch
        Gives the vectors of row numbers.
    k
        Neighbours wanted.

    Returns
    -------
    distances, rows
        float32 ``[q, k]`` and int64 ``[q, k]``, nearest first, ties by row
        number; infinity and -1 where there are fewer.
    """
    if len(queries) == 1:
        return _rank_one(queries, candidates[0], fetch, k)
    distances = np.full((len(queries), k), np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    if len(queries) < _BATCH or not candidates.shape[1] or (candidates < 0).any():
        for number in range(len(queries)):
            one = slice(number, number + 1)
            distances[one], rows[one] = _rank_one(queries[one], candidates[number], fetch, k)
        return distances, rows
    step = max(1, _RANK_BYTES // (8 * queries.shape[1] * max(candidates.shape[1], 1)))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        own = np.sort(candidates[part], axis=1)
        vectors = fetch(own.reshape(-1)).reshape(*own.shape, -1)
        squares = _squares(vectors, queries[part])
        order = squares.argsort(axis=1, kind="stable")[:, :k]
        width = order.shape[1]
        distances[part, :width] = np.sqrt(np.take_along_axis(squares, order, axis=1))
        rows[part, :width] = np.take_along_axis(own, order, axis=1)
    return distances, rows


def _rank_one(query: Floats, candidates: Ints, fetch: Fetch, k: int) -> tuple[Floats, Ints]:
    """`rank` for one query, without a microsecond too many."""
    own = np.sort(candidates)
    if len(own) and own.item(0) < 0:
        own = own[own.searchsorted(0) :]
    apart = np.subtract(fetch(own), query, dtype=np.float64)
    squares = np.einsum("cd,cd->c", apart, apart)
    order = squares.argsort(kind="stable")[:k]
    nearest, rows = np.sqrt(squares[order]).astype(np.float32), own[order]
    if len(order) < k:
        lacking = k - len(order)
        nearest = np.concatenate([nearest, np.full(lacking, np.inf, np.float32)])
        rows = np.concatenate([rows, np.full(lacking, -1, np.int64)])
    return nearest[None], rows[None]


def _squares(vectors: Floats, queries: Floats) -> NDArray[np.float64]:
    """Squared distances, float64 ``[q, c]``, of vectors ``[q, c, d]`` to their query."""
    apart = np.subtract(vectors, queries[:, None, :], dtype=np.float64)
    return np.asarray(np.einsum("qcd,qcd->qc", apart, apart))


class VectorIndex:
    """An index of codes by row number: an inverted file, or a graph.

    Parameters
    ----------
    faiss_index
        The index.
    parameters
        As tuned: see `latentdb.ann.tuning.Tuning`.
    buffer
        What the index maps, kept alive with it.

    Attributes
    ----------
    kind
        `latentdb.ann.plan.IVF4`, `latentdb.ann.plan.IVF` or `latentdb.ann.plan.HNSW`.
    nprobes
        Lists to probe (or candidates to keep) by number of neighbours, ascending.
    rerank_depths
        Candidates to rank by number of neighbours, where they are tuned.
    max_k
        Neighbours it is tuned for; more are found by a scan.
    """

    parameters: dict[str, int]
    nprobes: dict[int, int]
    rerank_depths: dict[int, int]
    max_k: int

    def __init__(
        self, faiss_index: Any, parameters: Mapping[str, int], buffer: Buffer | None = None
    ) -> None:
        import faiss

        self._whole = faiss_index
        self._buffer = buffer
        self.tune(parameters)
        self._basis: Floats | None = None
        inner = faiss_index
        if isinstance(inner, faiss.IndexPreTransform):
            turn = rotation_of(inner)
            shape = (turn.d_out, turn.d_in)
            self._basis = np.ascontiguousarray(faiss.vector_to_array(turn.A).reshape(shape).T)
            inner = faiss.downcast_index(inner.index)
        self._index = inner
        lists = IVF4 if isinstance(inner, faiss.IndexIVFPQFastScan) else IVF
        self.kind = HNSW if isinstance(inner, faiss.IndexIDMap) else lists
        counters: Any = faiss.cvar
        self._counted = counters.hnsw_stats if self.kind == HNSW else counters.indexIVF_stats
        self._options: dict[int, Any] = {}

    def tune(self, parameters: Mapping[str, int]) -> None:
        """Search by other parameters from now on."""
        self.parameters = dict(parameters)
        found, rerank_depths = {}, {}
        for name, value in self.parameters.items():
            # Format version 1 knew only inverted files, and said "probes".
            what, _, k = name.rpartition("_")
            if what in ("effort", "probes") and k.isdecimal() and value >= 1:
                found[int(k)] = value
            elif what == "width" and k.isdecimal():
                least = least_rerank_depth(int(k))
                rerank_depths[int(k)] = min(max(value, least), MAX_RERANK_FACTOR * least)
        self.nprobes, self.rerank_depths = (
            dict(sorted(found.items())),
            dict(sorted(rerank_depths.items())),
        )
        self.max_k = max(self.nprobes, default=0)

    @classmethod
    def load(
        cls, data: Buffer, parameters: Mapping[str, int], *, rows: int, dim: int
    ) -> VectorIndex:
        """Open a serialized index whose checksum held, without copying it.

        Raises
        ------
        CorruptStoreError
            If it is none, or another than the manifest speaks of.
        """
        import faiss

        try:
            # A forged size would have faiss ask for more memory than there is.
            limit = getattr(faiss, "set_deserialization_vector_byte_limit", None)
            if limit is not None:
                limit(max(len(data), min(_TABLES * len(data), _MOST_TABLES)))
            view = np.frombuffer(data, np.uint8)
            if hasattr(faiss, "ZeroCopyIOReader"):
                index = faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(view), view.size))
            else:  # faiss before 1.11
                index = faiss.deserialize_index(view)
        except (RuntimeError, AssertionError, MemoryError) as error:
            told = " ".join(str(error).split())[:200]
            raise CorruptStoreError(f"the search index cannot be read: {told}") from error
        if index.ntotal != rows or index.d != dim:
            raise CorruptStoreError(
                f"the search index has {index.ntotal} rows of {index.d} dimensions, "
                f"the manifest says {rows} of {dim}"
            )
        if not is_supported(index):
            raise CorruptStoreError(
                f"the search index is neither {IVF4} nor {IVF} nor {HNSW}: "
                "latentdb optimize builds it anew"
            )
        check_structure(index)
        opened = cls(index, parameters, data)
        if not opened.nprobes:
            raise CorruptStoreError("the search index has no parameters in the manifest")
        return opened

    def is_intact(self) -> bool:
        """Whether the file it maps still has its size: to touch what was cut off is SIGBUS."""
        buffer = self._buffer
        return not isinstance(buffer, mmap.mmap) or buffer.size() == len(buffer)

    def copy(self) -> VectorIndex:
        """The same index in memory, to which rows can be added."""
        import faiss

        made = faiss.deserialize_index(np.frombuffer(self.dump(), np.uint8))
        return VectorIndex(made, self.parameters)

    def dump(self) -> memoryview:
        """The index as bytes: made in memory, because faiss can report success on a full disk."""
        import faiss

        if self.kind == IVF4:
            self._index.implem = 0  # it is stored, and says nothing of the index
        data: Any = faiss.serialize_index(self._whole)
        return memoryview(data).cast("B")

    @property
    def rows(self) -> int:
        return int(self._whole.ntotal)

    @property
    def nlist(self) -> int:
        """Lists of an inverted file; 0 of a graph."""
        return 0 if self.kind == HNSW else int(self._index.nlist)

    def row_numbers(self) -> Ints:
        """Every row number it holds, ascending."""
        import faiss

        if self.kind == HNSW:
            return np.sort(faiss.vector_to_array(self._index.id_map))
        lists = self._index.invlists
        parts = [np.empty(0, np.int64)]
        for number in range(self._index.nlist):
            size = lists.list_size(number)
            if size:
                parts.append(faiss.rev_swig_ptr(lists.get_ids(number), size).copy())
        return np.sort(np.concatenate(parts))

    def add(self, vectors: Floats, rows: Ints) -> None:
        """Add rows to an index that was built or copied, not to one that is mapped."""
        self._index.add_with_ids(self.rotated(vectors), rows)
        if self._whole is not self._index:
            self._whole.ntotal = self._index.ntotal

    def search(self, queries: Floats, k: int, deleted: Ints) -> Candidates:
        """Candidates for the `k` nearest, at most `max_k`, as tuned.

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
        return self.probe(queries, self.nprobe(k), self.rerank_depth(k), deleted)

    def nprobe(self, k: int) -> int:
        """Lists probed, or candidates kept while walking the graph, for `k` neighbours."""
        return next(effort for tuned, effort in self.nprobes.items() if k <= tuned)

    def rerank_depth(self, k: int) -> int:
        """Candidates that are ranked for `k` neighbours."""
        return next(
            (wide for tuned, wide in self.rerank_depths.items() if k <= tuned),
            least_rerank_depth(k),
        )

    def probe(self, queries: Floats, effort: int, wanted: int, deleted: Ints) -> Candidates:
        """So many candidates by lists probed, or by candidates kept while walking the graph."""
        set_threads(len(queries))
        if self.kind == HNSW:
            effort = max(effort, wanted)
        if self.kind == IVF4:
            self._set_way(len(queries), wanted)
        self._counted.reset()
        squares, rows = self._index.search(
            self.rotated(queries), wanted, params=self._parameters(effort)
        )
        if self.kind != IVF:
            rows[~(squares < _FAR)] = -1  # lists of 8 bits give none where squares leave float32
        if len(deleted):
            places = np.minimum(np.searchsorted(deleted, rows), len(deleted) - 1)
            rows[deleted[places] == rows] = DELETED
        return Candidates(rows, int(self._counted.ndis))

    def nearest_lists(self, queries: Floats) -> tuple[Floats, Ints]:
        """Every list of an inverted file by its distance: squared, and numbers, ``[q, lists]``."""
        set_threads(len(queries))
        found: tuple[Floats, Ints] = self._index.quantizer.search(
            self.rotated(queries), self._index.nlist
        )
        return found

    def list_of(self, below: int) -> Ints:
        """The list of each row number below a limit, from 1: int64 ``[below]``, 0 for none."""
        import faiss

        lists = self._index.invlists
        result = np.zeros(below, np.int64)
        for number in range(self._index.nlist):
            size = lists.list_size(number)
            if size:
                try:
                    result[faiss.rev_swig_ptr(lists.get_ids(number), size)] = number + 1
                except IndexError as error:
                    raise CorruptStoreError(
                        "the search index holds rows that the manifest does not know: "
                        "latentdb optimize builds it anew"
                    ) from error
        return result

    def probe_filtered(
        self,
        query: Floats,
        wanted: int,
        lists: Ints,
        distances: Floats,
        kept: NDArray[np.uint8] | None,
    ) -> Candidates:
        """Candidates in some lists of an inverted file, among rows of a bitmap.

        Parameters
        ----------
        query
            float32 ``[1, d]``.
        wanted
            Candidates.
        lists, distances
            As a part of what `order` gives.
        kept
            A bit for each row number, the least first; None to keep every row.
        """
        import faiss

        set_threads(1)
        make: Any = faiss
        options = make.SearchParametersIVF(nprobe=len(lists))
        if kept is not None:
            options.sel = make.IDSelectorBitmap(kept)
        if self.kind == IVF4:
            self._set_way(1, wanted)
        found = np.empty((1, wanted), np.float32)
        rows = np.empty((1, wanted), np.int64)
        turned = np.ascontiguousarray(self.rotated(query))
        chosen, apart = np.ascontiguousarray(lists), np.ascontiguousarray(distances)
        pointer: Any = faiss.swig_ptr
        # The Python wrapper of it takes no parameters (faiss 1.15).
        self._index.search_preassigned_c(
            1,
            pointer(turned),
            wanted,
            pointer(chosen),
            pointer(apart),
            pointer(found),
            pointer(rows),
            False,
            options,
        )
        return Candidates(rows, 0)

    def quantized(self, vectors: Floats) -> Floats:
        """Vectors as codes of 4 bits know them: float32 ``[n, dims]``, along their axes."""
        quantizer = self._index.pq
        found: Floats = quantizer.decode(quantizer.compute_codes(self.rotated(vectors)))
        return found

    def _parameters(self, effort: int) -> Any:
        import faiss

        if effort not in self._options:
            make: Any = faiss
            self._options[effort] = (
                make.SearchParametersHNSW(efSearch=effort)
                if self.kind == HNSW
                else make.SearchParametersIVF(nprobe=effort)
            )
        return self._options[effort]

    def _set_way(self, queries: int, wanted: int) -> None:
        """Have faiss go from list to list for one query, with a heap or with a reservoir.

        Its own choice, made for many queries that share lists, takes up to 1.3
        times as long.  Whatever another thread sets in between, answers are the same.
        """
        self._index.implem = 0 if queries > 1 else 10 if wanted <= _HEAP else 11

    def rotated(self, vectors: Floats) -> Floats:
        """Vectors along the axes of the codes: float32 ``[n, dims]``."""
        return vectors if self._basis is None else vectors @ self._basis
