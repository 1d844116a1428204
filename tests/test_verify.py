"""Verifying every file, and repairing what can be rebuilt."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from latentdb.base.errors import CorruptStoreError, StoreNotFoundError
from latentdb.database import LatentDB
from latentdb.verify import verify


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three segments of ten rows, one of them with a deleted row."""
    db = LatentDB.create(tmp_path / "a", dim=4)
    random = np.random.default_rng(0)
    for batch in range(3):
        ids = [f"{batch}-{n}" for n in range(10)]
        db.add(ids, random.normal(size=(10, 4)).astype("f4"), metadata={"batch": [batch] * 10})
    db.delete(["1-3"])
    db.close()
    return tmp_path / "a"


def segment_of(path: Path, number: int) -> Path:
    manifest = json.loads((path / "MANIFEST.json").read_text())["manifest"]
    return path / manifest["segments"][number]["file"]["name"]


def damage(file: Path, name: str) -> None:
    """Flip a bit in the middle of a data set."""
    with h5py.File(file) as h5:
        place = h5[name].id.get_offset() + h5[name].id.get_storage_size() // 2
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)


def test_a_sound_store_has_no_problems(path: Path, store: Path) -> None:
    report = verify(path)
    assert (report.problems, report.rows, report.files) == ((), 29, 5)
    assert verify(store).problems == ()  # one with a model


def test_a_damaged_id_look_up_is_made_again(path: Path) -> None:
    with LatentDB.open(path) as db:
        before = dict(zip(db.ids(), db.vectors(db.ids()).tolist(), strict=True))
    for name in ("id/hashes", "id/order"):
        damage(segment_of(path, 1), name)
        with (
            LatentDB.open(path) as db,
            pytest.raises(CorruptStoreError, match="is damaged: the checksum of the block"),
        ):
            db.vectors(db.ids())
        report = LatentDB.verify(path, repair=True)
        assert [problem.repair for problem in report.problems] == [
            "id look-up rebuilt from the ids"
        ]
        assert report.lost_rows == 0
        assert verify(path).problems == ()
    with LatentDB.open(path) as db:
        assert dict(zip(db.ids(), db.vectors(db.ids()).tolist(), strict=True)) == before


@pytest.mark.parametrize("name", ["z_mean", "id/bytes", "metadata/batch/int", "row"])
def test_a_segment_with_damaged_rows_is_set_aside(path: Path, name: str) -> None:
    broken = segment_of(path, 1)
    damage(broken, name)
    report = verify(path)
    assert [Path(problem.file).name for problem in report.problems] == [broken.name]
    assert "\n" not in report.problems[0].what
    report = LatentDB.verify(path, repair=True)
    assert report.lost_rows == 10
    assert "moved to quarantine; 10 rows are lost" in report.problems[0].repair
    assert (path / "quarantine" / broken.name).is_file()
    assert verify(path).problems == ()
    with LatentDB.open(path) as db:
        assert sorted({name[0] for name in db.ids()}) == ["0", "2"]
        assert len(db) == 20
        db.add(["after"], np.zeros((1, 4)))


def test_lost_deletions_are_told(path: Path) -> None:
    file = next((path / "segments").glob("*.deleted"))
    file.write_bytes(b"\xff" * 8)
    report = LatentDB.verify(path, repair=True)
    assert "the rows it named are back: delete them again" in report.problems[0].repair
    with LatentDB.open(path) as db:
        assert len(db) == 30


def test_a_damaged_index_is_dropped_and_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentdb.ann import plan

    monkeypatch.setattr(plan, "EXACT_ROWS", 1500)
    random = np.random.default_rng(1)
    centres = random.normal(size=(40, 6)) * 4
    points = centres[random.integers(0, 40, 3000)] + random.normal(size=(3000, 6)) * 0.2
    with LatentDB.create(tmp_path / "a", dim=6) as db:
        db.add([str(n) for n in range(3000)], points)
    file = next((tmp_path / "a/index").glob("*.faiss"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    report = LatentDB.verify(tmp_path / "a", repair=True)
    assert len(report.problems) == 1
    assert verify(tmp_path / "a").problems == ()
    with LatentDB.open(tmp_path / "a") as db:
        assert db.info().index is not None
        assert db.query("5", k=1)[0].id == "5"


def test_a_damaged_model_is_named(store: Path) -> None:
    (store / "model/decoder.keras").write_bytes(b"nothing")
    report = verify(store)
    assert [problem.file for problem in report.problems] == ["model/decoder.keras"]
    assert "copy it from the model folder" in report.problems[0].repair


def test_a_row_missing_from_the_index_or_an_id_given_twice_is_found(path: Path) -> None:
    """What no checksum can tell: files that are whole, and do not belong together."""
    from dataclasses import replace

    from latentdb.store import manifest as manifests

    told = manifests.read(path)
    undeleted = replace(told, deletions=None, version=told.version + 1)
    with LatentDB.open(path) as db:
        db.add(["1-3"], np.ones((1, 4)))
        now = manifests.read(path)
    manifests.commit(path, replace(now, deletions=undeleted.deletions))
    assert "id '1-3' has two rows" in verify(path).problems[0].what


def test_orphans_are_counted_and_not_a_problem(path: Path) -> None:
    before = verify(path).orphans
    (path / "segments/left-by-a-killed-writer.h5").write_bytes(b"x")
    report = verify(path)
    assert (report.orphans, report.problems) == (before + 1, ())


def test_what_is_no_store_is_said(tmp_path: Path, path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="is not a latentdb store"):
        verify(tmp_path)
    (path / "MANIFEST.json").write_text("{}")
    with pytest.raises(CorruptStoreError, match="is damaged"):
        verify(path, repair=True)
