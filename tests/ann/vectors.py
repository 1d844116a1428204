"""Vectors to index, the true neighbours among them, and indexes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.builder import build
from latentdb.ann.exact import Block
from latentdb.ann.index import VectorIndex
from latentdb.ann.plan import IVF, Plan, nlist_for
from latentdb.ann.ranking import rank
from latentdb.ann.tuning import Tuning

DIM = 8
CLUSTERED_DIM = 12
NONE = np.empty(0, np.int64)
Array = NDArray[Any]


def brute(vectors: Array, queries: Array, k: int) -> tuple[Array, Array]:
    """The k nearest by float64, ties by position."""
    distances = np.stack(
        [np.linalg.norm(vectors.astype(np.float64) - query, axis=1) for query in queries]
    )
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


def make(kind: str, count: int) -> Array:
    random = np.random.default_rng(3)
    if kind == "uniform":
        return random.random((count, DIM)).astype(np.float32)
    centres = 5 * random.normal(size=(40, DIM))
    noise = 0.5 * random.normal(size=(count, DIM))
    return (centres[random.integers(40, size=count)] + noise).astype(np.float32)


def clustered(count: int, seed: int = 0, dim: int = CLUSTERED_DIM) -> Array:
    random = np.random.default_rng(seed)
    centres = 2 * np.random.default_rng(99).normal(size=(30, dim))
    noise = random.normal(size=(count, dim))
    return (centres[random.integers(30, size=count)] + noise).astype(np.float32)


class Rows:
    """Vectors with row numbers, as a store gives them."""

    def __init__(self, vectors: Array, keep: Array | None = None, first: int = 0) -> None:
        self.vectors, self.first = vectors, first
        self.keep = np.ones(len(vectors), bool) if keep is None else keep
        self.rows = np.arange(first, first + len(vectors))

    def blocks(self) -> Iterator[Block]:
        half = len(self.rows) // 2
        for part in (slice(0, half), slice(half, None)):
            yield Block(self.rows[part], self.vectors[part], self.keep[part])

    def fetch(self, rows: Array) -> Array:
        assert self.keep[rows - self.first].all(), "a row that is not there was asked for"
        return np.asarray(self.vectors[rows - self.first])

    def truth(self, queries: Array, k: int) -> Array:
        live = np.flatnonzero(self.keep)
        own = self.vectors[live].astype(np.float64)
        squares = (own**2).sum(axis=1) - 2 * queries.astype(np.float64) @ own.T
        return self.rows[live[np.argsort(squares, axis=1, kind="stable")[:, :k]]]

    def recall(self, index: VectorIndex, queries: Array, k: int, deleted: Array = NONE) -> float:
        candidates = index.search(queries, k, deleted).rows
        found = rank(queries, candidates, self.fetch, k)[1]
        pairs = zip(found, self.truth(queries, k), strict=True)
        return float(np.mean([np.isin(true, own).mean() for own, true in pairs]))


def planned(rows: Rows, *kinds: str) -> Plan:
    return Plan(kinds or (IVF,), nlist_for(int(rows.keep.sum())), 0, "")


def made(rows: Rows, *kinds: str, recall: float = 0.95) -> tuple[VectorIndex, Tuning]:
    found = build(
        rows.blocks, rows.vectors.shape[1], rows.fetch, planned(rows, *kinds), recall=recall
    )
    assert found is not None
    return found
