"""A real Ray cluster of two nodes on this machine: kill -9 of a worker, a node and the driver."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ray_nodes import Difference, run_with_kills, two_nodes
from latentdb.base.errors import ClusterError, InvalidInputError
from latentdb.database import LatentDB
from latentdb.store import plan as plans
from tests.cluster.conftest import make_archives, rows_of
from tests.conftest import make_images

# Not imported here: when it is, it reads the variables that `two_nodes` sets.
pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed")

IMAGES = 1_200


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    before = dict(os.environ)
    try:
        with two_nodes() as made:
            yield made
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_rows_of_arrays_tables_and_shards_are_those_of_a_local_run(
    cluster: Any, tmp_path: Path, db: LatentDB, local: LatentDB
) -> None:
    archives = make_archives(tmp_path)
    report = db.index_images(archives, ray=cluster.address)
    assert (report.added, report.bad) == (36, ())
    local.index_images(archives)
    assert rows_of(db) == rows_of(local)


def test_every_image_is_there_once_whatever_is_killed_and_nothing_finished_is_done_again(
    cluster: Any, tmp_path: Path, model: Path
) -> None:
    folder = make_images(tmp_path / "in", IMAGES // 2)
    (folder / "disc" / "0bad.png").write_bytes(b"no image")
    store, local = tmp_path / "ray.ldb", tmp_path / "local.ldb"
    for path in (store, local):
        LatentDB.create(path, model).close()
    kills = run_with_kills(cluster, store, folder, batch=8)
    assert kills.again == 0
    assert min(kills.tasks) > 3
    assert any("was resumed" in note for note in kills.notes)
    assert sum("encoded" in note for note in kills.notes) == 2  # nodes
    with LatentDB.open(local) as db:
        report = db.index_images(folder, labels_from_folders=True)
    assert (report.added, len(report.bad)) == (IMAGES, 1)
    assert Difference.of(store, local) == Difference(0, 0, 0.0)
    assert plans.read(store) is None
    assert LatentDB.verify(store).problems == ()


def test_errors_of_a_cluster_are_told_in_a_line(store: Path, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "in", 2, seed=7)
    with LatentDB.open(store) as db:
        with pytest.raises(InvalidInputError, match="Ray Client"):
            db.index_images(folder, ray="ray://127.0.0.1:10001")
        db.index_images(folder, ray="127.0.0.1:1")  # so few that none is needed
        assert len(db) == 84
        shards = make_images(tmp_path / "many", 150, seed=8)
        with pytest.raises(ClusterError, match=r"no Ray cluster at 127\.0\.0\.1:1 "):
            db.index_images(shards, ray="127.0.0.1:1")
        assert len(db) == 84
