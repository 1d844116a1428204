"""What the tests of runs on a cluster share: a pool of one worker in this process."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentdb.cluster import executor
from latentdb.cluster.executor import ClusterExecutor
from latentdb.cluster.tasks import Order, TaskResult
from latentdb.cluster.worker import Worker
from latentdb.database import LatentDB
from latentdb.ingest.ingest import index_images
from latentdb.ingest.report import IndexReport
from latentdb.stored_model import codec_of


class CutOffError(Exception):
    """The run was cut off."""


class LocalPool:
    """One worker, in this process; the newest order goes first.

    Parameters
    ----------
    results
        Cut the run off after so many results.
    """

    def __init__(self, store: Path, results: int = 1 << 30) -> None:
        self.worker = Worker(str(store), codec_of, "here")
        self.done: list[int] = []
        self.orders: deque[Order] = deque()
        self._results = results

    def submit(self, order: Order) -> None:
        order = replace(order, attempt=1 + len(self.done) + len(self.orders))
        self.orders.append(pickle.loads(pickle.dumps(order)))  # it comes from another process

    def results(self) -> Iterator[tuple[Order, TaskResult]]:
        while self.orders:
            if len(self.done) == self._results:
                raise CutOffError
            order = self.orders.pop()
            result = self.worker.run(order)
            self.done.append(order.number)
            yield order, result

    def notes(self) -> Sequence[str]:
        return ()


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "BATCH", 8)


def index_on(db: LatentDB, pool: LocalPool, *sources: Path, **how: Any) -> IndexReport:
    """Index as `LatentDB.index_images(ray=...)` does, with other workers."""
    with ClusterExecutor(lambda: nullcontext(pool)) as workers, db._writing(None) as writer:
        return index_images(writer, db.codec, sources, executor=workers, **how)


def rows_of(db: LatentDB) -> list[Any]:
    """All live rows in their order: ids, paths, metadata, contents and vectors."""
    snapshot = db._snapshot()
    numbers = np.concatenate(
        [part.rows[snapshot.live_positions(part)] for part in snapshot.segments]
        or [np.empty(0, np.int64)]
    )
    contents = [snapshot.content(row) for row in numbers.tolist()]
    vectors = snapshot.vectors(numbers).tolist()
    return [*zip(snapshot.records(numbers), contents, vectors, strict=True)]


@pytest.fixture
def db(tmp_path: Path, model: Path) -> Iterator[LatentDB]:
    with LatentDB.create(tmp_path / "spread.ldb", model) as made:
        yield made


@pytest.fixture
def local(tmp_path: Path, model: Path) -> Iterator[LatentDB]:
    with LatentDB.create(tmp_path / "local.ldb", model) as made:
        yield made
