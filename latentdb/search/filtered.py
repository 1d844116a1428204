"""Search among the rows that an expression selects, at the recall of a search among all.

Where many rows are selected, the index is searched as for more neighbours, of which those
selected are the answer.  Where they are few, or far from the query, all are compared.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.exact import Block, fits_float32, scan
from latentdb.ann.index import VectorIndex
from latentdb.search.embedded_rows import EmbeddedRows, uncertain_queries
from latentdb.search.filters import Filter
from latentdb.search.results import Hits
from latentdb.search.selection import masked_rows, selection_mask
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot

_REMEMBERED_BYTES = 128 << 20  # of what is kept of filters between queries, for each metric
_BATCH = 256  # queries whose candidates are in memory at a time
_SPARE = 2  # neighbours looked for, for each among which one is expected to be selected
# Selected rows that are compared in the time that one candidate takes, with the lists it is from
# (measured: 70).  Otherwise comparing them is as fast, and exact.
_COMPARED_PER_CANDIDATE = 64


class _Selection:
    """The rows that a filter selects, and what was derived from them so far."""

    def __init__(self, snapshot: Snapshot, where: Filter) -> None:
        self._snapshot = snapshot
        self.mask = selection_mask(snapshot, where)
        self.count = int(np.count_nonzero(self.mask))
        self.block: Block | None = None  # all of them
        self.unindexed: Block | None = None  # those that are not in the index

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        arrays: list[NDArray[Any]] = [self.mask]
        arrays += [self.__dict__["rows"]] if "rows" in self.__dict__ else []
        blocks = [block for block in (self.block, self.unindexed) if block is not None]
        arrays += [array for block in blocks for array in (block.rows, block.vectors)]
        return sum(array.nbytes for array in arrays)

    @cached_property
    def rows(self) -> Ints:
        """Row numbers, ascending."""
        return masked_rows(self._snapshot, self.mask)

    def among(self, rows: Ints) -> NDArray[np.bool_]:
        """Mask of the rows, by number, that are selected; a number below 0 is not."""
        selected = rows >= 0
        places = self._snapshot.places(rows[selected])
        selected[selected] = self.mask.take(places, mode="clip")
        return selected


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
        self._rows, self._indexed_below = rows, indexed_below
        self._index = None if index is None or not index.nlist else index
        self._selections: OrderedDict[str, _Selection] = OrderedDict()
        self._sizes: dict[str, int] = {}  # bytes of each, as of its last use
        self._bytes = 0  # of all
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
        wider = None if exact else self._wider(k, selection)
        # No inverted list is near to a query whose distances leave float32.
        if wider is None or self._index is None or not fits_float32(queries):
            hits = self._scan(queries, k, selection)
        else:
            hits = self._probe(queries, k, selection, wider, self._index)
        self._remember(where.text, selection)
        return hits

    def _remember(self, text: str, selection: _Selection) -> None:
        """Keep a selection for the next query; drop those that were used least recently."""
        with self._lock:
            self._selections[text] = selection
            self._selections.move_to_end(text)
            size = selection.nbytes
            self._bytes += size - self._sizes.get(text, 0)
            self._sizes[text] = size
            while self._bytes > _REMEMBERED_BYTES:
                self._bytes -= self._sizes.pop(self._selections.popitem(last=False)[0])

    def _scan(self, queries: Floats, k: int, selection: _Selection) -> Hits:
        size = 4 * selection.count * queries.shape[1]
        block = selection.block
        if block is None and size <= _REMEMBERED_BYTES // 2:
            block = Block(selection.rows, self._rows.fetch(selection.rows))
            selection.block = block
        blocks = self._rows.blocks_of(selection.rows) if block is None else [block]
        found = scan(blocks, queries, k)
        return self._rows.rank(queries, found.rows, k, exact=True, scanned=found.scanned)

    def _wider(self, k: int, selection: _Selection) -> int | None:
        """Neighbours among all rows to look for, as many as the index is tuned for.

        None where comparing the selected rows is faster.
        """
        index, total = self._index, max(len(self._rows.snapshot), 1)
        if index is None or not selection.count:
            return None
        wanted = _SPARE * k * total / selection.count
        wider = next((tuned for tuned in index.nprobes if tuned >= wanted), None)
        if wider is None:
            return None
        compared = _COMPARED_PER_CANDIDATE * index.rerank_depth(wider)
        return None if selection.count <= compared else wider

    def _probe(
        self, queries: Floats, k: int, selection: _Selection, wider: int, index: VectorIndex
    ) -> Hits:
        """Search the index for more neighbours, and compare all rows for queries left unsure.

        The index finds the `wider` nearest of all rows at its recall.  So it finds the k
        nearest selected ones where they are among those; where they rank later, as around a
        query far from all that is selected, it may not.
        """
        if selection.unindexed is None:
            newer = selection.rows[selection.rows.searchsorted(self._indexed_below) :]
            selection.unindexed = Block(newer, self._rows.fetch(newer))
        unindexed = selection.unindexed
        parts, unsure, scanned = [], [], 0
        for start in range(0, max(len(queries), 1), _BATCH):
            batch = queries[start : start + _BATCH]
            found = index.search(batch, wider, self._rows.snapshot.deleted)
            selected = selection.among(found.rows)
            candidates = np.where(selected, found.rows, -1)
            scanned += found.scanned
            if len(unindexed.rows):
                others = scan([unindexed], batch, k)
                candidates = np.concatenate([candidates, others.rows], axis=1)
                scanned += others.scanned
            hits = self._rows.rank(batch, candidates, k, exact=False, scanned=0)
            late = uncertain_queries(found.rows, hits.rows, wider)
            parts.append(hits)
            # Rows that are not in the index may be nearer than these, but prove nothing of others.
            first = min(selected.shape[1] // 2, wider)
            few = np.flatnonzero(selected[:, :first].sum(axis=1) < k)
            unsure += [late + start, few + start]
        together = Hits.concat(parts)
        distances, rows = together.distances, together.rows
        again = np.unique(np.concatenate(unsure))
        if len(again):
            better = self._scan(queries[again], k, selection)
            distances[again], rows[again] = better.distances, better.rows
            scanned += better.scanned
        return Hits(distances, rows, len(again) == len(queries), scanned)
