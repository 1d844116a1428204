"""Nearest neighbours in arrays: exact scans, and an index tuned to a recall.

Knows arrays and row numbers, never the store.  The index holds 8-bit codes;
its candidates are ranked by the vectors themselves, which live elsewhere.
"""

from __future__ import annotations

import math
import mmap
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.errors import CorruptStoreError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Fetch = Callable[[Ints], Floats]
Buffer = bytes | memoryview | mmap.mmap

EXACT_ROWS = 20_000  # up to here a scan is as fast as any index
MAX_K = 100  # neighbours the index is tuned for; more are found by a scan
TUNED_K = (10, MAX_K)
KIND = "ivf-sq8"
_CHUNK = 65_536
_QUERIES = 500
_TRAIN_PER_LIST = 64
_SLACK = 16  # more candidates than asked for, so that rounding cannot lose one
_TINY = 1e-30  # squares below are not told apart in float32
_BATCH = 8  # queries from which threads pay


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
    """Row numbers that may be neighbours, best first, -1 where there are no more.

    Attributes
    ----------
    rows
        int64 ``[q, c]``.
    scanned
        Vectors that were compared, over all queries.
    """

    rows: Ints
    scanned: int


def _threads(queries: int) -> None:
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
    _threads(len(queries))
    wanted = k + _SLACK
    best = np.full((len(queries), 0), 0, np.float64)
    rows = np.full((len(queries), 0), -1, np.int64)
    scanned = 0
    for block in blocks:
        for start in range(0, len(block.rows), _CHUNK):
            part = slice(start, start + _CHUNK)
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
    width = candidates.shape[1]
    distances = np.full((len(queries), max(k, width)), np.inf)
    rows = np.full((len(queries), max(k, width)), -1, np.int64)
    rows[:, :width] = candidates
    found = candidates >= 0
    vectors = fetch(candidates[found]).astype(np.float64)
    against = np.repeat(queries.astype(np.float64), found.sum(axis=1), axis=0)
    squares = np.einsum("nd,nd->n", vectors - against, vectors - against)
    distances[:, :width][found] = np.sqrt(squares)
    order = np.lexsort((rows, distances), axis=1)[:, :k]
    nearest = np.take_along_axis(distances, order, axis=1).astype(np.float32)
    return nearest, np.take_along_axis(rows, order, axis=1)


@dataclass(frozen=True)
class Tuning:
    """What was measured of an index.

    Attributes
    ----------
    parameters
        ``lists``, and ``probes_K`` for K neighbours.
    recall
        Share of the true `k` nearest found, over `queries` rows the tuner
        had not seen, each left out of its own answer.
    k
        Neighbours at which the recall was measured.
    queries
        Number of those rows.
    seconds
        Wall time of building and tuning.
    """

    parameters: Mapping[str, int]
    recall: float
    k: int
    queries: int
    seconds: float


class VectorIndex:
    """An inverted-file index with 8-bit codes, by row number.

    Parameters
    ----------
    faiss_index
        The index.
    parameters
        As tuned; see `Tuning`.
    """

    def __init__(self, faiss_index: Any, parameters: Mapping[str, int]) -> None:
        self._index = faiss_index
        self.parameters = dict(parameters)

    @classmethod
    def load(
        cls, data: Buffer, parameters: Mapping[str, int], *, rows: int, dim: int
    ) -> VectorIndex:
        """Open a serialized index whose checksum held.

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
            index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
        except (RuntimeError, AssertionError, MemoryError) as error:
            told = " ".join(str(error).split())[:200]
            raise CorruptStoreError(f"the search index cannot be read: {told}") from error
        if not isinstance(index, faiss.IndexIVFScalarQuantizer) or (
            index.metric_type != faiss.METRIC_L2
        ):
            raise CorruptStoreError(f"the search index is not {KIND}")
        if index.ntotal != rows or index.d != dim:
            raise CorruptStoreError(
                f"the search index has {index.ntotal} rows of {index.d} dimensions, "
                f"the manifest says {rows} of {dim}"
            )
        if not all(parameters.get(f"probes_{k}", 0) >= 1 for k in TUNED_K):
            raise CorruptStoreError("the search index has no parameters in the manifest")
        return cls(index, parameters)

    def dump(self) -> memoryview:
        """The index as bytes: made in memory, because faiss can report success on a full disk."""
        import faiss

        data: Any = faiss.serialize_index(self._index)
        return memoryview(data).cast("B")

    @property
    def rows(self) -> int:
        return int(self._index.ntotal)

    def row_numbers(self) -> Ints:
        """Every row number it holds, ascending."""
        import faiss

        lists = self._index.invlists
        parts = [np.empty(0, np.int64)]
        for number in range(self._index.nlist):
            size = lists.list_size(number)
            if size:
                parts.append(faiss.rev_swig_ptr(lists.get_ids(number), size).copy())
        return np.sort(np.concatenate(parts))

    def search(self, queries: Floats, k: int, deleted: Ints) -> Candidates:
        """Candidates for the `k` nearest, at most `MAX_K`, as tuned.

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
        tuned = next(size for size in TUNED_K if k <= size)
        return self._probe(queries, k, self.parameters[f"probes_{tuned}"], deleted)

    def _probe(self, queries: Floats, k: int, probes: int, deleted: Ints) -> Candidates:
        import faiss

        _threads(len(queries))
        make: Any = faiss.SearchParametersIVF
        options = make(nprobe=probes)
        counters: Any = faiss.cvar
        statistics = counters.indexIVF_stats
        statistics.reset()
        _, rows = self._index.search(queries, 2 * k + _SLACK, params=options)
        if len(deleted):
            places = np.minimum(np.searchsorted(deleted, rows), len(deleted) - 1)
            rows[deleted[places] == rows] = -1
        return Candidates(rows, int(statistics.ndis))


