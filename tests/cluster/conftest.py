"""What the tests of runs on a cluster share: a pool of one worker in this process."""

from __future__ import annotations

import pickle
import struct
import tarfile
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
from tests.conftest import make_images


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


def make_archives(folder: Path) -> list[Path]:
    """A tar, a .npz, IDX files with labels, and a Parquet file, of nine images each."""
    pa = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    drawn = make_images(folder / "drawn", 9)
    grey = np.random.default_rng(1).integers(256, size=(9, 32, 32), dtype="u1")
    archives = [folder / name for name in ("a.tar", "b.npz", "c-images-idx3-ubyte", "d.parquet")]
    with tarfile.open(archives[0], "w") as tar:
        for path in sorted((drawn / "disc").iterdir()):
            tar.add(path, path.name)
    np.savez(archives[1], images=255 - grey, labels=np.arange(9) % 2)
    archives[2].write_bytes(struct.pack(">IIII", 2051, *grey.shape) + grey.tobytes())
    (folder / "c-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 9) + bytes(range(9)))
    squares = [{"bytes": path.read_bytes()} for path in sorted((drawn / "square").iterdir())]
    table = pa.table({"image": squares, "year": list(range(1990, 1999))})
    parquet.write_table(table, archives[3], row_group_size=4)
    return archives
