"""Search in one snapshot of a store: index, unindexed rows, deletions and filter together."""

from __future__ import annotations

import math
from functools import cached_property, partial

import numpy as np

from latentdb.ann.exact import MIN_PARTED, Block, Candidates, concat, map_parts, nearer, scan
from latentdb.ann.index import VectorIndex
from latentdb.ann.metrics import KL, L2, Space, symmetric_kl
from latentdb.ann.plan import HNSW, IVF4
from latentdb.base.errors import InvalidInputError
from latentdb.search.embedded_rows import DEPTH_GROWTH, EmbeddedRows, uncertain_queries
from latentdb.search.filtered import FilteredSearch
from latentdb.search.filters import Filter
from latentdb.search.results import Hits
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot

MAX_K = 100_000
MAX_WITHIN = 100_000  # rows that a radius may return
MAX_TOTAL = 500_000_000  # matches of all queries of a search, of 12 bytes each
MAX_FLOAT32 = float(np.finfo(np.float32).max)
_REACH_GROWTH = 4  # factor on k where candidates were deleted
_KL_FACTOR, _KL_EXTRA = 10, 100  # candidates under kl: for each neighbour, and on top
_FIRST_WITHIN = 256  # rows that a search within a radius asks for first
_NONE, _FIRST = np.empty(0, np.int64), np.zeros(1, np.int64)


def check_k(k: object) -> int:
    """A number of matches that can be asked for; raises `InvalidInputError` for another."""
    k = int(k) if isinstance(k, np.integer) else k
    if type(k) is not int or not 1 <= k <= MAX_K:
        raise InvalidInputError(f"k {k!r} cannot be used: give a whole number, 1 to {MAX_K:,}")
    return k


def check_total(queries: int, k: int) -> None:
    """Refuse a search that would return more than `MAX_TOTAL` matches.

    Raises
    ------
    InvalidInputError
        If it would.
    """
    if queries * k > MAX_TOTAL:
        raise InvalidInputError(
            f"{queries:,} queries of {k:,} matches each cannot be answered at once: "
            f"give fewer queries or a smaller k, {MAX_TOTAL:,} matches in all"
        )


