"""Build a search index and tune it to a recall, measured on the rows themselves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.exact import (
    Block,
    Fetch,
    Floats,
    Ints,
    fits_float32,
    rank,
    scan,
    set_threads,
)
from latentdb.ann.index import MAX_RERANK_FACTOR, VectorIndex, least_rerank_depth
from latentdb.ann.plan import BITS, DEGREE, HNSW, IVF, IVF4, Plan, nlist_for

Blocks = Callable[[], Iterator[Block]]
Report = Callable[[str, int, int], None]

TUNED_K = (10, 100, 1_000)  # neighbours; more are found by a scan
QUERIES = 500  # twice so many rows are held out and asked for, so many where rows are added
_FEWER = 10  # times fewer for the largest number of neighbours, each of which asks as many
_FAR = 0.9  # of the target: a recall below it is told by few queries
_TRAIN_PER_LIST = 39  # rows for k-means; faiss warns below
_LOST = 0.003  # share of the variance that the codes may leave out
_MOST_DIM = 1_024  # dimensions up to which axes are sought along which nothing varies
_STEP = 16  # dimensions are scanned so many at a time
_TRIAL = 40_000  # rows on which a graph is tried before it is built
_SLOWED = 2  # times, at least, that a graph of all rows is slower than that of the trial
_BEHIND = 2  # times slower than lists, on the rows of the trial, that a graph may be
_TRIALS = 200  # single queries that are timed
# Standard errors by which the recall measured has to pass the target.  Whoever checks it on a
# thousand other queries compares two samples, whose difference varies by 1.4 of them: with two, 8 %
# of such checks fall below the target, with three 1.7 %, with four 0.2 %.  (Seen on 1M rows of the
# hard set, at a target of 0.99: 0.9891 with two, 0.9899 with three.)
_ERRORS = 4
# Of what may be missed, the part that may be lost by ranking fewer candidates.
_UNRANKED = 0.05
_CODED = 200  # rows held out whose neighbours are put in order by their codes
# Of the ten nearest of a hundred, those that codes may put into the second half: 0.2 % on the sets
# hard and real at 1M rows, where 4 bits do well, 8 % on easy, where the widest does not do.
_MIXED = 0.065
_NEAR = 32  # the effort found is the least to one part in so many
_TOGETHER = 100  # queries whose lists are put in order at a time
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class Tuning:
    """What was measured of an index.

    Attributes
    ----------
    kind
        Of the index.
    parameters
        ``effort_K`` for K neighbours: lists probed, or candidates kept in the
        graph; ``width_K``: candidates ranked, where codes have 4 bits;
        ``lists``; ``dims`` of the codes.
    recall
        Share of the true `k` nearest found, over `queries` rows that were
        held out: the index did not have them yet.
    k
        Neighbours at which the recall was measured.
    queries
        Number of those rows.
    seconds
        Wall time of building and tuning, with all that was tried.
    milliseconds
        Median time of one query on one thread, ranking included.
    """

    kind: str
    parameters: Mapping[str, int]
    recall: float
    k: int
    queries: int
    seconds: float
    milliseconds: float


def build(
    blocks: Blocks,
    dim: int,
    fetch: Fetch,
    plan: Plan,
    *,
    recall: float,
    seed: int = 0,
    report: Report | None = None,
) -> tuple[VectorIndex, Tuning] | None:
    """Build what a plan names, tune it to a recall, and keep what is fastest.

    Parameters
    ----------
    blocks
        Gives all vectors, each time anew.
    dim
        Their dimensions.
    fetch
        Gives the vectors of row numbers.
    plan
        From `latentdb.ann.plan.plan`.
    recall
        Least share of true neighbours to find.
    seed
        Of the samples.
    report
        Told the stage, rows done and rows in all.

    Returns
    -------
    index, tuning
        Or None where none reaches the recall with less work than an exact
        scan, which misses nothing.
    """
    task = _Task(blocks, dim, fetch, recall, seed, report or _quiet)
    best: tuple[VectorIndex, Tuning] | None = None
    for kind in plan.kinds:
        # Codes of 8 bits are for vectors that 4 do not tell apart: else they take twice as long.
        if best is not None and (kind == IVF or not task.promising(best[1])):
            continue
        made = task.build(kind, plan.nlist)
        if made is not None and (best is None or made[1].milliseconds < best[1].milliseconds):
            best = made
    return best


def extend(
    index: VectorIndex,
    blocks: Blocks,
    dim: int,
    fetch: Fetch,
    *,
    recall: float,
    deleted: Ints = _NONE,
    seed: int = 0,
) -> tuple[VectorIndex, Tuning] | None:
    """Add the rows an index has not, and tune it again.

    Parameters
    ----------
    index
        From `VectorIndex.copy`; changed in place.
    blocks, dim, fetch, recall, seed
        As in `build`.
    deleted
        Row numbers, ascending, that the index holds and `fetch` may not know.

    Returns
    -------
    index, tuning
        Or None, as `build`.
    """
    held = index.row_numbers()
    before = dict(index.nprobes)
    task = _Task(blocks, dim, fetch, recall, seed, _quiet, present=held, deleted=deleted)
    if not len(task.asked) or not task.fill(index, lambda rows: ~np.isin(rows, held)):
        return None
    # The newest rows may be easier to find than those the index was tuned on before.
    return task.tuned(index, before)


def _quiet(stage: str, done: int, total: int) -> None:
    """No progress is wanted."""


class _Task:
    """Vectors to index, and the recall they are to be found with.

    Some rows are held out: they are asked for while the index does not have
    them, as if they were new, and are added at the end.
    """

    def __init__(
        self,
        blocks: Blocks,
        dim: int,
        fetch: Fetch,
        recall: float,
        seed: int,
        report: Report,
        *,
        present: Ints = _NONE,
        deleted: Ints = _NONE,
    ) -> None:
        self.start = time.perf_counter()
        self.blocks, self.dim, self.fetch = blocks, dim, fetch
        self.recall, self.report, self.deleted = recall, report, deleted
        self.random = np.random.default_rng(seed)
        parts = [block.selected_rows() for block in blocks()]
        self.rows: Ints = np.concatenate([_NONE, *parts])
        new = self.rows if not len(present) else self.rows[~np.isin(self.rows, present)]
        # To extend is to confirm what was tuned before, and the scan for it is most of the time.
        wanted = QUERIES if len(present) else 2 * QUERIES
        count = min(wanted, len(new) // 4)
        self.asked: Ints = self.random.choice(new, count, replace=False)
        self.held = np.sort(self.asked)
        self.queries = fetch(self.asked)
        self._truth: dict[bool, Ints] = {}
        self._ranks: dict[bool, Ints] = {}  # of the same neighbours, in the index being tuned
        # Lists of 8 bits that follow refused ones of 4 are the same lists.
        self._samples: dict[int, tuple[Floats, Floats | None] | None] = {}
        self._centres: dict[tuple[int, int], Any] = {}

    def build(self, kind: str, lists: int) -> tuple[VectorIndex, Tuning] | None:
        found = self.sample(_TRAIN_PER_LIST * (1_000 if kind == HNSW else lists))
        if found is None:
            return None
        sample, basis = found
        # Where few dimensions vary most, neighbours may still be told apart by the others.
        axes_tried = (None,) if basis is None else (basis,) if kind == IVF4 else (basis, None)
        for axes in axes_tried:
            index = self.empty(kind, lists, sample, axes)
            if kind == IVF4 and not self.tells_apart(index):
                continue
            made = self.tuned(index, {}) if self.fill(index) else None
            if made is not None:
                return made
        return None

    def sample(self, most: int) -> tuple[Floats, Floats | None] | None:
        """Some rows to train on, and the axes along which they vary: the same every time.

        None if they cannot be indexed.
        """
        if most not in self._samples:
            chosen = self.random.choice(self.rows, min(len(self.rows), most), replace=False)
            vectors = self.fetch(np.sort(chosen))
            usable = fits_float32(vectors)
            self._samples[most] = (vectors, _basis(vectors)) if usable else None
        return self._samples[most]

    def empty(self, kind: str, lists: int, sample: Floats, basis: Floats | None) -> VectorIndex:
        """An index without rows, trained on a sample, of codes along the axes of a basis."""
        import faiss

        set_threads(QUERIES)
        self.report("training the search index", 0, len(self.rows))
        turned = sample if basis is None else sample @ basis
        dims = turned.shape[1]
        made: Any
        if kind == HNSW:
            make: Any = faiss.IndexHNSWSQ
            graph = make(dims, faiss.ScalarQuantizer.QT_8bit, DEGREE)
            graph.train(turned)
            made = faiss.IndexIDMap(graph)
        else:
            # With centres in it already, k-means is left out.
            centres = self._centres.setdefault((lists, dims), faiss.IndexFlatL2(dims))
            if kind == IVF4:
                # A product quantizer of one dimension each: the design had found 4 bits to fall
                # short of 0.99, for fewer codes than dimensions (32 of 64: 0.91 of what the lists
                # hold with 200 ranked, of 64: all with 100).  Of the vectors, not of what is left
                # beyond the centre of a list: that takes tables of distances for every list.
                made = faiss.IndexIVFPQFastScan(centres, dims, lists, dims, BITS)
                made.by_residual = False
                made.pq.cp.min_points_per_centroid = 1
            else:
                bits = faiss.ScalarQuantizer.QT_8bit
                made = faiss.IndexIVFScalarQuantizer(centres, dims, lists, bits, faiss.METRIC_L2)
            made.cp.min_points_per_centroid = 1  # a smaller sample is no reason for a warning
            made.train(turned)
        if basis is not None:
            turn = faiss.LinearTransform(self.dim, dims, False)
            faiss.copy_array_to_vector(np.ascontiguousarray(basis.T).reshape(-1), turn.A)
            turn.is_trained = True
            made = faiss.IndexPreTransform(turn, made)
        return VectorIndex(made, {"lists": 0 if kind == HNSW else lists, "dims": dims})

    def tells_apart(self, index: VectorIndex) -> bool:
        """Whether codes of 4 bits are worth a build: they leave the nearest rows among the nearest.

        Of each row held out, the neighbours are put in order by their codes.  In
        narrow clusters far from each other the nearest are anywhere among them then.
        """
        self.report("trying codes of 4 bits", 0, len(self.rows))
        queries, truth = self.truth(TUNED_K[-2])
        queries, truth = queries[:_CODED], truth[:_CODED]
        if not fits_float32(queries) or truth.shape[1] < TUNED_K[-2] or (truth < 0).any():
            return True  # few rows: nothing is saved by knowing it early
        vectors = self.fetch(truth.reshape(-1))
        coded = index.quantized(vectors).reshape(*truth.shape, -1)
        apart = ((coded - index.rotated(queries)[:, None]) ** 2).sum(axis=2)
        places = apart.argsort(axis=1).argsort(axis=1)[:, : TUNED_K[0]]
        return float((places >= truth.shape[1] // 2).mean()) <= _MIXED

    def fill(
        self, index: VectorIndex, wanted: Callable[[Ints], NDArray[np.bool_]] | None = None
    ) -> bool:
        """Add every row wanted, but those held out; False if one cannot be indexed."""
        done = 0
        set_threads(QUERIES)
        for block in self._others():
            if wanted is not None:
                block = block.restrict(wanted(block.rows))
            for vectors, rows in block.chunks():
                if not fits_float32(vectors):
                    return False
                index.add(vectors, rows)
                done += len(rows)
                self.report("building the search index", done, len(self.rows))
        return fits_float32(self.queries)

    def _others(self) -> Iterator[Block]:
        """All rows but those held out."""
        for block in self.blocks():
            yield block.restrict(~np.isin(block.rows, self.held))

    def promising(self, rival: Tuning) -> bool:
        """Whether a graph of all rows, which takes minutes to build, may win.

        It is slower than one of some rows, so that must be far faster than the
        rival of all; and it must not be far slower than lists of the same rows:
        where neighbours are hard to tell apart, a graph has to visit most of them.
        """
        if len(self.rows) <= _TRIAL:
            return True
        self.report("trying a graph", 0, _TRIAL)
        rows = np.sort(self.random.choice(self.rows, _TRIAL, replace=False))
        vectors = self.fetch(rows)

        def fetch(wanted: Ints) -> Floats:
            return vectors[np.searchsorted(rows, wanted)]

        trial = _Task(lambda: iter([Block(rows, vectors)]), self.dim, fetch, self.recall, 0, _quiet)
        graph = trial.build(HNSW, 0)
        if graph is None or _SLOWED * graph[1].milliseconds >= rival.milliseconds:
            return False
        lists = trial.build(rival.kind, nlist_for(_TRIAL))
        return lists is None or graph[1].milliseconds < _BEHIND * lists[1].milliseconds

    def tuned(
        self, index: VectorIndex, least: Mapping[int, int]
    ) -> tuple[VectorIndex, Tuning] | None:
        """The index with the least nprobes that keep the recall; None if none does.

        At its end, it has the rows held out too.
        """
        self.report("tuning the search index", 0, len(self.rows))
        self._ranks.clear()
        measured = 1.0
        parameters = {name: index.parameters.get(name, 0) for name in ("lists", "dims")}
        effort = 1
        for k in TUNED_K:
            # More neighbours lie in more lists.
            found = self.effort(index, k, max(effort, least.get(k, 1)))
            if found is None and k == TUNED_K[0]:
                return None
            if found is None:
                break  # so many neighbours are found by a scan
            effort, share, width = found
            parameters[f"effort_{k}"] = effort
            if index.kind == IVF4:
                parameters[f"width_{k}"] = width
            measured = share if k == TUNED_K[0] else measured
        index.set_parameters(parameters)
        taken = self.milliseconds(index)
        index.add(self.queries, self.asked)
        seconds = time.perf_counter() - self.start
        count = len(self.asked)
        return index, Tuning(index.kind, parameters, measured, TUNED_K[0], count, seconds, taken)

    def truth(self, k: int) -> tuple[Floats, Ints]:
        """Vectors to ask for, and the k true neighbours of each among the rows not held out."""
        many = k > TUNED_K[-2]
        count = len(self.asked) // (_FEWER if many else 1)
        queries = self.queries[:count]
        if many not in self._truth:
            most = min(TUNED_K[-1 if many else -2], len(self.rows) - len(self.held))
            exact = scan(self._others(), queries, most)
            self._truth[many] = rank(queries, exact.rows, self.fetch, most)[1]
        return queries, self._truth[many][:, :k]

    def effort(self, index: VectorIndex, k: int, least: int) -> tuple[int, float, int] | None:
        """Least effort that reaches the recall on the rows held out; what it reaches; the width.

        None if that is no less work than a scan.
        """
        if k > len(self.rows) // 8:
            return None
        queries, _ = self.truth(k)

        def enough(effort: int) -> bool:
            # A tenth tells where it falls far short.
            tenth = slice(0, max(1, len(queries) // 10))
            if float(self.shares(index, k, effort, width, tenth).mean()) < _FAR * self.recall:
                return False
            found = self.shares(index, k, effort, width)
            reached[effort] = float(found.mean())
            return _surely(found) >= self.recall

        width = least_rerank_depth(k)
        reached: dict[int, float] = {}
        most = index.nlist // 2 if index.nlist else len(self.rows) // 8
        least = min(max(least, 1 if index.nlist else 2 * k), most)
        step = least
        if index.nlist:
            least = self._reckoned(self.ranks(index, k), least, most)
            step = max(1, least // _NEAR)
        if index.kind == IVF4:
            wide = self._width(index, k, least)
            if wide is None:
                return None
            width = wide
        low, high = least - 1, least
        while not enough(high):
            if high >= most:
                return None
            low, high, step = high, min(high + step, most), 2 * step
        while high - low > max(1, high // _NEAR):
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high, reached[high], width

    def shares(
        self, index: VectorIndex, k: int, effort: int, width: int, part: slice = slice(None)
    ) -> NDArray[np.float64]:
        """Share of the k true neighbours found, for each query."""
        queries, truth = self.truth(k)
        found = index.probe(queries[part], effort, width, self.deleted)
        _, ranked = rank(queries[part], found.rows, self.fetch, k)
        pairs = zip(truth[part], ranked, strict=True)
        return np.array([np.isin(true, own).mean() for true, own in pairs])

    def _width(self, index: VectorIndex, k: int, effort: int) -> int | None:
        """Fewest candidates to rank that keep the neighbours which the lists probed hold.

        None where codes tell neighbours apart so badly that it would be too many.
        """
        held = float((self.ranks(index, k) < effort).mean())
        enough = held - _UNRANKED * (1 - self.recall)
        # As with nprobes: the rows that are added may be easier to find than those before.
        width = max(least_rerank_depth(k), index.rerank_depths.get(k, 0))
        while width <= min(MAX_RERANK_FACTOR * least_rerank_depth(k), len(self.rows) // 4):
            if float(self.shares(index, k, effort, width).mean()) >= enough:
                return width
            width *= 2
        return None

    def _reckoned(self, ranks: Ints, least: int, most: int) -> int:
        """Least effort of an inverted file at which the lists probed hold enough neighbours.

        That codes are rounded costs recall, never gains it: this is a lower bound,
        and nearly always the answer.  Searching from one took ten measurements.
        """
        low, high = least, most
        while low < high:
            middle = (low + high) // 2
            if _surely((ranks < middle).mean(axis=1)) >= self.recall:
                high = middle
            else:
                low = middle + 1
        return low

    def ranks(self, index: VectorIndex, k: int) -> Ints:
        """The how manyth list by distance from a query holds each of its k true neighbours."""
        queries, _ = self.truth(k)
        many = k > TUNED_K[-2]
        if many not in self._ranks:
            list_of = index.list_of(int(self.rows.max(initial=0)) + 1) - 1
            ranks = np.empty(self._truth[many].shape, np.int64)
            place = np.empty(index.nlist + 1, np.int64)
            place[-1] = index.nlist  # of a row that is in no list
            for start in range(0, len(queries), _TOGETHER):
                _, ordered = index.nearest_lists(queries[start : start + _TOGETHER])
                for number, lists in enumerate(ordered, start):
                    place[lists] = np.arange(index.nlist)
                    ranks[number] = place[list_of[self._truth[many][number]]]
            self._ranks[many] = ranks
        return self._ranks[many][:, :k]

    def milliseconds(self, index: VectorIndex) -> float:
        """Median time of a query for the fewest neighbours, ranking included."""
        taken = []
        for number in range(min(_TRIALS, len(self.queries))):
            one = self.queries[number : number + 1]
            start = time.perf_counter()
            found = index.search(one, TUNED_K[0], self.deleted)
            rank(one, found.rows, self.fetch, TUNED_K[0])
            taken.append(time.perf_counter() - start)
        return 1_000 * float(np.median(taken))


def _surely(shares: NDArray[np.float64]) -> float:
    """The mean less some standard errors: tuned to a bare mean, other queries fall below it."""
    return float(shares.mean()) - _ERRORS * float(shares.std()) / math.sqrt(len(shares))


def _basis(sample: Floats) -> Floats | None:
    """Axes of the variance that matters, float32 ``[d, m]``; None where all of it does.

    A VAE leaves dimensions dead, whose z_mean hardly varies: along them no two
    rows differ, and codes of them cost time.  Orthonormal axes (principal
    components) keep L2 distances, so candidates stay candidates.
    """
    dim = sample.shape[1]
    if not 2 * _STEP <= dim <= _MOST_DIM or len(sample) < 2:
        return None
    centred = sample - sample.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    values, vectors = values[::-1].clip(0), vectors[:, ::-1]
    left = 1 - np.cumsum(values) / max(float(values.sum()), 1e-300)
    needed = int(np.argmax(left <= _LOST)) + 1
    dims = -(-needed // _STEP) * _STEP
    return None if dims >= dim else np.ascontiguousarray(vectors[:, :dims], np.float32)
