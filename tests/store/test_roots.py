"""Roots: which folder has the id of a path, and what an older store says of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from latentdb import LatentDB
from latentdb.store import manifest as manifests
from latentdb.store.roots import Root, Roots, known_roots
from latentdb.store.rows import Rows
from latentdb.store.store import Store

ROOTS = Roots([Root("/a"), Root("/a/b", "b/"), Root("/c", "more/")])


def test_the_deepest_root_has_the_id_of_a_path() -> None:
    for path, name in (
        ("/a/x.png", "x.png"),
        ("/a/b/x.png", "b/x.png"),
        ("/c/d/x.png", "more/d/x.png"),
    ):
        root = ROOTS.find(path)
        assert root is not None
        assert root.name(path) == name
    assert ROOTS.find("/ab/x.png") is None
    assert ROOTS.find("/a") == Root("/a")
    assert Roots([Root("/")]).find("/a/x.png") == Root("/")
    assert Root("/").name("/a/x.png") == "a/x.png"


def test_roots_below_a_moved_folder_move_too() -> None:
    moved = ROOTS.moved("/a", "/new")
    assert moved.all == (Root("/new"), Root("/new/b", "b/"), Root("/c", "more/"))
    assert ROOTS.below("/a") == [Root("/a/b", "b/")]


def without_roots(store: Path) -> None:
    """Make the manifest one that an older latentdb wrote."""
    manifests.commit(store, replace(manifests.read(store), roots=()))


def test_the_roots_of_an_older_store_follow_from_its_paths(
    store: Path, images: Path, tmp_path: Path
) -> None:
    without_roots(store)
    with LatentDB.open(store) as db:
        assert known_roots(db._snapshot()).all == (Root(str(images)),)
        # Rows whose ids say nothing of their paths have no root.
        db.add_images(["other"], [images / "disc/000.png"])
        assert known_roots(db._snapshot()).all == (Root(str(images)),)
        # A file of a folder below, by its name alone, as older versions indexed it.
        shutil.copytree(images / "disc", tmp_path / "deep/disc")
        path = tmp_path / "deep/disc/000.png"
        db.add_images(["000.png"], [path])
        assert known_roots(db._snapshot()).all == (Root(str(images)), Root(str(path.parent)))


def test_the_root_of_the_file_system_and_folders_below_it_follow_from_paths(
    tmp_path: Path,
) -> None:
    store = Store.create(tmp_path / "s.ldb", dim=2)
    paths = ["/x.png", "/a/y.png", "/a/b/z.png"]
    names = ["x.png", "y.png", "b/z.png"]
    with store.writer() as writer:
        writer.append(Rows(names, np.zeros((3, 2), np.float32), paths=paths))
    assert set(known_roots(store.snapshot()).all) == {Root("/"), Root("/a")}


def test_a_folder_that_was_indexed_twice_is_no_root_of_its_own(store: Path, images: Path) -> None:
    without_roots(store)
    with LatentDB.open(store) as db:
        db.add_images(["000.png"], [images / "disc/000.png"])
        assert known_roots(db._snapshot()).all == (Root(str(images)),)