class Searcher:
    """One snapshot of a store, searched under one metric.

    Parameters
    ----------
    snapshot
        The snapshot.
    index
        The index that its manifest names, opened; used if it is of the same metric.
    metric
        One of `latentdb.ann.metrics.METRICS`.
    """

    def __init__(
        self, snapshot: Snapshot, index: VectorIndex | None = None, *, metric: str = L2
    ) -> None:
        self.snapshot = snapshot
        self.metric = metric
        entry = snapshot.manifest.index
        if entry is None or entry.metric != metric:
            self.index, self._indexed_below = None, 0
        else:
            self.index, self._indexed_below = index, entry.rows_below
        self._rows = EmbeddedRows(snapshot, metric)
        self._filtered = FilteredSearch(self._rows, self.index, self._indexed_below)

    @property
    def space(self) -> Space:
        """Where rows are compared: `search` takes queries that it has embedded."""
        return self._rows.space

    def search(
        self,
        queries: Floats,
        *,
        k: int,
        where: Filter | None = None,
        exact: bool = False,
        composed: bool = False,
    ) -> Hits:
        """Find the nearest rows of each query.

        Parameters
        ----------
        queries
            float32 ``[q, dim]``, embedded in `space`.
        k
            Neighbours wanted, at least one.
        where
            Search only rows for which it is true.
        exact
            Compare every row that could match.  Under kl only the candidates are
            compared: see `Hits.exact`.
        composed
            The queries may be unlike the rows: new images, means, differences, any vectors.
            The index is searched as it was tuned for those; where it was not, every row
            is compared.
        """
        index = self.index
        # Every row is read once for all queries; so is a filter, and a graph is walked by one
        # thread of Python at a time.
        is_whole = exact or where is not None or index is None or index.kind == HNSW
        if len(queries) < MIN_PARTED or is_whole:
            return self._search(queries, k, where, exact=exact, composed=composed)
        search = partial(self._search, k=k, where=where, exact=exact, composed=composed)
        return Hits.concat(map_parts(search, queries))

    def _search(
        self, queries: Floats, k: int, where: Filter | None, *, exact: bool, composed: bool
    ) -> Hits:
        if self.metric == KL:
            return self._search_kl(queries, k, where)
        if composed and not exact:
            effort = None if self.index is None else self.index.composed_effort(k)
            if where is None and effort is not None and self.index is not None:
                return self._search_index(queries, k, self.index, effort)
            exact = True
        return self._search_l2(queries, k, where, exact=exact)

    def within(self, queries: Floats, radius: float, *, where: Filter | None = None) -> Hits:
        """Find every row within a distance of each query, by comparing all of them.

        Raises
        ------
        InvalidInputError
            If they are more than `MAX_WITHIN`.
        """
        too_many = InvalidInputError(
            f"over {MAX_WITHIN:,} rows lie within {radius:g}: give a smaller radius, or k"
        )
        if math.isinf(radius) and where is None and len(self.snapshot) > MAX_WITHIN:
            raise too_many
        k = _FIRST_WITHIN
        while True:
            check_total(len(queries), k)
            hits = self.search(queries, k=k, where=where, exact=True)
            if not ((hits.distances[:, -1] <= radius) & (hits.rows[:, -1] >= 0)).any():
                return hits.within(radius)
            if k >= MAX_WITHIN:
                raise too_many
            k = min(8 * k, MAX_WITHIN)

    def _search_l2(
        self, queries: Floats, k: int, where: Filter | None, *, exact: bool = False
    ) -> Hits:
        if where is not None:
            return self._filtered.search(queries, k, where, exact=exact)
        if exact or self.index is None or k > self.index.max_k:
            found = scan(self._rows.blocks(), queries, k)
            return self._rows.rank(queries, found.rows, k, exact=True, scanned=found.scanned)
        return self._search_index(queries, k, self.index)

    def _search_kl(self, queries: Floats, k: int, where: Filter | None) -> Hits:
        """The rows nearest by Wasserstein distance, ranked by symmetric KL divergence."""
        count = max(len(self.snapshot), 1)
        wanted = min(_KL_FACTOR * k + _KL_EXTRA, count)
        candidates = self._search_l2(queries, wanted, where, exact=True)
        distances = np.full((len(queries), k), np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        for number, query in enumerate(queries):
            compared = np.sort(candidates.rows[number][candidates.rows[number] >= 0])
            divergences = symmetric_kl(query, self._rows.fetch(compared))
            order = divergences.argsort(kind="stable")[:k]
            distances[number, : len(order)] = divergences[order]
            rows[number, : len(order)] = compared[order]
        exact = wanted >= len(self.snapshot) or bool((candidates.rows[:, -1] < 0).all())
        return Hits(distances, rows, exact, candidates.scanned)

    # --- the index and the rows that are not in it -------------------------------

    @cached_property
    def _unindexed(self) -> Block | None:
        """The live rows that are not in the index, in memory; None where there are none."""
        block = concat(self._rows.blocks(since=self._indexed_below), self._rows.dim)
        return block if len(block.rows) else None

    def _search_index(
        self, queries: Floats, k: int, index: VectorIndex, effort: tuple[int, int] | None = None
    ) -> Hits:
        """Search the index and the unindexed rows; `effort` is nprobe and re-rank depth."""
        nprobe, depth = effort or index.effort(k)
        found = index.probe(queries, nprobe, depth, self.snapshot.deleted)
        candidates, scanned = found.rows, found.scanned
        if len(self.snapshot.deleted):
            # Where few rows are deleted, the k nearest live ones are among a few more of all.
            nearest = candidates[:, : k + k // 2 + 2]
            short = np.flatnonzero((nearest >= 0).sum(axis=1) < k)
        elif len(queries) == 1:
            short = _FIRST if candidates.item(k - 1) < 0 else _NONE
        else:
            short = np.flatnonzero(candidates[:, k - 1] < 0)
        if len(short):
            most = 0 if effort else index.max_k  # it is tuned for more neighbours of rows only
            candidates, more = self._search_farther(queries, candidates, short, k, index, most)
            scanned += more
        hits = self._rows.rank(queries, candidates, k, exact=False, scanned=scanned)
        if index.kind == IVF4:
            uncertain = uncertain_queries(found.rows, hits.rows)
            # Queries of `short` had more candidates already.
            uncertain = np.setdiff1d(uncertain, short) if len(uncertain) else uncertain
            if len(uncertain):
                hits = self._search_deeper(queries, k, index, hits, uncertain, (nprobe, depth))
        return self._with_unindexed(queries, k, hits)

    def _with_unindexed(self, queries: Floats, k: int, hits: Hits) -> Hits:
        """The k nearest among the hits of the index and the unindexed rows."""
        unindexed, nearest = self._unindexed, None
        if unindexed is None:
            return hits
        if len(queries) == 1:  # few rows are nearer than its hits, most often none
            farthest = self.space.square(hits.distances.item(-1))
            rows = nearer(queries, unindexed, farthest)
            nearest = None if rows is None else rows[None]
        if nearest is None:
            nearest = scan([unindexed], queries, k).rows
        scanned = hits.scanned + len(unindexed.rows) * len(queries)
        if not nearest.shape[1]:
            return Hits(hits.distances, hits.rows, False, scanned)
        candidates = np.concatenate([hits.rows, nearest], axis=1)
        return self._rows.rank(queries, candidates, k, exact=False, scanned=scanned)

    def _search_farther(
        self,
        queries: Floats,
        candidates: Ints,
        short: Ints,
        k: int,
        index: VectorIndex,
        most: int,
    ) -> tuple[Ints, int]:
        """Candidates for queries around which rows are deleted, or too few were found.

        The index was tuned to find the nearest rows, deleted ones included: 4 k of them, 16 k
        and so on, until k of those are live.  Candidates beyond say nothing, though more came
        back.  Where it was not tuned for so many, every row is compared.

        Parameters
        ----------
        candidates
            int64 ``[q, c]``: those found so far.
        short
            Numbers of the queries to search again.
        most
            Neighbours that the index finds at most; a scan finds more.

        Returns
        -------
        candidates, scanned
            int64 ``[q, c or more]``, those of `short` replaced; vectors compared.
        """
        scanned, reach = 0, k
        while len(short):
            reach *= _REACH_GROWTH
            if reach <= most:
                found = index.search(queries[short], reach, self.snapshot.deleted)
                still_short = (found.rows[:, :reach] >= 0).sum(axis=1) < k
            else:
                found = self._scan_indexed(queries[short], k)
                still_short = np.zeros(len(short), bool)
            scanned += found.scanned
            count = found.rows.shape[1]
            missing = max(0, count - candidates.shape[1])
            candidates = np.pad(candidates, ((0, 0), (0, missing)), constant_values=-1)
            candidates[short] = -1
            candidates[short, :count] = found.rows
            short = short[still_short]
        return candidates, scanned

    def _scan_indexed(self, queries: Floats, k: int) -> Candidates:
        """Those of the nearest rows that are in the index; the others are compared apart."""
        found = scan(self._rows.blocks(), queries, k)
        found.rows[found.rows >= self._indexed_below] = -1
        return found

    def _search_deeper(
        self,
        queries: Floats,
        k: int,
        index: VectorIndex,
        hits: Hits,
        uncertain: Ints,
        effort: tuple[int, int],
    ) -> Hits:
        """Search again with more candidates where 4-bit codes cannot separate neighbours.

        The re-rank depth was tuned on held-out rows.  For queries far from the
        data (sums and differences of latents) quantisation error exceeds the
        gaps between distances.  Search again with four times the candidates until
        none of the neighbours ranked in the lower half; finally scan.
        """
        (nprobe, depth), scanned = effort, hits.scanned
        distances, rows = hits.distances.copy(), hits.rows.copy()
        while len(uncertain):
            depth *= DEPTH_GROWTH
            probed = depth <= index.rows // DEPTH_GROWTH
            again = queries[uncertain]
            found = (
                index.probe(again, nprobe, depth, self.snapshot.deleted)
                if probed
                else self._scan_indexed(again, k)
            )
            better = self._rows.rank(again, found.rows, k, exact=False, scanned=found.scanned)
            scanned += better.scanned
            distances[uncertain], rows[uncertain] = better.distances, better.rows
            uncertain = uncertain[uncertain_queries(found.rows, better.rows)] if probed else _NONE
        return Hits(distances, rows, False, scanned)
