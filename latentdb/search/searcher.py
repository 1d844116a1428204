"""One version of a store, ready to be searched under one metric.

Index, rows newer than it, deletions and filter are put together to one answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.exact import Block, Candidates, fits_float32, rank, scan
from latentdb.ann.index import DELETED, VectorIndex
from latentdb.ann.metrics import COSINE, KL, L2, Space, symmetric_kl
from latentdb.ann.plan import IVF4, exact_rows
from latentdb.base.errors import InvalidInputError
from latentdb.search import selection as rows_of
from latentdb.search.filters import Filter
from latentdb.store.segment import Floats, Ints, Segment
from latentdb.store.snapshot import Snapshot

# Rows kept by a filter are compared one and all up to so many times the rows of a store without
# an index.  They are gathered once, to 26 MB at most: 100,000 of 64 dimensions are then compared in
# 1.1 ms, where lists take 2 to 11, the longer the farther from the query the rows kept are.
_FEW = 2
_ONE = 300  # rows that Python puts in order sooner than numpy
_FILTERS = 8  # whose rows are remembered
_GONE = 0.25  # of the candidates of a query: if more are deleted, it looks further
_WIDER = 4  # times as many candidates, where those of 4 bits were too few
_TOGETHER = 256  # filtered queries whose lists are ordered at once
_SAMPLE = 4_000  # rows by which the rank of a distance is estimated
_SURFACE = 160  # rows of that sample at about this distance
_KL_FACTOR, _KL_MORE = 10, 100  # candidates for each neighbour under kl, and so many more
_PLACED = 65_536  # rows that are mapped to the space together
_FIRST_WITHIN = 256  # rows that are looked for first within a radius
MOST_WITHIN = 100_000
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Hits:
    """Nearest rows of some queries.

    Attributes
    ----------
    distances
        float32 ``[q, k]``, ascending; infinity where there are fewer than k.
    rows
        int64 ``[q, k]`` row numbers; -1 where there are fewer.
    exact
        Whether every row that could match was compared.
    scanned
        Vectors that were compared, over all queries.
    """

    distances: Floats
    rows: Ints
    exact: bool
    scanned: int


class _Kept:
    """The rows that a filter keeps: bool by row number."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self.mask = mask
        self.count = int(np.count_nonzero(mask))
        self.block: Block | None = None
        self.bitmap: NDArray[np.uint8] | None = None
        self.by_list: Ints = _NONE
        self.tail: Block | None = None

    @cached_property
    def rows(self) -> Ints:
        """Their numbers, ascending."""
        return np.flatnonzero(self.mask)