def build(
    blocks: Sequence[Block], dim: int, fetch: Fetch, *, recall: float, seed: int = 0
) -> tuple[VectorIndex, Tuning] | None:
    """Build an index over blocks and tune it to a recall.

    Parameters
    ----------
    blocks
        All vectors.
    dim
        Their dimensions.
    fetch
        Gives the vectors of row numbers.
    recall
        Least share of true neighbours to find.
    seed
        Of the samples.

    Returns
    -------
    index, tuning
        Or None where more than half of all lists would have to be searched:
        an exact scan is as good then, and misses nothing.
    """
    import faiss

    start = time.perf_counter()
    random = np.random.default_rng(seed)
    rows = np.concatenate([b.rows if b.keep is None else b.rows[b.keep] for b in blocks])
    lists = max(1, round(4 * math.sqrt(len(rows))))
    _threads(_BATCH)
    sample = np.sort(random.choice(rows, min(len(rows), _TRAIN_PER_LIST * lists), replace=False))
    quantizer = faiss.IndexFlatL2(dim)
    index = faiss.IndexIVFScalarQuantizer(
        quantizer, dim, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2
    )
    index.cp.min_points_per_centroid = 1  # a smaller sample is no reason for a warning
    index.train(fetch(sample))
    for block in blocks:
        for place in range(0, len(block.rows), _CHUNK):
            part = slice(place, place + _CHUNK)
            vectors, numbers = block.vectors[part], block.rows[part]
            if block.keep is not None:
                vectors, numbers = vectors[block.keep[part]], numbers[block.keep[part]]
            if len(numbers):
                index.add_with_ids(np.ascontiguousarray(vectors), numbers)
    built = VectorIndex(index, {"lists": lists})
    tuning = _tune(built, blocks, fetch, rows, recall, random)
    if tuning is None:
        return None
    parameters, measured = tuning
    built.parameters = dict(parameters)
    seconds = time.perf_counter() - start
    return built, Tuning(parameters, measured, TUNED_K[0], _QUERIES, seconds)


def _tune(
    built: VectorIndex,
    blocks: Sequence[Block],
    fetch: Fetch,
    rows: Ints,
    recall: float,
    random: np.random.Generator,
) -> tuple[dict[str, int], float] | None:
    """Fewest probes that reach the recall on one set of rows, confirmed on another."""
    lists = built.parameters["lists"]
    chosen = random.choice(rows, 2 * _QUERIES, replace=False)
    queries = fetch(chosen)
    most = TUNED_K[-1]
    exact = scan(blocks, queries, most + 1)
    _, truth = rank(queries, exact.rows, fetch, most + 1)
    truth = _without(truth, chosen, most)
    parameters = {"lists": lists}
    measured = 1.0
    for k in TUNED_K:

        def hits(part: slice, probes: int, k: int = k) -> NDArray[np.float64]:
            """Share of the k true neighbours found, for each query."""
            found = built._probe(queries[part], k + 1, probes, np.empty(0, np.int64))
            _, ranked = rank(queries[part], found.rows, fetch, k + 1)
            ranked = _without(ranked, chosen[part], k)
            both = (ranked[:, :, None] == truth[part][:, None, :k]).any(axis=2)
            return np.asarray(both.mean(axis=1))

        low, high = 0, lists
        while high - low > 1:
            middle = (low + high) // 2
            shares = hits(slice(0, _QUERIES), middle)
            # Two standard errors: tuned to the bare target, other queries fall below it.
            margin = 2 * float(shares.std()) / math.sqrt(_QUERIES)
            if shares.mean() - margin >= recall:
                high = middle
            else:
                low = middle
        while True:
            if 2 * high > lists:
                return None
            confirmed = float(hits(slice(_QUERIES, 2 * _QUERIES), high).mean())
            if confirmed >= recall:
                break
            high = high + max(1, high // 4)
        parameters[f"probes_{k}"] = high
        measured = confirmed if k == TUNED_K[0] else measured
    return parameters, measured


def _without(rows: Ints, own: Ints, k: int) -> Ints:
    """The first k of each line that are not the query itself."""
    others = rows != own[:, None]
    order = np.argsort(~others, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, axis=1)
