"""Moved and touched files: their rows get new paths, and nothing is encoded or hashed again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from latentdb import LatentDB
from latentdb.base.errors import InvalidInputError
from latentdb.images import decode
from latentdb.ingest import planner
from latentdb.model.codec import Codec


@pytest.fixture
def moved(store: Path, images: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A store of a folder of its own, which was moved: store, old folder, new folder."""
    old, new = tmp_path / "one", tmp_path / "two"
    shutil.copytree(images, old)
    with LatentDB.open(store) as db:
        db.relocate(images, old)
        assert db.index_images(old).unchanged == 80
    old.rename(new)
    return store, old, new


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the files that are read from now on."""
    seen: list[str] = []
    read = decode.read_file
    monkeypatch.setattr(planner, "read_file", lambda path: seen.append(path) or read(path))
    return seen


def forbid_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(*_: object) -> None:
        raise AssertionError("an image was encoded")

    monkeypatch.setattr(Codec, "encode", encode)


def test_index_after_a_move_stores_the_new_paths(
    moved: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _, new = moved
    seen = count_reads(monkeypatch)
    forbid_encoding(monkeypatch)
    with LatentDB.open(path) as db:
        before = db.vectors(db.ids())
        rows = db.search(before[:3], k=1)[1]
        report = db.index_images(new)
        assert (report.unchanged, report.restamped, report.added) == (80, 80, 0)
        assert len(seen) == 80
        assert db.rows().paths == [str(new / name) for name in db.ids()]
        np.testing.assert_array_equal(db.vectors(db.ids()), before)
        np.testing.assert_array_equal(db.search(before[:3], k=1)[1], rows)
        again = db.index_images(new)
        assert (again.unchanged, again.restamped) == (80, 0)
        assert len(seen) == 80  # hashed once, not at every run
    assert not LatentDB.verify(path).problems


def test_a_file_of_the_store_is_itself_after_a_move(moved: tuple[Path, Path, Path]) -> None:
    path, _, new = moved
    with LatentDB.open(path) as db:
        db.index_images(new)
        file = new / "disc/000.png"
        assert db.query(file, k=1)[0].id == "disc/000.png"
        assert db.query(file, k=1, exclude_self=True)[0].id != "disc/000.png"


def test_a_touched_file_is_hashed_once(
    store: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(images, folder)
    with LatentDB.open(store) as db:
        db.relocate(images, folder)
        os.utime(folder / "disc/000.png", ns=(1, 10**18))
        seen = count_reads(monkeypatch)
        assert db.index_images(folder).restamped == 1
        assert db.index_images(folder).restamped == 0
        assert seen == [str(folder / "disc/000.png")]


def test_a_copy_leaves_the_row_of_the_first_alone(
    store: Path, images: Path, tmp_path: Path
) -> None:
    shutil.copytree(images, tmp_path / "copy")
    with LatentDB.open(store) as db:
        report = db.index_images(tmp_path / "copy")
        assert (report.unchanged, report.restamped) == (80, 0)
        assert db["disc/000.png"].path == str(images / "disc/000.png")


def test_deleted_rows_stay_deleted(moved: tuple[Path, Path, Path]) -> None:
    path, _, new = moved
    with LatentDB.open(path) as db:
        db.delete(["disc/000.png", "square/001.png"])
        assert db.relocate(moved[1], new).rows == 78
        assert "disc/000.png" not in db
        assert len(db) == 78
        assert db.query("disc/001.png", k=1)[0].path == str(new / "disc/001.png")
    assert not LatentDB.verify(path).problems


def test_relocate_changes_whole_folders_only(
    moved: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, old, new = moved
    with LatentDB.open(path) as db:
        for wrong in (str(old)[:-1], tmp_path / "nowhere", old / "disc/000.png"):
            with pytest.raises(InvalidInputError, match="no image of this store lies below"):
                db.relocate(wrong, new)
        done = db.relocate(f"{old}{os.sep}", tmp_path / "gone")
        assert (done.rows, done.missing) == (80, 80)
        monkeypatch.chdir(tmp_path)
        assert db.relocate("gone/disc", "two/disc").rows == 40
        assert db.relocate("gone", "two").missing == 0
        assert db.rows().paths == [str(new / name) for name in db.ids()]
        assert db.index_images(new).restamped == 0


def test_rows_of_several_segments(store: Path, images: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        db.add(["bare"], np.zeros((1, 4)), z_log_var=np.zeros((1, 4)))
        shutil.copy(images / "disc/000.png", tmp_path / "alone.png")
        db.index_images(tmp_path / "alone.png")
        alone = f"{tmp_path.name}/alone.png"
        (tmp_path / "alone.png").rename(tmp_path / "moved.png")
        assert db.relocate(images, tmp_path / "away").rows == 80
        assert db["bare"].path is None
        assert db[alone].path == str(tmp_path / "alone.png")
