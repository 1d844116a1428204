"""Queries composed of rows, and what an index is tuned to for them."""

from __future__ import annotations

import numpy as np
import pytest

from latentdb.ann.composed import KINDS, compose
from latentdb.ann.plan import HNSW, IVF, IVF4
from latentdb.ann.ranking import rank
from tests.ann.vectors import NONE, Rows, clustered, made


def test_as_many_of_each_kind() -> None:
    rows = clustered(500) + np.float32(3)
    queries = compose(rows, np.random.default_rng(0), 50)
    assert (queries.shape, queries.dtype) == ((50 * len(KINDS), rows.shape[1]), np.float32)
    spread = [part.std() for part in np.split(queries - rows.mean(axis=0), len(KINDS))]
    two, ten, difference, noise, normal, prior = spread
    assert ten < two < noise
    assert two < normal < difference
    assert 0.8 < prior < 1.8  # around 0, so off by the mean of the rows


def test_of_unit_vectors_they_are_unit_vectors() -> None:
    rows = clustered(500)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries = compose(rows, np.random.default_rng(0), 20)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, rtol=1e-5)
    assert compose(rows[:0], np.random.default_rng(0)).shape == (0, rows.shape[1])


@pytest.mark.parametrize("kind", [IVF, IVF4, HNSW])
def test_each_kind_reaches_the_recall(kind: str) -> None:
    rows = Rows(clustered(6_000), np.random.default_rng(5).random(6_000) < 0.9, first=500)
    index, _ = made(rows, kind)
    queries = compose(rows.vectors[rows.keep], np.random.default_rng(77), 100)
    for k in (10, 100):
        effort = index.composed_effort(k)
        assert effort is not None
        assert effort[0] >= index.nprobe(k)
        truth = rows.truth(queries, k)
        found = rank(queries, index.probe(queries, *effort, NONE).rows, rows.fetch, k)[1]
        recalls = [np.isin(true, own).mean() for true, own in zip(truth, found, strict=True)]
        assert min(part.mean() for part in np.split(np.array(recalls), len(KINDS))) >= 0.95
    assert index.composed_effort(101) is None
