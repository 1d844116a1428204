"""The rows of a snapshot in the space of a metric: fetched, scanned, and ranked exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np

from latentdb.ann.exact import Block, Fetch, chunk_rows, concat
from latentdb.ann.metrics import CENTERED_COSINE, L2, Space
from latentdb.ann.ranking import Matrix, rank
from latentdb.base.errors import InvalidInputError
from latentdb.search.results import Hits
from latentdb.search.selection import live_mask
from latentdb.store.manifest import FLOAT32
from latentdb.store.rows import Floats, Ints
from latentdb.store.segment import Segment
from latentdb.store.snapshot import Snapshot

DEPTH_GROWTH = 4  # factor on the re-rank depth where 4-bit codes cannot separate neighbours
# Segments of so few rows are joined in memory: comparing them one by one takes 0.15 ms for each,
# as long as 3,500 rows of 64 dimensions.  Where vectors are not stored as they are compared, larger
# ones are kept there, too: embedding a row takes 25 times as long as comparing it.  So many bytes
# in all, for each metric.
_JOINED_ROWS, _JOINED_BYTES = 8_192, 64 << 20
NO_QUERIES = np.empty(0, np.int64)
_PYTHON_SORTED = 300  # up to so many rows, Python checks their order sooner than numpy


class _Run(NamedTuple):
    """Segments in order that are scanned as one, and whether they are kept in memory."""

    segments: list[Segment]
    is_kept: bool

    @property
    def last_row(self) -> int:
        return self.segments[-1].entry.last_row


class EmbeddedRows:
    """The live rows of a snapshot, as vectors of the space in which a metric is L2.

    Parameters
    ----------
    snapshot
        The version of the store.
    metric
        One of `latentdb.ann.metrics.METRICS`.
    centre
        What centred cosine is measured around; by default what the manifest records.
    """

    def __init__(
        self, snapshot: Snapshot, metric: str = L2, centre: Sequence[float] | None = None
    ) -> None:
        self.snapshot = snapshot
        self.metric = metric
        self._joined: dict[int, Block] = {}  # by the number of their run
        self._in_memory: Matrix | None = None  # all rows, where none is missing in between
        self._centre = snapshot.manifest.settings.centre if centre is None else centre

    @cached_property
    def space(self) -> Space:
        """The space.

        Raises
        ------
        InvalidInputError
            If it needs a centre and none is recorded: computed from the rows of the day,
            it would change the distance of the same two rows as others are added.
        """
        if self.metric != CENTERED_COSINE:
            return Space(self.metric)
        if not len(self._centre):
            raise InvalidInputError(
                f"metric {CENTERED_COSINE!r} is measured around a centre that this store has not "
                f"recorded: run latentdb optimize --metric {CENTERED_COSINE} once, or use cosine"
            )
        return Space(self.metric, np.array(self._centre, np.float64))

    @property
    def dim(self) -> int:
        """Dimensions of the space."""
        return self.space.dim(self.snapshot.dim)

    def fetch(self, rows: Ints) -> Floats:
        """Vectors of row numbers, float32 ``[n, dim]``."""
        if len(self._joined) == len(self._runs) == 1:  # they are in memory, embedded
            block = self._joined[0]
            positions = block.rows.searchsorted(rows)
            if len(block.rows) and np.array_equal(block.rows.take(positions, mode="clip"), rows):
                return block.vectors.take(positions, axis=0)
        # The candidates of a single query ascend, those of a batch do not.
        numbers = rows.tolist() if len(rows) <= _PYTHON_SORTED and not self._is_one else []
        if numbers and numbers == sorted(numbers):
            means = self.snapshot.vectors_ascending(rows)
        else:
            means = self.snapshot.vectors(rows)
        if self.metric == L2:
            return means
        return self.space.embed(
            means, self.snapshot.log_vars(rows) if self.space.posterior else None
        )

    @property
    def source(self) -> Fetch | Matrix:
        """What candidates are ranked by: the vectors themselves where they are within reach."""
        if self._in_memory is not None:
            return self._in_memory
        if self.metric == L2 and self._is_one:
            (segment,) = self.snapshot.segments
            vectors = segment.verified_z_mean if segment.gapless else None
            # What was cut since must not be touched: `fetch` says so.
            if vectors is not None and segment.is_intact():
                return Matrix(segment.entry.first_row, vectors)
        return self.fetch

    @cached_property
    def _is_one(self) -> bool:
        """Whether there is one segment: the order of rows to fetch does not matter."""
        return len(self.snapshot.segments) == 1

    def blocks(self, *, since: int = 0) -> Iterator[Block]:
        """The live rows to scan, from row number `since` on."""
        for number, run in enumerate(self._runs):
            if run.last_row < since:
                continue
            if run.is_kept and not since:
                yield self._join(number)
                continue
            for segment in run.segments:
                yield from self._blocks_in(segment, since)

    def _blocks_in(self, segment: Segment, since: int) -> Iterator[Block]:
        step = chunk_rows(self.dim)
        live = live_mask(self.snapshot, segment, None)
        rows = segment.rows
        first = int(rows.searchsorted(since)) if since else 0
        for start in range(first, len(segment), step):
            part = slice(start, start + step)
            mask = None if live is None else live[part]
            yield Block(rows[part], self._embed(segment, part), mask)

    @cached_property
    def _runs(self) -> list[_Run]:
        """The segments in order: runs of small ones that are scanned as one, others alone."""
        most, left = chunk_rows(self.dim), _JOINED_BYTES
        is_converted = self.metric != L2 or self.snapshot.manifest.dtype != FLOAT32
        runs: list[_Run] = []
        rows = most + 1  # of the last run
        for segment in self.snapshot.segments:
            size = 4 * len(segment) * self.dim
            fits = size <= left and (is_converted or len(segment) <= _JOINED_ROWS)
            if fits and rows + len(segment) <= most:
                runs[-1] = _Run([*runs[-1].segments, segment], is_kept=True)
                rows += len(segment)
            else:
                runs.append(_Run([segment], is_kept=fits and is_converted))
                rows = len(segment) if fits else most + 1
            left -= size if fits else 0
        return runs

    def _join(self, number: int) -> Block:
        """The live rows of a run, in memory from then on."""
        joined = self._joined.get(number)
        if joined is None:
            blocks = (self._blocks_in(of, 0) for of in self._runs[number].segments)
            joined = self._joined[number] = concat(chain.from_iterable(blocks), self.dim)
            rows = joined.rows
            if len(self._runs) == 1 and len(rows) and rows[-1] - rows[0] + 1 == len(rows):
                self._in_memory = Matrix(int(rows[0]), joined.vectors)
        return joined

    def blocks_of(self, rows: Ints) -> Iterator[Block]:
        """The given rows to scan, fetched a chunk at a time."""
        step = chunk_rows(self.dim)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            yield Block(part, self.fetch(part))

    def _embed(self, segment: Segment, part: slice) -> Floats:
        log_vars = segment.scan_log_vars(part) if self.space.posterior else None
        return self.space.embed(segment.scan(part), log_vars)

    def rank(self, queries: Floats, candidates: Ints, k: int, *, exact: bool, scanned: int) -> Hits:
        """The k nearest candidates of each query, by the metric's own distance.

        Parameters
        ----------
        queries
            float32 ``[q, dim]``.
        candidates
            int64 ``[q, c]`` row numbers; negative for none.
        k
            Neighbours wanted.
        exact, scanned
            As in `Hits`.
        """
        distances, rows = rank(queries, candidates, self.source, k)
        return Hits(self.space.distances(distances), rows, exact, scanned)


def uncertain_queries(candidates: Ints, neighbours: Ints, most: int | None = None) -> Ints:
    """Numbers of the queries with a neighbour in the second half of their candidates.

    Codes rank candidates, vectors rank neighbours.  Where both rank about alike,
    neighbours are among the first candidates; where one is deep, others are
    likely beyond the last, and more candidates are needed.

    Parameters
    ----------
    candidates
        int64 ``[q, c]``: row numbers, nearest first by their codes.
    neighbours
        int64 ``[q, k]``: the nearest of them by their vectors; negative for none.
    most
        A neighbour must not be after so many candidates, either.
    """
    half = min(candidates.shape[1] // 2, candidates.shape[1] if most is None else most)
    pairs = enumerate(zip(candidates[:, half:].tolist(), neighbours.tolist(), strict=True))
    uncertain = [
        number
        for number, (deep, nearest) in pairs
        if not {row for row in nearest if row >= 0}.isdisjoint(deep)
    ]
    return np.array(uncertain, np.int64) if uncertain else NO_QUERIES
