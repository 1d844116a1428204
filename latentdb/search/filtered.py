"""Search among the rows that an expression selects, at the recall of a search among all.

Few selected rows are compared one and all.  Of more, the inverted lists are
probed for them, as far out as the rank of the answer among all rows requires.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.exact import Block, fits_float32, rank, scan
from latentdb.ann.index import VectorIndex
from latentdb.ann.plan import IVF4, exact_rows
from latentdb.search.embedded_rows import DEPTH_GROWTH, EmbeddedRows, uncertain_queries
from latentdb.search.filters import Filter
from latentdb.search.results import Hits
from latentdb.search.selection import masked_rows, selection_mask
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot

# Selected rows are scanned up to this factor on the rows of a store without an index.  They are
# gathered once, 26 MB at most: 100,000 x 64 then take 1.1 ms, probing inverted lists 2 to 11 ms.
_SCAN_FACTOR = 2
# What is kept of filters between queries, for each metric: of so many filters, so many bytes.
_REMEMBERED, _REMEMBERED_BYTES = 8, 128 << 20
_BITS_PER_ROW = 64  # of the bitmap: one for each row number ever given; beyond, rows are scanned
_BATCH = 256  # queries whose inverted lists are sorted by distance at once
_SAMPLE = 4_000  # rows by which the rank of a distance is estimated
_NEAR_DISTANCE = 160  # sampled rows at about a distance that say which lists reach so far
_LEAST_SELECTED = 4  # selected rows for each neighbour in the lists that are probed first


@dataclass(frozen=True, eq=False)
class _ListSelection:
    """Selected rows as the inverted lists need them.

    Attributes
    ----------
    bitmap
        A bit by row number, the lowest first.
    per_list
        int64 ``[nlist]``: selected rows in each list.
    unindexed
        Those that are not in the index; None where there are none.
    """

    bitmap: NDArray[np.uint8]
    per_list: Ints
    unindexed: Block | None


class _Selection:
    """The rows that a filter selects, and what was derived from them so far."""

    def __init__(self, snapshot: Snapshot, where: Filter) -> None:
        self._snapshot = snapshot
        self.mask = selection_mask(snapshot, where)
        self.count = int(np.count_nonzero(self.mask))
        self.block: Block | None = None
        self.lists: _ListSelection | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        arrays: list[NDArray[Any]] = [self.mask, *([self.rows] if "rows" in self.__dict__ else [])]
        blocks = [self.block]
        if self.lists is not None:
            arrays += [self.lists.bitmap, self.lists.per_list]
            blocks.append(self.lists.unindexed)
        arrays += [part for b in blocks if b is not None for part in (b.rows, b.vectors)]
        return sum(array.nbytes for array in arrays)

    @cached_property
    def rows(self) -> Ints:
        """Row numbers, ascending."""
        return masked_rows(self._snapshot, self.mask)


@dataclass(frozen=True, eq=False)
class _Query:
    """One query, and every inverted list by the distance of its centroid.

    Attributes
    ----------
    vector
        float32 ``[1, dim]``.
    lists, squares
        Numbers of the lists, nearest first, and their squared distances.
    """

    vector: Floats
    k: int
    lists: Ints
    squares: Floats


class FilteredSearch:
    """Filtered search in one snapshot under one metric.

    Parameters
    ----------
    rows
        The rows of the snapshot.
    index
        Their index, if there is one; a graph (HNSW) is not used under a filter.
    indexed_below
        The first row number that the index does not cover.
    """

    def __init__(self, rows: EmbeddedRows, index: VectorIndex | None, indexed_below: int) -> None:
        self._rows = rows
        self._lists: _FilteredLists | None = None
        most = _BITS_PER_ROW * sum(segment.rows for segment in rows.snapshot.manifest.segments)
        if index is not None and index.nlist and indexed_below <= most:
            self._lists = _FilteredLists(rows, index, indexed_below)
        self._selections: OrderedDict[str, _Selection] = OrderedDict()
        self._lock = threading.Lock()  # of the selections: threads share a searcher

    def search(self, queries: Floats, k: int, where: Filter, *, exact: bool = False) -> Hits:
        """The k nearest selected rows of each query.

        Parameters
        ----------
        queries
            float32 ``[q, dim]``.
        k
            Neighbours wanted.
        where
            Selects the rows.
        exact
            Compare every selected row.
        """
        with self._lock:
            selection = self._selections.get(where.text)
        selection = selection or _Selection(self._rows.snapshot, where)
        hits = self._search(queries, k, selection, exact=exact)
        self._remember(where.text, selection)
        return hits

    def _search(self, queries: Floats, k: int, selection: _Selection, *, exact: bool) -> Hits:
        scannable = selection.count <= _SCAN_FACTOR * exact_rows(queries.shape[1])
        lists = self._lists
        # No inverted list is near to a query whose distances leave float32.
        if exact or scannable or lists is None or k > lists.max_k or not fits_float32(queries):
            gathered = 4 * selection.count * queries.shape[1] <= _REMEMBERED_BYTES // 2
            return self._scan(queries, k, selection, in_memory=scannable and gathered)
        return Hits.concat(
            [
                lists.search(queries[start : start + _BATCH], k, selection)
                for start in range(0, max(len(queries), 1), _BATCH)
            ]
        )

    def _remember(self, text: str, selection: _Selection) -> None:
        """Keep a selection for the next query; drop those that were used least recently."""
        with self._lock:
            self._selections[text] = selection
            self._selections.move_to_end(text)
            total = sum(kept.nbytes for kept in self._selections.values())
            while len(self._selections) > _REMEMBERED or total > _REMEMBERED_BYTES:
                total -= self._selections.popitem(last=False)[1].nbytes

    def _scan(self, queries: Floats, k: int, selection: _Selection, *, in_memory: bool) -> Hits:
        block = selection.block
        if in_memory and block is None:
            block = Block(selection.rows, self._rows.fetch(selection.rows))
            selection.block = block
        blocks = self._rows.blocks_of(selection.rows) if block is None else [block]
        found = scan(blocks, queries, k)
        return self._rows.rank(queries, found.rows, k, exact=True, scanned=found.scanned)


class _FilteredLists:
    """Filtered search in the lists of an inverted file.

    The index was tuned to find the K nearest of all rows, for several K.  The k
    nearest selected rows have some rank among all rows: if one row in a hundred
    around the query is selected, the rank is about 100 k, and as many lists are
    probed as find so many neighbours.
    """

    def __init__(self, rows: EmbeddedRows, index: VectorIndex, indexed_below: int) -> None:
        self._rows, self._index, self._indexed_below = rows, index, indexed_below
        self.max_k = index.max_k

    def search(self, queries: Floats, k: int, selection: _Selection) -> Hits:
        """As `FilteredSearch.search`, for at most `max_k` neighbours."""
        selected = self._prepare(selection)
        squares, lists = self._index.nearest_lists(queries)
        distances = np.empty((len(queries), k), np.float32)
        rows = np.empty((len(queries), k), np.int64)
        scanned = 0
        for number in range(len(queries)):
            one = slice(number, number + 1)
            query = _Query(queries[one], k, lists[number], squares[number])
            distances[one], rows[one], compared = self._search_one(query, selected)
            scanned += compared
        return Hits(self._rows.space.distances(distances), rows, False, scanned)

    def _prepare(self, selection: _Selection) -> _ListSelection:
        if selection.lists is None:
            indexed = selection.mask[: len(self._numbers)]
            # Weights of 0 and 1: picking the lists of the selected rows takes four times as long.
            counts = np.bincount(self._list_of, weights=indexed, minlength=self._index.nlist + 1)
            newer = selection.rows[np.count_nonzero(indexed) :]
            bits = np.zeros(self._indexed_below, bool)
            bits[self._numbers] = indexed
            selection.lists = _ListSelection(
                np.packbits(bits, bitorder="little"),
                counts[1:].astype(np.int64),
                Block(newer, self._rows.fetch(newer)) if len(newer) else None,
            )
        return selection.lists

    @cached_property
    def _numbers(self) -> Ints:
        """Numbers of the rows in segments that the index covers, ascending."""
        rows = np.concatenate([segment.rows for segment in self._rows.snapshot.segments])
        return rows[: rows.searchsorted(self._indexed_below)]

    @cached_property
    def _list_of(self) -> Ints:
        """The list of each of these rows, from 1; 0 for one that is not in the index."""
        return self._index.list_of(self._numbers)

    @cached_property
    def _rows_per_list(self) -> Ints:
        return self._index.list_sizes()

    @cached_property
    def _sample(self) -> tuple[Floats, Ints]:
        """Vectors of some indexed rows, and the list of each."""
        indexed = np.flatnonzero(self._list_of)
        random = np.random.default_rng(0)
        chosen = np.sort(random.choice(indexed, min(_SAMPLE, len(indexed)), replace=False))
        chosen = chosen[~self._rows.snapshot.is_deleted(self._numbers[chosen])]
        return self._rows.fetch(self._numbers[chosen]), self._list_of[chosen] - 1

    def _search_one(self, query: _Query, selected: _ListSelection) -> tuple[Floats, Ints, int]:
        """L2 distances and rows, ``[1, k]``, and how many vectors were compared.

        The lists to probe are estimated twice: from the share of selected rows in
        the lists around the query, then from the distance of the k-th match found.
        """
        k, nlist = query.k, len(query.lists)
        selected_within = np.cumsum(selected.per_list[query.lists])
        rows_within = np.cumsum(self._rows_per_list[query.lists])
        ranks = k * rows_within / np.maximum(selected_within, 1e-9)
        enough = np.flatnonzero(
            (np.arange(1, nlist + 1) >= nprobe_for(ranks, self._index))
            & (selected_within >= _LEAST_SELECTED * k)
        )
        nprobe = int(enough[0]) + 1 if len(enough) else nlist
        # Selected rows far from the query need a greater depth, and ranking many candidates
        # takes less time than probing the same lists again.
        depth = self._index.rerank_depth(k) * (DEPTH_GROWTH if self._index.kind == IVF4 else 1)
        rows, depth = self._probe(query, slice(0, nprobe), depth, selected)
        distances, _ = rank(query.vector, rows, self._rows.fetch, k)
        wider = nlist
        if np.isfinite(distances[0, -1]) and nprobe < nlist:
            wider = self._nprobe_within(query, float(distances[0, -1]))
        if wider > nprobe:
            if self._index.kind == IVF4:
                depth *= DEPTH_GROWTH  # distances by codes separate far rows less well
            more, _ = self._probe(query, slice(nprobe, wider), depth, selected)
            rows = np.concatenate([rows, more], axis=1)
        scanned = int(selected_within[max(nprobe, wider) - 1])
        if selected.unindexed is not None:
            newer = scan([selected.unindexed], query.vector, k)
            rows = np.concatenate([rows, newer.rows], axis=1)
            scanned += newer.scanned
        return (*rank(query.vector, rows, self._rows.fetch, k), scanned)

    def _probe(
        self, query: _Query, part: slice, depth: int, selected: _ListSelection
    ) -> tuple[Ints, int]:
        """Candidates from a part of the lists, and the re-rank depth that was reached.

        Lists of which every row is selected are searched without the bitmap.
        """
        lists, squares = query.lists[part], query.squares[part]
        count = selected.per_list[lists]
        whole = count == self._rows_per_list[lists]
        found = []
        for mask, bitmap in (((count > 0) & ~whole, selected.bitmap), ((count > 0) & whole, None)):
            if not mask.any():
                continue
            most = int(count[mask].sum())
            while True:
                rows = self._index.probe_filtered(
                    query.vector, depth, lists[mask], squares[mask], bitmap
                ).rows
                if self._index.kind != IVF4:
                    break
                _, nearest = rank(query.vector, rows, self._rows.fetch, query.k)
                if depth >= most or not len(uncertain_queries(rows, nearest)):
                    rows = nearest
                    break
                depth *= DEPTH_GROWTH
            found.append(rows)
        return np.concatenate(found, axis=1) if found else np.full((1, 0), -1, np.int64), depth

    def _nprobe_within(self, query: _Query, distance: float) -> int:
        """How many of the nearest lists hold the rows within a distance of the query.

        The rank of the distance among all rows is estimated on a sample; the index
        was tuned to find so many neighbours.  Where the rank is far beyond those it
        was tuned for, the lists of sampled rows at about this distance are probed
        too: selected rows far from the query are near the surface of the ball
        around it, in the last lists that intersect it.
        """
        vectors, list_of = self._sample
        squares = ((vectors - query.vector) ** 2).sum(axis=1)
        within = int((squares <= distance * distance).sum())
        rank_of_distance = within / max(len(vectors), 1) * len(self._numbers)
        nprobe = int(nprobe_for(np.array([max(rank_of_distance, query.k)]), self._index)[0])
        if within >= _NEAR_DISTANCE // 4:
            last = within + _NEAR_DISTANCE // 4
            near_distance = squares.argsort()[max(0, within - _NEAR_DISTANCE) : last]
            position = np.empty(len(query.lists), np.int64)
            position[query.lists] = np.arange(len(query.lists))
            nprobe = max(nprobe, int(position[list_of[near_distance]].max()) + 1)
        return min(nprobe, len(query.lists))


def nprobe_for(neighbours: NDArray[np.float64], index: VectorIndex) -> NDArray[np.float64]:
    """Inverted lists to probe for numbers of neighbours between and beyond those tuned for.

    Interpolated between logarithms; beyond the last by the steepest slope seen,
    and at least in proportion to the square root of the neighbours.
    """
    tuned = np.log(np.array(list(index.nprobes), np.float64))
    nprobes = np.log(np.array(list(index.nprobes.values()), np.float64))
    wanted = np.log(np.maximum(neighbours, 1.0))
    within = np.interp(wanted, tuned, nprobes)
    slope = 0.5
    if len(tuned) > 1:
        slope = max(slope, float((np.diff(nprobes) / np.diff(tuned)).max()))
    beyond = np.maximum(wanted - tuned[-1], 0.0) * slope
    return np.asarray(np.ceil(np.exp(np.minimum(within + beyond, 30.0))))