class Searcher:
    """A version of a store under a metric.

    Parameters
    ----------
    snapshot
        The version.
    index
        The one its manifest names, opened; used if it is of the same metric.
    metric
        One of `latentdb.ann.metrics.METRICS`.
    anew
        To build another index: the present one counts for nothing.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        index: VectorIndex | None = None,
        *,
        metric: str = L2,
        anew: bool = False,
    ) -> None:
        self.snapshot = snapshot
        self.metric = metric
        entry = snapshot.manifest.index
        self._entry = None if anew or entry is None or entry.metric != metric else entry
        self.index = None if self._entry is None else index
        self._covered = 0 if self._entry is None else self._entry.rows_below
        self._filters: OrderedDict[str, _Kept] = OrderedDict()

    # --- the space --------------------------------------------------------------

    @cached_property
    def space(self) -> Space:
        """Where rows are compared; the centre of cosine is that of the index, if it has one."""
        if self.metric != COSINE:
            return Space(self.metric)
        if self._entry is not None:
            return Space(COSINE, np.array(self._entry.centre, np.float64))
        summed, count = rows_of.total(self.snapshot, None)
        return Space(COSINE, summed / max(count, 1))

    def fetch(self, rows: Ints) -> Floats:
        """Places of row numbers in the space."""
        # The rows of one query ascend, those of many do not.
        numbers = rows.tolist() if len(rows) <= _ONE else []
        if numbers and numbers == sorted(numbers):
            means = self.snapshot.vectors_ascending(rows, numbers)
        else:
            means = self.snapshot.vectors(rows)
        if self.metric == L2:
            return means
        return self.space.embed(means, self._log_vars(rows))

    def _log_vars(self, rows: Ints) -> Floats | None:
        return self.snapshot.log_vars(rows) if self.space.posterior else None

    def blocks(self, where: Filter | None = None, *, since: int = 0) -> Iterator[Block]:
        """The rows to scan, from row number `since` on."""
        for segment in self.snapshot.segments:
            if segment.entry.last_row < since:
                continue
            keep = rows_of.kept(self.snapshot, segment, where)
            first = int(np.searchsorted(segment.rows, since)) if since else 0
            rows = segment.rows[first:]
            kept = None if keep is None else keep[first:]
            if self.metric == L2:
                yield Block(rows, segment.z_mean[first:], kept)
                continue
            for start in range(0, len(rows), _PLACED):
                part = slice(start, start + _PLACED)
                yield Block(
                    rows[part],
                    self._placed(segment, slice(first + start, first + start + _PLACED)),
                    None if kept is None else kept[part],
                )

    def _placed(self, segment: Segment, part: slice) -> Floats:
        log_vars = segment.z_log_var if self.space.posterior else None
        return self.space.embed(segment.z_mean[part], None if log_vars is None else log_vars[part])

    @cached_property
    def tail(self) -> Block | None:
        """The rows newer than the index, in memory; None where there are none."""
        return _joined(list(self.blocks(since=self._covered)))

    # --- search -----------------------------------------------------------------

    def search(
        self, queries: Floats, *, k: int, where: Filter | None = None, exact: bool = False
    ) -> Hits:
        """Find the nearest rows of each query.

        Parameters
        ----------
        queries
            float32 ``[q, dim]``: places in the space.
        k
            Neighbours wanted, at least one.
        where
            Keep only rows for which it is true.
        exact
            Compare every row that could match.
        """
        index = None if exact else self.index
        if self.metric == KL:
            return self._by_kl(queries, k, where)
        return self._nearest(queries, k, where, index)

    def _nearest(
        self, queries: Floats, k: int, where: Filter | None, index: VectorIndex | None
    ) -> Hits:
        if where is not None:
            kept = self._kept(where)
            few = kept.count <= self._few(queries)
            if few or index is None or not index.nlist or k > index.max_k:
                return self._exact(queries, k, kept)
            if not fits_float32(queries):
                return self._exact(queries, k, kept)  # no list is near to them
            parts = [
                self._filtered(queries[start : start + _TOGETHER], k, kept, index)
                for start in range(0, max(len(queries), 1), _TOGETHER)
            ]
            return parts[0] if len(parts) == 1 else _stacked(parts)
        if index is None or k > index.max_k:
            found = scan(self.blocks(), queries, k)
            return self._ranked(queries, found.rows, k, True, found.scanned)
        found = index.search(queries, k, self.snapshot.deleted)
        rows, scanned = found.rows, found.scanned
        if len(self.snapshot.deleted):
            gone = (rows == DELETED).sum(axis=1)
            lacking = np.flatnonzero((gone > _GONE * rows.shape[1]) | ((rows >= 0).sum(axis=1) < k))
        else:
            lacking = np.flatnonzero(rows[:, k - 1] < 0)
        if len(lacking):
            rows, more = self._further(queries, rows, lacking, k, index)
            scanned += more
        newer = None if self.tail is None else scan([self.tail], queries, k)
        if newer is not None:
            rows = np.concatenate([rows, newer.rows], axis=1)
            scanned += newer.scanned
        hits = self._ranked(queries, rows, k, False, scanned)
        if index.kind == IVF4:
            unsure = _deep(found.rows, hits.rows)
            # What looked further among deleted rows has looked at more candidates, too.
            unsure = np.setdiff1d(unsure, lacking) if len(unsure) else unsure
            if len(unsure):
                return self._wider(queries, k, index, hits, unsure, newer)
        return hits

    def _wider(
        self,
        queries: Floats,
        k: int,
        index: VectorIndex,
        hits: Hits,
        unsure: Ints,
        newer: Candidates | None,
    ) -> Hits:
        """Search again with more candidates where codes of 4 bits tell neighbours apart badly.

        Their number was tuned on rows held out.  Far from all rows, as sums and
        differences of latents can be, many more differ by less than a code
        tells; so neighbours are found deep among the candidates, and others lie
        beyond the last.  There are more until the second half has none, or they
        are so many that every row is compared.
        """
        width, scanned = index.rerank_depth(k), hits.scanned
        distances, ranked = hits.distances.copy(), hits.rows.copy()
        while len(unsure):
            width *= _WIDER
            few = width <= index.rows // _WIDER
            if few:
                found = index.probe(queries[unsure], index.nprobe(k), width, self.snapshot.deleted)
            else:
                found = scan(self.blocks(), queries[unsure], k)
            rows = found.rows
            if few and newer is not None:
                rows = np.concatenate([rows, newer.rows[unsure]], axis=1)
            scanned += found.scanned
            more = self._ranked(queries[unsure], rows, k, False, 0)
            distances[unsure], ranked[unsure] = more.distances, more.rows
            unsure = unsure[_deep(found.rows, more.rows)] if few else _NONE
        return Hits(distances, ranked, False, scanned)

    def _further(
        self, queries: Floats, rows: Ints, lacking: Ints, k: int, index: VectorIndex
    ) -> tuple[Ints, int]:
        """Candidates anew for queries around which rows are deleted, or too few were probed.

        The index was tuned to find the K nearest of all rows, for several K: where
        one in four is alive, the k nearest of those are among the 4 k nearest of
        all.  Where the index is not tuned for so many, every row is compared.
        """
        scanned, reach = 0, k
        while len(lacking):
            reach *= 4
            if reach <= index.max_k:
                found = index.search(queries[lacking], reach, self.snapshot.deleted)
                alive = (found.rows >= 0).sum(axis=1)
                lack = alive * reach < k * found.rows.shape[1]
            else:
                found = scan(self.blocks(), queries[lacking], k)
                found.rows[found.rows >= self._covered] = -1  # of the tail, which is scanned anyway
                lack = np.zeros(len(lacking), bool)
            scanned += found.scanned
            width = found.rows.shape[1]
            short = max(0, width - rows.shape[1])
            rows = np.pad(rows, ((0, 0), (0, short)), constant_values=-1)
            rows[lacking] = -1
            rows[lacking, :width] = found.rows
            lacking = lacking[lack]
        return rows, scanned

    def _ranked(self, queries: Floats, rows: Ints, k: int, exact: bool, scanned: int) -> Hits:
        distances, ranked = rank(queries, rows, self.fetch, k)
        if self.metric == COSINE:
            distances = self.space.distances(distances)
        return Hits(distances, ranked, exact, scanned)

    def _by_kl(self, queries: Floats, k: int, where: Filter | None) -> Hits:
        """Rank the nearest by Wasserstein distance by symmetric KL divergence."""
        wanted = min(_KL_FACTOR * k + _KL_MORE, max(len(self.snapshot), 1))
        rough = self._nearest(queries, wanted, where, None)
        distances = np.full((len(queries), k), np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        for number, query in enumerate(queries):
            own = np.sort(rough.rows[number][rough.rows[number] >= 0])
            divergences = symmetric_kl(query, self.fetch(own))
            order = divergences.argsort(kind="stable")[:k]
            distances[number, : len(order)] = divergences[order]
            rows[number, : len(order)] = own[order]
        every = len(self.snapshot) <= wanted or bool((rough.rows[:, -1] < 0).all())
        return Hits(distances, rows, every, rough.scanned)

    def within(
        self,
        queries: Floats,
        radius: float,
        *,
        where: Filter | None = None,
    ) -> Hits:
        """Find every row within a distance of each query, by comparing all of them.

        Under kl, all candidates of so many neighbours are: see `Hits.exact`.

        Raises
        ------
        InvalidInputError
            If they are more than `MOST_WITHIN`.
        """
        k = _FIRST_WITHIN
        while True:
            hits = self.search(queries, k=k, where=where, exact=True)
            if not ((hits.distances[:, -1] <= radius) & (hits.rows[:, -1] >= 0)).any():
                break
            if k >= MOST_WITHIN:
                raise InvalidInputError(
                    f"over {MOST_WITHIN} rows lie within {radius}: give a smaller radius, or k"
                )
            k = min(8 * k, MOST_WITHIN)
        return cut(hits, radius)

    # --- filters ----------------------------------------------------------------

    def _kept(self, where: Filter) -> _Kept:
        kept = self._filters.get(where.text)
        if kept is None:
            kept = self._filters[where.text] = _Kept(rows_of.marked(self.snapshot, where))
            if len(self._filters) > _FILTERS:
                self._filters.popitem(last=False)
        return kept

    @staticmethod
    def _few(queries: Floats) -> int:
        return _FEW * exact_rows(queries.shape[1])

    def _exact(self, queries: Floats, k: int, kept: _Kept) -> Hits:
        blocks: Iterator[Block]
        if kept.count <= self._few(queries):
            if kept.block is None:
                kept.block = Block(kept.rows, self.fetch(kept.rows))
            blocks = iter([kept.block])
        else:
            blocks = self._pieces(kept.rows)
        found = scan(blocks, queries, k)
        return self._ranked(queries, found.rows, k, True, found.scanned)

    def _pieces(self, rows: Ints) -> Iterator[Block]:
        for start in range(0, len(rows), _PLACED):
            part = rows[start : start + _PLACED]
            yield Block(part, self.fetch(part))

    @cached_property
    def _list_of(self) -> Ints:
        return _NONE if self.index is None else self.index.list_of(self._covered)

    @cached_property
    def _rows_by_list(self) -> Ints:
        least = 0 if self.index is None else self.index.nlist + 1
        return np.bincount(self._list_of, minlength=least)[1:]

    @cached_property
    def _sample(self) -> tuple[Floats, Ints]:
        """Places of some rows of the index, and the list of each."""
        held = np.flatnonzero(self._list_of)
        random = np.random.default_rng(0)
        chosen = random.choice(held, min(_SAMPLE, len(held)), replace=False)
        # A row that was compacted away is in the index, but nowhere else.
        alive = chosen[self._alive(chosen)]
        rows = np.sort(alive)
        return self.fetch(rows), self._list_of[rows] - 1

    def _alive(self, rows: Ints) -> NDArray[np.bool_]:
        return ~self.snapshot.is_deleted(rows)

    def _prepare(self, kept: _Kept, index: VectorIndex) -> NDArray[np.uint8]:
        """The bitmap of the rows kept, and how many of them each list has."""
        if kept.bitmap is None:
            bits = kept.mask[: self._covered]
            # Weights of 0 and 1: to pick the lists of the rows kept takes four times as long.
            counts = np.bincount(self._list_of, weights=bits, minlength=index.nlist + 1)
            kept.by_list = counts[1:].astype(np.int64)
            newer = self._covered + np.flatnonzero(kept.mask[self._covered :])
            kept.tail = Block(newer, self.fetch(newer)) if len(newer) else None
            kept.bitmap = np.packbits(bits, bitorder="little")
        return kept.bitmap

    def _filtered(self, queries: Floats, k: int, kept: _Kept, index: VectorIndex) -> Hits:
        """Probe as many lists as the rank of the answer among all rows asks for.

        The index was tuned to find the K nearest of all rows, for several K.
        Rows kept that are the k nearest have some rank among all rows: k times
        fewer than one in a hundred is kept near the query, the rank is some
        100 k, and the lists are probed that find so many neighbours.  First by
        the share of rows kept in the lists around the query; then by the
        distance that was found, see `_lists_within`.
        """
        bitmap = self._prepare(kept, index)
        every_square, every_list = index.nearest_lists(queries)
        parts = [(np.empty((0, k), np.float32), np.empty((0, k), np.int64))]
        scanned = 0
        # To scan anew takes longer than to rank many: rows kept far from the query need more.
        narrow = index.rerank_depth(k) * (_WIDER if index.kind == IVF4 else 1)
        for number in range(len(queries)):
            one = queries[number : number + 1]
            squares, lists = every_square[number], every_list[number]
            held = np.cumsum(kept.by_list[lists])
            seen = np.cumsum(self._rows_by_list[lists])
            needed = _probes(k * seen / np.maximum(held, 1e-9), index)
            enough = np.flatnonzero((np.arange(1, len(lists) + 1) >= needed) & (held >= 4 * k))
            stop = int(enough[0]) + 1 if len(enough) else len(lists)
            around = slice(0, stop)
            rows, width = self._probe(one, k, narrow, around, lists, squares, kept, bitmap, index)
            distances, _ = rank(one, rows, self.fetch, k)
            if np.isfinite(distances[0, -1]) and stop < len(lists):
                further = self._lists_within(one, k, float(distances[0, -1]), lists, index)
            else:
                further = len(lists)
            if further > stop:
                more = slice(stop, further)
                if index.kind == IVF4:
                    width *= _WIDER  # the further, the less codes tell
                found, _ = self._probe(one, k, width, more, lists, squares, kept, bitmap, index)
                rows = np.concatenate([rows, found], axis=1)
            scanned += int(held[max(stop, further) - 1])
            if kept.tail is not None:
                newer = scan([kept.tail], one, k)
                rows = np.concatenate([rows, newer.rows], axis=1)
                scanned += newer.scanned
            parts.append(rank(one, rows, self.fetch, k))
        distances = np.concatenate([part[0] for part in parts])
        ranked = np.concatenate([part[1] for part in parts])
        if self.metric == COSINE:
            distances = self.space.distances(distances)
        return Hits(distances, ranked, False, scanned)

    def _probe(
        self,
        one: Floats,
        k: int,
        width: int,
        part: slice,
        lists: Ints,
        squares: Floats,
        kept: _Kept,
        bitmap: NDArray[np.uint8],
        index: VectorIndex,
    ) -> tuple[Ints, int]:
        """Candidates in a part of the lists, and how many were asked for in the end.

        Lists wholly kept need no look at the bitmap.
        """
        chosen, distances = lists[part], squares[part]
        held = kept.by_list[chosen]
        whole = held == self._rows_by_list[chosen]
        found = []
        for mask, bits in (((held > 0) & ~whole, bitmap), ((held > 0) & whole, None)):
            own, apart, here = chosen[mask], distances[mask], int(held[mask].sum())
            while len(own):
                rows = index.probe_filtered(one, width, own, apart, bits).rows
                if index.kind != IVF4:
                    break
                _, best = rank(one, rows, self.fetch, k)
                # See `_wider`: the nearest of rows kept far from the query are hard to tell, too.
                if width >= here or not len(_deep(rows, best)):
                    rows = best
                    break
                width *= _WIDER
            if len(own):
                found.append(rows)
        return np.concatenate(found, axis=1) if found else np.full((1, 0), -1, np.int64), width

    def _lists_within(
        self, one: Floats, k: int, distance: float, lists: Ints, index: VectorIndex
    ) -> int:
        """How many of the lists around a query hold what lies within a distance.

        The rank of the distance among all rows, estimated on a sample, tells how
        many were probed to find so many neighbours.  Where that is far beyond
        those the index was tuned for, the sample itself tells in which lists rows
        at about this distance are: the k nearest of rows kept far from the query
        lie at the surface of the ball around it, in the last lists that cut it.
        """
        places, own = self._sample
        squares = ((places - one) ** 2).sum(axis=1)
        within = int((squares <= distance * distance).sum())
        rank_found = within / max(len(places), 1) * len(self._list_of)
        needed = int(_probes(np.array([max(rank_found, k)]), index)[0])
        if within >= _SURFACE // 4:
            about = squares.argsort()[max(0, within - _SURFACE) : within + _SURFACE // 4]
            position = np.empty(len(lists), np.int64)
            position[lists] = np.arange(len(lists))
            needed = max(needed, int(position[own[about]].max()) + 1)
        return min(needed, len(lists))


def _deep(candidates: Ints, best: Ints) -> Ints:
    """Queries of whose neighbours one is in the second half of the candidates, nearest first."""
    half = candidates.shape[1] // 2
    pairs = enumerate(zip(candidates[:, half:].tolist(), best.tolist(), strict=True))
    deep = [
        number
        for number, (later, own) in pairs
        if not {row for row in own if row >= 0}.isdisjoint(later)
    ]
    return np.array(deep, np.int64)


def _probes(neighbours: NDArray[np.float64], index: VectorIndex) -> NDArray[np.float64]:
    """Lists to probe for so many neighbours: between and beyond those tuned for.

    Interpolated between logarithms; beyond the last by the steepest slope seen,
    and at least in proportion to the square root of the neighbours.
    """
    known = np.log(np.array(list(index.nprobes), np.float64))
    nprobes = np.log(np.array(list(index.nprobes.values()), np.float64))
    sought = np.log(np.maximum(neighbours, 1.0))
    within = np.interp(sought, known, nprobes)
    slope = 0.5
    if len(known) > 1:
        slope = max(slope, float((np.diff(nprobes) / np.diff(known)).max()))
    beyond = np.maximum(sought - known[-1], 0.0) * slope
    return np.asarray(np.ceil(np.exp(np.minimum(within + beyond, 30.0))))


def _stacked(parts: list[Hits]) -> Hits:
    """The answers to some queries, and to more of them, as one."""
    return Hits(
        np.concatenate([part.distances for part in parts]),
        np.concatenate([part.rows for part in parts]),
        all(part.exact for part in parts),
        sum(part.scanned for part in parts),
    )


def _joined(blocks: list[Block]) -> Block | None:
    """Several blocks as one without rows that are not kept; None of nothing."""
    rows = [block.selected_rows() for block in blocks]
    if not sum(map(len, rows)):
        return None
    vectors = [
        block.vectors if block.mask is None else block.vectors[block.mask] for block in blocks
    ]
    return Block(np.concatenate(rows), np.concatenate(vectors))


def cut(hits: Hits, radius: float) -> Hits:
    """Only what lies within a distance."""
    far = hits.distances > radius
    distances = np.where(far, np.float32(np.inf), hits.distances)
    return Hits(distances, np.where(far, -1, hits.rows), hits.exact, hits.scanned)
