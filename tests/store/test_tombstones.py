"""Tombstones: which images were deleted, by id and content."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latentdb import LatentDB
from latentdb.base.errors import CorruptStoreError
from latentdb.store.segment import hash_ids
from latentdb.store.tombstones import Tombstones
from latentdb.verify import verify


@pytest.fixture
def tombstones(store: Path) -> Tombstones:
    """Of the first three rows of the store."""
    with LatentDB.open(store) as db:
        snapshot = db._snapshot()
        return Tombstones.of_rows(snapshot, snapshot.live_rows()[:3])


def test_an_image_is_known_by_its_id_and_content(tombstones: Tombstones) -> None:
    for one in tombstones.table:
        name, digest = int(one["id"]), int(one["digest"])
        assert tombstones.has_content(digest)
        assert tombstones.has_content(digest, name)
        assert not tombstones.has_content(digest, name ^ 1)
        assert not tombstones.has_content(digest ^ 1)
        assert tombstones.has_file(name, int(one["size"]), int(one["mtime_ns"]))
        assert not tombstones.has_file(name, int(one["size"]), int(one["mtime_ns"]) + 1)


def test_more_of_them_and_fewer(tombstones: Tombstones) -> None:
    later = Tombstones(tombstones.table[:1].copy())
    later.table["mtime_ns"] += 5
    both = tombstones.with_more(later)
    assert len(both) == 3
    assert both.has_file(*(int(later.table[0][key]) for key in ("id", "size", "mtime_ns")))
    assert (np.diff(both.table["id"].astype(object)) > 0).all()
    assert len(both.without(both.table["id"][1:2].tolist())) == 2
    assert len(both.without([int(hash_ids(["no such id"])[0])])) == 3


def test_what_was_dumped_is_loaded(tombstones: Tombstones) -> None:
    data = tombstones.dump()
    assert np.array_equal(Tombstones.load(data, 3).table, tombstones.table)
    with pytest.raises(CorruptStoreError, match="96 bytes for 2 deleted images"):
        Tombstones.load(data, 2)
    with pytest.raises(CorruptStoreError, match="not in order"):
        Tombstones.load(tombstones.table[::-1].tobytes(), 3)


def test_their_file_is_verified_copied_and_collected(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        db.delete(["disc/000.png"])
        db.delete(["disc/001.png"])
        assert db.info().buried == 2
        db.backup(tmp_path / "copy.ldb")
    assert len(list(store.glob("segments/*.tombstones"))) == 2  # one waits for its grace
    assert verify(tmp_path / "copy.ldb").problems == ()
    (file,) = (tmp_path / "copy.ldb").glob("segments/*.tombstones")
    file.unlink()
    (problem,) = verify(tmp_path / "copy.ldb").problems
    assert problem.file == f"segments/{file.name}"
    report = verify(tmp_path / "copy.ldb", repair=True)
    assert "brings deleted images back" in report.problems[0].repair
    assert replace(report, problems=()).rows == 78
    assert verify(tmp_path / "copy.ldb").problems == ()
    with LatentDB.open(tmp_path / "copy.ldb") as db:
        assert (len(db), db.info().buried) == (78, 0)
