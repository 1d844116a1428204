"""Ids of images are those of the store's roots, whatever folder is typed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from latentdb import LatentDB
from latentdb.store.roots import Root
from tests.conftest import draw_shape, make_images


@pytest.fixture
def db(tmp_path: Path, model: Path) -> Iterator[LatentDB]:
    with LatentDB.create(tmp_path / "s.ldb", model=model) as made:
        yield made


def label_of(db: LatentDB, name: str) -> object:
    return db[name].metadata.get("label")


def roots_of(db: LatentDB) -> list[tuple[str, str]]:
    return [(root.path, root.prefix) for root in db.info().roots]


def test_a_folder_below_a_root_keeps_its_ids(db: LatentDB, tmp_path: Path) -> None:
    small = make_images(tmp_path / "small", 3)
    assert db.index_images(small, labels_from_folders=True).added == 6
    draw_shape("disc", 50).save(small / "disc/new.png")
    done = db.index_images(small / "disc", labels_from_folders=True)
    assert (done.added, done.unchanged, done.rows, done.notes[:-1]) == (1, 3, 7, ())
    assert label_of(db, "disc/new.png") == "disc"
    done = db.index_images(small / "disc/000.png")
    assert (done.unchanged, done.rows) == (1, 7)
    assert roots_of(db) == [(str(small), "")]


def test_several_folders_have_ids_relative_to_their_parent(db: LatentDB, tmp_path: Path) -> None:
    small = make_images(tmp_path / "small", 2)
    draw_shape("disc", 51).save(small / "loose.png")
    done = db.index_images(sorted(small.iterdir()), labels_from_folders=True)
    assert done.notes[0] == f"ids are paths relative to {small}"
    assert done.added == 5
    assert label_of(db, "square/001.png") == "square"
    assert "loose.png" in db
    again = db.index_images(small, labels_from_folders=True)
    assert (again.added, again.updated, again.unchanged) == (0, 0, 5)


def test_the_folder_above_a_root_leaves_its_ids(db: LatentDB, tmp_path: Path) -> None:
    small = make_images(tmp_path / "small", 2)
    db.index_images(small / "disc")
    done = db.index_images(small, labels_from_folders=True)
    assert (done.added, done.updated, done.rows) == (2, 2, 4)
    assert sorted(db.ids()) == [
        *("000.png", "001.png", "small/square/000.png", "small/square/001.png")
    ]
    assert [label_of(db, name) for name in ("000.png", "small/square/000.png")] == [
        *("disc", "square")
    ]
    assert db.index_images(small).unchanged == 4


def test_a_second_root_is_told_apart(db: LatentDB, tmp_path: Path) -> None:
    one, two = make_images(tmp_path / "one", 2), make_images(tmp_path / "x/two", 2, seed=9)
    (one / "two").mkdir()
    draw_shape("disc", 52).save(one / "two/000.png")
    assert db.index_images(one).notes == ()
    done = db.index_images(two, labels_from_folders=True)
    assert (done.added, done.bad, done.conflicts) == (4, (), ())
    assert done.notes[0].startswith(f"ids of images in {two} begin with two-2/: ")
    assert label_of(db, "two-2/disc/000.png") == "disc"
    done = db.index_images([two, one, two / "disc"])
    assert (done.added, done.unchanged, done.notes) == (0, 9, ())
    assert db.verify(tmp_path / "s.ldb").problems == ()


def test_a_moved_root_keeps_its_ids(db: LatentDB, tmp_path: Path) -> None:
    one = make_images(tmp_path / "one", 3)
    db.index_images(one)
    # Others lie at the old path: neither that nor a look at the path tells.
    shutil.move(one, tmp_path / "new")
    make_images(one, 2, seed=9)
    done = db.index_images(tmp_path / "new")
    assert (done.added, done.unchanged, done.restamped, done.missing) == (0, 6, 6, ())
    assert done.notes == (f"{one} was moved to {tmp_path}/new: its images keep their ids",)
    assert roots_of(db) == [(f"{tmp_path}/new", "")]
    done = db.index_images(one)
    assert (done.added, done.rows) == (4, 10)
    assert "one/disc/000.png" in db


def test_a_part_of_a_root_that_was_moved_keeps_its_ids(db: LatentDB, tmp_path: Path) -> None:
    db.index_images(make_images(tmp_path / "one", 3))
    (tmp_path / "one").rename(tmp_path / "new")
    done = db.index_images(tmp_path / "new/disc")
    assert (done.added, done.unchanged) == (0, 3)
    assert roots_of(db) == [(f"{tmp_path}/new", "")]
    assert db.index_images(tmp_path / "new").restamped == 3


def test_a_copy_of_a_root_has_its_ids(db: LatentDB, tmp_path: Path) -> None:
    one = make_images(tmp_path / "one", 3)
    db.index_images(one)
    copy = Path(shutil.copytree(one, tmp_path / "copy"))
    done = db.index_images(copy)
    assert (done.added, done.unchanged, done.restamped, done.failed) == (0, 6, 0, False)
    assert done.notes == (f"{copy} has the images of {one}: they have the same ids",)
    assert roots_of(db) == [(str(one), "")]
    # What is only in the copy comes in; another image under the same id does not.
    draw_shape("disc", 53).save(copy / "disc/new.png")
    draw_shape("square", 54).save(copy / "disc/000.png")
    done = db.index_images(copy)
    assert (done.added, done.failed, len(done.conflicts)) == (1, True, 1)
    assert done.conflicts[0].path == str(copy / "disc/000.png")
    assert f"that of {one}/disc/000.png, which has other content" in done.conflicts[0].reason
    assert db["disc/000.png"].path == str(one / "disc/000.png")


def test_two_new_files_of_one_id_are_a_conflict(db: LatentDB, tmp_path: Path) -> None:
    one, two = make_images(tmp_path / "one", 2), make_images(tmp_path / "x/two", 2, seed=9)
    db.index_images(one)
    db.index_images(two)
    (one / "two").mkdir()
    (one / "two/disc").symlink_to(one / "disc")
    shutil.copy(one / "disc/000.png", one / "two/new.png")
    draw_shape("disc", 55).save(two / "new.png")
    done = db.index_images([one, two])
    assert done.failed
    assert [file.path for file in done.conflicts] == [
        *(str(one / name) for name in ("two/disc/000.png", "two/disc/001.png")),
        str(two / "new.png"),
    ]
    assert db.verify(tmp_path / "s.ldb").problems == ()


@pytest.mark.parametrize("move", [os.rename, shutil.copytree])
def test_relocate_moves_the_root(
    db: LatentDB, tmp_path: Path, move: Callable[[str, str], object]
) -> None:
    one = make_images(tmp_path / "one", 2)
    db.index_images(one)
    move(str(one), f"{tmp_path}/two")
    assert db.relocate(one, tmp_path / "two").rows == 4
    assert roots_of(db) == [(f"{tmp_path}/two", "")]
    assert db.index_images(tmp_path / "two").unchanged == 4
    # A part of a root becomes one of its own, so that its ids stay.
    move(f"{tmp_path}/two/disc", f"{tmp_path}/discs")
    db.relocate(tmp_path / "two/disc", tmp_path / "discs")
    assert roots_of(db) == [(f"{tmp_path}/two", ""), (f"{tmp_path}/discs", "disc/")]
    done = db.index_images(tmp_path / "discs")
    assert (done.added, done.unchanged) == (0, 2)


def test_folders_of_other_places_have_roots_of_their_own(db: LatentDB, tmp_path: Path) -> None:
    one = make_images(tmp_path / "one", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os.path, "commonpath", lambda paths: "/")  # as on two disks
        done = db.index_images([one / "disc", one / "square"])
    assert done.added == 4
    assert roots_of(db) == [(str(one / "disc"), ""), (str(one / "square"), "square/")]
    assert db.index_images(one / "square").unchanged == 2


def test_a_link_to_a_root_is_that_root(db: LatentDB, tmp_path: Path) -> None:
    one = make_images(tmp_path / "one", 2)
    db.index_images(one)
    (tmp_path / "link").symlink_to(one)
    done = db.index_images([tmp_path / "link", tmp_path / "link/disc"])
    assert (done.added, done.unchanged, done.restamped) == (0, 4, 0)


def test_root_of_a_file_is_its_folder(db: LatentDB, tmp_path: Path) -> None:
    one = make_images(tmp_path / "one", 2)
    assert db.index_images(one / "disc/001.png").notes == (f"ids are paths relative to {one}/disc",)
    assert db.index_images(one / "disc").added == 1
    assert db.ids() == ["001.png", "000.png"]
    assert Root(str(one / "disc")) in db.info().roots
