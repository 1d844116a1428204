"""Build the search index that a plan names, or add rows to one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from latentdb.ann.exact import Block, Fetch, Floats, Ints, faiss_threads, fits_float32
from latentdb.ann.index import VectorIndex
from latentdb.ann.plan import BITS, DEGREE, HNSW, IVF, IVF4, Plan, nlist_for
from latentdb.ann.tuning import NO_ROWS, Blocks, Tuner, Tuning

Report = Callable[[str, int, int], None]

_TRAIN_PER_LIST = 39  # rows for k-means; FAISS warns below
_TRAIN_GRAPH = 1_000 * _TRAIN_PER_LIST  # rows for the range of 8-bit codes
_MAX_LOST_VARIANCE = 0.003  # share that the codes may leave out
_MAX_ROTATED_DIM = 1_024  # dimensions above which no principal axes are computed
_DIM_STEP = 16  # dimensions that FAISS compares at a time
_TRIAL_ROWS = 40_000  # rows of a trial graph, built before one of all rows
_GROWTH = 2  # a graph of all rows is at least twice as slow as the trial graph
_MAX_SLOWER = 2  # times that the trial graph may be slower than an inverted file of its rows


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
    """The fastest index of a plan, built and tuned to a recall.

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
        Called with the stage, rows done and rows in all.

    Returns
    -------
    index, tuning
        Or None where no index reaches the recall with less work than an exact scan.
    """
    builder = _Builder(blocks, dim, fetch, recall, seed, report)
    best: tuple[VectorIndex, Tuning] | None = None
    for kind in plan.kinds:
        # 8-bit codes take twice as long: they are for vectors for which 4 bits are too coarse.
        if best is not None and (kind == IVF or not builder.may_graph_win(best[1])):
            continue
        built = builder.build(kind, plan.nlist)
        if built is not None and (best is None or built[1].milliseconds < best[1].milliseconds):
            best = built
    return best


def extend(
    index: VectorIndex,
    blocks: Blocks,
    dim: int,
    fetch: Fetch,
    *,
    recall: float,
    deleted: Ints = NO_ROWS,
    seed: int = 0,
) -> tuple[VectorIndex, Tuning] | None:
    """The index with the rows added that it does not have, tuned again.

    Parameters
    ----------
    index
        From `VectorIndex.copy`; changed in place.
    blocks, dim, fetch, recall, seed
        As in `build`.
    deleted
        Row numbers, ascending, that the index has and `fetch` may not know.

    Returns
    -------
    index, tuning
        Or None, as `build`.
    """
    present = index.row_numbers()
    before = dict(index.nprobes)
    builder = _Builder(blocks, dim, fetch, recall, seed, None, present=present, deleted=deleted)
    if not len(builder.tuner.held_out) or not builder.fill(index):
        return None
    # The new rows may be easier to find than those that the index was tuned on before.
    return builder.tuner.tune(index, before)


class _Builder:
    """Trains, fills and tunes indexes of the same vectors."""

    def __init__(
        self,
        blocks: Blocks,
        dim: int,
        fetch: Fetch,
        target_recall: float,
        seed: int,
        report: Report | None,
        *,
        present: Ints = NO_ROWS,
        deleted: Ints = NO_ROWS,
    ) -> None:
        self.dim, self.fetch, self.target_recall = dim, fetch, target_recall
        self.present, self._report = present, report
        self.random = np.random.default_rng(seed)
        self.tuner = Tuner(
            blocks, fetch, target_recall, self.random, present=present, deleted=deleted
        )
        self.rows = self.tuner.rows
        # An 8-bit index built after a 4-bit one was refused reuses its sample and centroids.
        self._samples: dict[int, tuple[Floats, Floats | None] | None] = {}
        self._centroids: dict[tuple[int, int], Any] = {}

    def report(self, stage: str, done: int = 0, total: int | None = None) -> None:
        if self._report is not None:
            self._report(stage, done, len(self.rows) if total is None else total)

    def build(self, kind: str, nlist: int) -> tuple[VectorIndex, Tuning] | None:
        """An index of all rows that reaches the recall; None if there is none."""
        found = self._sample(_TRAIN_GRAPH if kind == HNSW else _TRAIN_PER_LIST * nlist)
        if found is None:
            return None
        sample, basis = found
        # The dimensions left out may be the ones that tell neighbours apart: then use all.
        bases = (None,) if basis is None else (basis,) if kind == IVF4 else (basis, None)
        for axes in bases:
            index = self._trained(kind, nlist, sample, axes)
            if kind == IVF4:
                self.report("trying 4-bit codes")
                if not self.tuner.are_codes_precise(index):
                    continue
            if not self.fill(index):
                continue
            self.report("tuning the search index")
            tuned = self.tuner.tune(index, {})
            if tuned is not None:
                return tuned
        return None

    def _sample(self, most: int) -> tuple[Floats, Floats | None] | None:
        """Vectors to train on and their principal axes, the same for every call.

        None if they cannot be indexed.
        """
        if most not in self._samples:
            chosen = self.random.choice(self.rows, min(len(self.rows), most), replace=False)
            vectors = self.fetch(np.sort(chosen))
            usable = fits_float32(vectors)
            self._samples[most] = (vectors, _principal_axes(vectors)) if usable else None
        return self._samples[most]

    def _trained(self, kind: str, nlist: int, sample: Floats, basis: Floats | None) -> VectorIndex:
        """An index without rows, trained on a sample rotated to a basis."""
        import faiss

        self.report("training the search index")
        rotated = np.ascontiguousarray(sample if basis is None else sample @ basis)
        dims = rotated.shape[1]
        bits = faiss.ScalarQuantizer.QT_8bit
        index: Any
        if kind == HNSW:
            make: Any = faiss.IndexHNSWSQ
            graph = make(dims, bits, DEGREE)
            with faiss_threads():
                graph.train(rotated)
            index = faiss.IndexIDMap(graph)
        else:
            # FAISS leaves k-means out where the quantizer has centroids already.
            centroids = self._centroids.setdefault((nlist, dims), faiss.IndexFlatL2(dims))
            if kind == IVF4:
                # A sub-quantizer per dimension: with half as many, re-ranking 200 candidates finds
                # 0.91 of the neighbours in the probed lists, with all, re-ranking 100 finds all.
                # Of the vectors, not of residuals: those need distance tables for every list.
                index = faiss.IndexIVFPQFastScan(centroids, dims, nlist, dims, BITS)
                index.by_residual = False
                index.pq.cp.min_points_per_centroid = 1
            else:
                index = faiss.IndexIVFScalarQuantizer(centroids, dims, nlist, bits, faiss.METRIC_L2)
            index.cp.min_points_per_centroid = 1  # no warning about a small sample
            if not centroids.ntotal:
                with faiss_threads():
                    index.train_q1(len(rotated), faiss.swig_ptr(rotated), False, faiss.METRIC_L2)
            # The quantizer of 4-bit codes is trained in thousands of tiny parallel regions: on two
            # threads of a busy machine in 12 to 26 s, on one in 0.5.
            with faiss_threads(1):
                index.train(rotated)
        if basis is not None:
            rotation = faiss.LinearTransform(self.dim, dims, False)
            faiss.copy_array_to_vector(np.ascontiguousarray(basis.T).reshape(-1), rotation.A)
            rotation.is_trained = True
            index = faiss.IndexPreTransform(rotation, index)
        return VectorIndex(index, {"lists": 0 if kind == HNSW else nlist, "dims": dims})

    def fill(self, index: VectorIndex) -> bool:
        """Add the rows the index does not have, but those held out; False if one does not fit."""
        done = 0
        for block in self.tuner.indexed_blocks():
            if len(self.present):
                block = block.restrict(~np.isin(block.rows, self.present))
            for vectors, rows in block.chunks():
                if not fits_float32(vectors):
                    return False
                index.add(vectors, rows)
                done += len(rows)
                self.report("building the search index", done)
        return fits_float32(self.tuner.queries)

    def may_graph_win(self, rival: Tuning) -> bool:
        """Whether a graph of all rows, which takes minutes to build, may be faster than a rival.

        A graph of some rows is a lower bound, so it has to be far faster than the
        rival of all rows. It must not be far slower than an inverted file of the
        same rows either: on hard data a graph visits most of its rows.
        """
        if len(self.rows) <= _TRIAL_ROWS:
            return True
        self.report("trying a graph", total=_TRIAL_ROWS)
        rows = np.sort(self.random.choice(self.rows, _TRIAL_ROWS, replace=False))
        vectors = self.fetch(rows)
        trial = _Builder(
            lambda: iter([Block(rows, vectors)]),
            self.dim,
            lambda wanted: vectors[np.searchsorted(rows, wanted)],
            self.target_recall,
            0,
            None,
        )
        graph = trial.build(HNSW, 0)
        if graph is None or _GROWTH * graph[1].milliseconds >= rival.milliseconds:
            return False
        inverted = trial.build(rival.kind, nlist_for(_TRIAL_ROWS))
        return inverted is None or graph[1].milliseconds < _MAX_SLOWER * inverted[1].milliseconds


def _principal_axes(sample: Floats) -> Floats | None:
    """Axes that hold nearly all of the variance, float32 ``[d, m]``; None where m would be d.

    Some dimensions of a VAE collapse: their z_mean hardly varies, they tell no
    rows apart, and codes of them cost time. Principal components are
    orthonormal, so distances stay what they are.
    """
    dim = sample.shape[1]
    if not 2 * _DIM_STEP <= dim <= _MAX_ROTATED_DIM or len(sample) < 2:
        return None
    centred = sample - sample.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    values, vectors = values[::-1].clip(0), vectors[:, ::-1]
    lost = 1 - np.cumsum(values) / max(float(values.sum()), 1e-300)
    needed = int(np.argmax(lost <= _MAX_LOST_VARIANCE)) + 1
    dims = -(-needed // _DIM_STEP) * _DIM_STEP
    return None if dims >= dim else np.ascontiguousarray(vectors[:, :dims], np.float32)
