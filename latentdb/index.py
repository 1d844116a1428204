"""Nearest neighbours in arrays: exact scans, exact ranking, and an index of codes.

Knows arrays and row numbers, never the store.  The index holds 8-bit codes;
its candidates are ranked by the vectors themselves, which live elsewhere.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.errors import CorruptStoreError
from latentdb.plan import HNSW, IVF

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Fetch = Callable[[Ints], Floats]
Buffer = bytes | memoryview | mmap.mmap

CHUNK = 65_536  # rows that are looked at together
DELETED = -2
_SLACK = 16  # more candidates than asked for, so that rounding cannot lose one
_TINY = 1e-30  # squares below are not told apart in float32
_FAR = 1e38  # squares beyond are about to leave float32
_BATCH = 8  # queries from which threads pay
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


def set_threads(queries: int) -> None:
    """One thread for a few queries: a second one is slower on a busy machine."""
    import faiss

    faiss.omp_set_num_threads(1 if queries < _BATCH else os.cpu_count() or 1)


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
    """An index of 8-bit codes by row number: an inverted file, or a graph.

    Parameters
    ----------
    faiss_index
        The index.
    parameters
        As tuned: see `latentdb.tuning.Tuning`.
    buffer
        What the index maps, kept alive with it.

    Attributes
    ----------
    kind
        `latentdb.plan.IVF` or `latentdb.plan.HNSW`.
    efforts
        Lists to probe (or candidates to keep) by number of neighbours, ascending.
    most
        Neighbours it is tuned for; more are found by a scan.
    """

    parameters: dict[str, int]
    efforts: dict[int, int]
    most: int

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
            turn = _turn(inner)
            shape = (turn.d_out, turn.d_in)
            self._basis = np.ascontiguousarray(faiss.vector_to_array(turn.A).reshape(shape).T)
            inner = faiss.downcast_index(inner.index)
        self._index = inner
        self.kind = HNSW if isinstance(inner, faiss.IndexIDMap) else IVF
        counters: Any = faiss.cvar
        self._counted = counters.indexIVF_stats if self.kind == IVF else counters.hnsw_stats
        self._options: dict[int, Any] = {}

    def tune(self, parameters: Mapping[str, int]) -> None:
        """Search by other parameters from now on."""
        self.parameters = dict(parameters)
        found = {}
        for name, value in self.parameters.items():
            # Format version 1 knew only inverted files, and said "probes".
            what, _, k = name.rpartition("_")
            if what in ("effort", "probes") and k.isdecimal() and value >= 1:
                found[int(k)] = value
        self.efforts = dict(sorted(found.items()))
        self.most = max(self.efforts, default=0)

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
                limit(len(data))
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
        if not _is_ours(index):
            raise CorruptStoreError(f"the search index is neither {IVF} nor {HNSW}")
        _check_inside(index)
        opened = cls(index, parameters, data)
        if not opened.efforts:
            raise CorruptStoreError("the search index has no parameters in the manifest")
        return opened

    def is_whole(self) -> bool:
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

        data: Any = faiss.serialize_index(self._whole)
        return memoryview(data).cast("B")

    @property
    def rows(self) -> int:
        return int(self._whole.ntotal)

    @property
    def lists(self) -> int:
        """Lists of an inverted file; 0 of a graph."""
        return int(self._index.nlist) if self.kind == IVF else 0

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
        self._index.add_with_ids(self._turned(vectors), rows)
        if self._whole is not self._index:
            self._whole.ntotal = self._index.ntotal

    def search(self, queries: Floats, k: int, deleted: Ints) -> Candidates:
        """Candidates for the `k` nearest, at most `most`, as tuned.

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
        effort = next(effort for tuned, effort in self.efforts.items() if k <= tuned)
        return self.probe(queries, k, effort, deleted)

    def probe(self, queries: Floats, k: int, effort: int, deleted: Ints) -> Candidates:
        """As `search`, with so many lists probed, or candidates kept while walking the graph."""
        set_threads(len(queries))
        wanted = 2 * k + _SLACK
        if self.kind == HNSW:
            effort = max(effort, wanted)
        self._counted.reset()
        squares, rows = self._index.search(
            self._turned(queries), wanted, params=self._parameters(effort)
        )
        if self.kind == HNSW:
            rows[~(squares < _FAR)] = -1  # an inverted file gives none where squares leave float32
        if len(deleted):
            places = np.minimum(np.searchsorted(deleted, rows), len(deleted) - 1)
            rows[deleted[places] == rows] = DELETED
        return Candidates(rows, int(self._counted.ndis))

    def order(self, queries: Floats) -> tuple[Floats, Ints]:
        """Every list of an inverted file by its distance: squared, and numbers, ``[q, lists]``."""
        set_threads(len(queries))
        found: tuple[Floats, Ints] = self._index.quantizer.search(
            self._turned(queries), self._index.nlist
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

    def probe_kept(
        self,
        query: Floats,
        k: int,
        lists: Ints,
        distances: Floats,
        kept: NDArray[np.uint8] | None,
    ) -> Candidates:
        """Candidates in some lists of an inverted file, among rows of a bitmap.

        Parameters
        ----------
        query
            float32 ``[1, d]``.
        k
            Neighbours wanted.
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
        wanted = 2 * k + _SLACK
        found = np.empty((1, wanted), np.float32)
        rows = np.empty((1, wanted), np.int64)
        turned = np.ascontiguousarray(self._turned(query))
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

    def _parameters(self, effort: int) -> Any:
        import faiss

        if effort not in self._options:
            make: Any = faiss
            self._options[effort] = (
                make.SearchParametersIVF(nprobe=effort)
                if self.kind == IVF
                else make.SearchParametersHNSW(efSearch=effort)
            )
        return self._options[effort]

    def _turned(self, vectors: Floats) -> Floats:
        return vectors if self._basis is None else vectors @ self._basis


def _turn(index: Any) -> Any:
    """The first transform of an index."""
    import faiss

    return faiss.downcast_VectorTransform(index.chain.at(0))


def _is_ours(index: Any) -> bool:
    import faiss

    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain
        turn = _turn(index)
        if chain.size() != 1 or not isinstance(turn, faiss.LinearTransform) or turn.have_bias:
            return False
        index = faiss.downcast_index(index.index)
    if isinstance(index, faiss.IndexIDMap):
        index = faiss.downcast_index(index.index)
        kind: Any = faiss.IndexHNSWSQ
    else:
        kind = faiss.IndexIVFScalarQuantizer
    return isinstance(index, kind) and bool(index.metric_type == faiss.METRIC_L2)


def _check_inside(index: Any) -> None:
    """Refuse an index whose parts do not fit each other: faiss would read past their ends.

    Raises
    ------
    CorruptStoreError
        Says which part.
    """
    import faiss

    if isinstance(index, faiss.IndexPreTransform):
        turn = _turn(index)
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
    elif not isinstance(faiss.downcast_index(index.quantizer), faiss.IndexFlat):
        raise CorruptStoreError("the search index cannot be read: its lists have no centres")


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
