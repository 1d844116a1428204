"""Tune an index to a recall, measured on rows that it does not have yet."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.composed import COMPOSED_K, OF_A_KIND, compose, tune_composed
from latentdb.ann.exact import Block, Fetch, Floats, Ints, fits_float32, scan
from latentdb.ann.index import MAX_RERANK_FACTOR, VectorIndex, least_rerank_depth
from latentdb.ann.measuring import least_where, lower_bound, positions, ranks_of_lists
from latentdb.ann.plan import IVF4
from latentdb.ann.ranking import rank

Blocks = Callable[[], Iterator[Block]]

TUNED_K = (10, 100, 1_000)  # an index is tuned for these; more neighbours are found by a scan
QUERIES = 500  # rows held out when rows are added to an index; twice as many for a new one
_LARGEST_K_DIVISOR = 10  # the largest k is measured on a tenth of the queries, which find as many
_CLEARLY_SHORT = 0.9  # of the target: a tenth of the queries is enough to see a recall below
_PRECISION = 32  # nprobe is found to within one part in 32
_RERANK_LOSS = 0.05  # of the misses allowed, the share that a smaller re-rank depth may cause
_SEARCHED_TWICE = 0.015  # share of the held-out rows for which the re-rank depth may be too small
_CODE_QUERIES = 200  # held-out rows whose neighbours are ranked by their codes
# Largest share of the 10 nearest that 4-bit distances may rank in the lower half of 100; above it
# use 8 bits (measured: 0.2 % is fine, 8 % is not).
_MAX_MISRANKED = 0.065
_COMPOSED_OF = 4_000  # rows that composed queries are made of
_TIMED_QUERIES = 200
NO_ROWS = np.empty(0, np.int64)


@dataclass(frozen=True)
class Tuning:
    """What was measured of an index.

    Attributes
    ----------
    kind
        Type of the index.
    parameters
        By their names in the manifest: ``effort_K`` is nprobe (ef_search of a
        graph) for K neighbours; ``width_K`` the re-rank depth of 4-bit codes;
        ``composed_K`` and ``composed_width_K`` are both for queries composed of rows,
        missing where a scan finds so many; ``lists`` is nlist; ``dims`` the dimensions
        of the codes.
    recall
        Share of the true `k` nearest that were found, over `queries` held-out rows.
    k
        Neighbours at which the recall was measured.
    queries
        Held-out rows.
    seconds
        Wall time of building and tuning, with all types that were tried.
    milliseconds
        Median time of one query on one thread, re-ranking included.
    """

    kind: str
    parameters: Mapping[str, int]
    recall: float
    k: int
    queries: int
    seconds: float
    milliseconds: float


class Tuner:
    """Finds the least nprobe with which an index reaches a recall.

    Some rows are held out: they are queries while the index does not have
    them, as if they were new, and are added at the end.

    Parameters
    ----------
    blocks
        Gives all vectors, each time anew.
    fetch
        Gives the vectors of row numbers.
    target_recall
        Least share of true neighbours to find.
    random
        Chooses the rows to hold out.
    present
        Row numbers that the index has already: held-out rows are others.
    deleted
        Row numbers, ascending, that the index has and `fetch` may not know.

    Attributes
    ----------
    rows
        All row numbers.
    held_out, queries
        Row numbers and vectors of the rows held out.
    """

    def __init__(
        self,
        blocks: Blocks,
        fetch: Fetch,
        target_recall: float,
        random: np.random.Generator,
        *,
        present: Ints = NO_ROWS,
        deleted: Ints = NO_ROWS,
    ) -> None:
        self.start = time.perf_counter()
        self.blocks, self.fetch, self.target_recall = blocks, fetch, target_recall
        self.deleted = deleted
        self.rows: Ints = np.concatenate([NO_ROWS, *(block.selected_rows() for block in blocks())])
        new = self.rows if not len(present) else self.rows[~np.isin(self.rows, present)]
        # Adding rows only confirms what was tuned before; its exact scan is most of the time.
        wanted = QUERIES if len(present) else 2 * QUERIES
        self.held_out: Ints = random.choice(new, min(wanted, len(new) // 4), replace=False)
        self.queries = fetch(self.held_out)
        self._random = random
        self._of_a_kind = OF_A_KIND // 2 if len(present) else OF_A_KIND
        self._composed: tuple[Floats, Ints] | None = None
        # Both by whether k is the largest one, which is measured on fewer queries.
        self._truth: dict[bool, Ints] = {}
        self._list_ranks: dict[bool, Ints] = {}  # of the index being tuned

    def indexed_blocks(self) -> Iterator[Block]:
        """All rows but those held out."""
        excluded = np.sort(self.held_out)
        for block in self.blocks():
            yield block.restrict(~np.isin(block.rows, excluded))

    def truth(self, k: int) -> tuple[Floats, Ints]:
        """Queries, and the k true neighbours of each among the rows not held out."""
        largest = k > TUNED_K[-2]
        queries = self.queries[: len(self.queries) // (_LARGEST_K_DIVISOR if largest else 1)]
        if largest not in self._truth:
            most = min(TUNED_K[-1 if largest else -2], len(self.rows) - len(self.held_out))
            found = scan(self.indexed_blocks(), queries, most)
            self._truth[largest] = rank(queries, found.rows, self.fetch, most)[1]
        return queries, self._truth[largest][:, :k]

    def _composed_truth(self) -> tuple[Floats, Ints]:
        """Queries composed of rows, and their true neighbours among the rows not held out."""
        if self._composed is None:
            chosen = self._random.choice(
                self.rows, min(len(self.rows), _COMPOSED_OF), replace=False
            )
            queries = compose(self.fetch(np.sort(chosen)), self._random, self._of_a_kind)
            most = min(COMPOSED_K[-1], len(self.rows) - len(self.held_out))
            found = scan(self.indexed_blocks(), queries, most)
            self._composed = queries, rank(queries, found.rows, self.fetch, most)[1]
        return self._composed

    def are_codes_precise(self, index: VectorIndex) -> bool:
        """Whether 4-bit codes rank true neighbours well enough for an index of them to be built.

        In narrow clusters far from each other they do not: all rows of a cluster
        have nearly the same code.
        """
        queries, truth = self.truth(TUNED_K[-2])
        queries, truth = queries[:_CODE_QUERIES], truth[:_CODE_QUERIES]
        if not fits_float32(queries) or truth.shape[1] < TUNED_K[-2] or (truth < 0).any():
            return True  # few rows: a build is as fast as this check
        vectors = self.fetch(truth.reshape(-1))
        decoded = index.quantized(vectors).reshape(*truth.shape, -1)
        squares = ((decoded - index.rotated(queries)[:, None]) ** 2).sum(axis=2)
        ranks = squares.argsort(axis=1).argsort(axis=1)[:, : TUNED_K[0]]
        return float((ranks >= truth.shape[1] // 2).mean()) <= _MAX_MISRANKED

    def tune(
        self, index: VectorIndex, least: Mapping[int, int]
    ) -> tuple[VectorIndex, Tuning] | None:
        """The index with the least parameters that reach the recall, and the held-out rows added.

        Parameters
        ----------
        index
            Changed in place.
        least
            Least nprobe by number of neighbours.

        Returns
        -------
        index, tuning
            Or None if a scan takes no more work.
        """
        self._list_ranks.clear()
        parameters = {name: index.parameters.get(name, 0) for name in ("lists", "dims")}
        measured, nprobe = 1.0, 1
        for k in TUNED_K:
            # More neighbours are in more lists.
            found = self._search_parameters(index, k, max(nprobe, least.get(k, 1)))
            if found is None and k == TUNED_K[0]:
                return None
            if found is None:
                break  # a scan finds so many neighbours
            nprobe, depth, recall = found
            parameters[f"effort_{k}"] = nprobe
            if index.kind == IVF4:
                parameters[f"width_{k}"] = depth
            measured = recall if k == TUNED_K[0] else measured
        index.set_parameters(parameters)
        milliseconds = self.milliseconds(index)
        composed, truth = self._composed_truth()
        parameters |= tune_composed(index, composed, truth, self.deleted, self.target_recall)
        index.set_parameters(parameters)
        index.add(self.queries, self.held_out)
        seconds = time.perf_counter() - self.start
        count = len(self.held_out)
        return index, Tuning(
            index.kind, parameters, measured, TUNED_K[0], count, seconds, milliseconds
        )

    def milliseconds(self, index: VectorIndex) -> float:
        """Median time of one query for the fewest neighbours, re-ranking included."""
        times = []
        for number in range(min(_TIMED_QUERIES, len(self.queries))):
            query = self.queries[number : number + 1]
            start = time.perf_counter()
            found = index.search(query, TUNED_K[0], self.deleted)
            rank(query, found.rows, self.fetch, TUNED_K[0])
            times.append(time.perf_counter() - start)
        return 1_000 * float(np.median(times))

    def _search_parameters(
        self, index: VectorIndex, k: int, least: int
    ) -> tuple[int, int, float] | None:
        """Least nprobe that reaches the recall for k neighbours, the re-rank depth, the recall.

        None if a scan takes no more work.
        """
        if k > len(self.rows) // 8:
            return None
        most = index.max_nprobe
        first = min(max(least, 1 if index.nlist else 2 * k), most)
        step, depth = first, least_rerank_depth(k)
        if index.nlist:
            first = self._least_nprobe(self._ranks_of_lists(index, k), first, most)
            step = max(1, first // _PRECISION)
        if index.kind == IVF4:
            tuned_depth = self._least_depth(index, k, first)
            if tuned_depth is None:
                return None
            depth = tuned_depth
        recalls: dict[int, float] = {}

        def is_enough(nprobe: int) -> bool:
            tenth = slice(0, max(1, len(self.truth(k)[0]) // 10))
            rough = float(self._recalls(index, k, nprobe, depth, tenth).mean())
            if rough < _CLEARLY_SHORT * self.target_recall:
                return False
            found = self._recalls(index, k, nprobe, depth)
            recalls[nprobe] = float(found.mean())
            return lower_bound(found) >= self.target_recall

        low, high = first - 1, first
        while not is_enough(high):
            if high >= most:
                return None
            low, high, step = high, min(high + step, most), 2 * step
        while high - low > max(1, high // _PRECISION):
            middle = (low + high) // 2
            low, high = (low, middle) if is_enough(middle) else (middle, high)
        return high, depth, recalls[high]

    def _recalls(
        self, index: VectorIndex, k: int, nprobe: int, depth: int, part: slice = slice(None)
    ) -> NDArray[np.float64]:
        """Share of the k true neighbours found, for each query."""
        queries, truth = self.truth(k)
        candidates = index.probe(queries[part], nprobe, depth, self.deleted)
        _, found = rank(queries[part], candidates.rows, self.fetch, k)
        pairs = zip(truth[part], found, strict=True)
        return np.array([np.isin(true, rows).mean() for true, rows in pairs])

    def _least_depth(self, index: VectorIndex, k: int, nprobe: int) -> int | None:
        """Least re-rank depth that finds the true neighbours which the probed lists hold.

        Deeper where more than a few queries would have a neighbour in the second half of
        their candidates: those are searched twice (`latentdb.search`).  None where 4-bit
        codes are so coarse that it would be too large.
        """
        least = max(least_rerank_depth(k), index.rerank_depths.get(k, 0))
        most = min(MAX_RERANK_FACTOR * least_rerank_depth(k), len(self.rows) // 4)
        if least > most:
            return None
        queries, truth = self.truth(k)
        candidates = index.probe(queries, nprobe, most, self.deleted).rows
        ranks = positions(truth, candidates)
        held = float((self._ranks_of_lists(index, k) < nprobe).mean())
        needed = math.ceil((held - _RERANK_LOSS * (1 - self.target_recall)) * ranks.size)
        last = int(np.sort(ranks, axis=None)[needed - 1]) if needed > 0 else 0
        if last >= most:
            return None
        deepest = np.where(ranks < most, ranks, 0).max(axis=1)
        twice = 2 * int(np.quantile(deepest, 1 - _SEARCHED_TWICE, method="higher") + 1)
        return min(max(least, last + 1, twice), most)

    def _least_nprobe(self, ranks: Ints, least: int, most: int) -> int:
        """Least nprobe at which the probed lists hold enough true neighbours, by bisection.

        Quantisation only loses recall, so this is a lower bound; it is nearly
        always the answer, and takes no search.
        """
        return least_where(
            lambda lists: lower_bound((ranks < lists).mean(axis=1)) >= self.target_recall,
            least,
            most,
        )

    def _ranks_of_lists(self, index: VectorIndex, k: int) -> Ints:
        """Rank of the inverted list (0 is the nearest centroid) that contains each true neighbour.

        int64 ``[q, k]``; nlist for a row that is in no list.
        """
        queries, _ = self.truth(k)
        largest = k > TUNED_K[-2]
        if largest not in self._list_ranks:
            self._list_ranks[largest] = ranks_of_lists(index, queries, self._truth[largest])
        return self._list_ranks[largest][:, :k]
