"""Backups are put back: over a store that goes on, that is damaged, or that is gone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from batteries.shim import Fault, Shim, Stopped, installed
from latentdb.base.errors import AlreadyExistsError, CorruptStoreError, StoreError
from latentdb.database import LatentDB
from latentdb.store.store import Store
from latentdb.verify import verify

DIM = 2


def add(path: Path, *names: str) -> None:
    with LatentDB.open(path) as db:
        db.add(names, np.full((len(names), DIM), float(len(db))))


def ids(path: Path) -> list[str]:
    with LatentDB.open(path) as db:
        return db.ids()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of two rows, its backup, and then another row and a deletion."""
    LatentDB.create(tmp_path / "s", dim=DIM)
    add(tmp_path / "s", "a")
    add(tmp_path / "s", "b")
    with LatentDB.open(tmp_path / "s") as db:
        db.backup(tmp_path / "backup")
        db.add(["c"], np.ones((1, DIM)))
        db.delete(["a"])
    return tmp_path / "s"


def test_a_backup_is_put_back_as_a_new_version(path: Path) -> None:
    opened = LatentDB.open(path)
    with pytest.raises(
        AlreadyExistsError,
        match=r"is a store, at version 5 with 2 rows: --overwrite .* at version 3 with 2 rows, in",
    ):
        LatentDB.restore(path.with_name("backup"), path)
    made = LatentDB.restore(path.with_name("backup"), path, overwrite=True)
    assert (made.version, made.rows, made.current) == (6, 2, True)
    assert opened.ids() == ids(path) == ["a", "b"]
    assert verify(path).problems == ()
    add(path, "new")
    assert Store.open(path).snapshot().find(["new"]).tolist() == [3], "no row number twice"
    with LatentDB.open(path, version=5) as before:
        assert before.ids() == ["b", "c"]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("what", ["store", "manifest", "segment", "both manifests"])
def test_a_backup_mends_what_is_damaged_or_gone(
    path: Path, monkeypatch: pytest.MonkeyPatch, what: str, links: bool
) -> None:
    def no_links(*words: object, **named: object) -> None:
        raise OSError(18, "cross-device link")

    if not links:
        shutil.rmtree(path.with_name("backup"))
        monkeypatch.setattr(os, "link", no_links)
        with LatentDB.open(path, version=3) as db:
            db.backup(path.with_name("backup"))
    if what == "store":
        shutil.rmtree(path)
    elif what == "segment":
        segment = path / Store.open(path).snapshot().manifest.segments[0].file.name
        segment.unlink()  # of the backup it may be another name
        segment.write_bytes(b"damaged")
    else:
        for name in ("MANIFEST.json", "MANIFEST.previous")[: 1 + (what == "both manifests")]:
            (path / name).unlink()
            (path / name).write_bytes(b"damaged")
    LatentDB.restore(path.with_name("backup"), path, overwrite=True)
    assert ids(path) == ["a", "b"]
    assert verify(path).problems == ()
    if "manifest" in what:
        kept = [file.read_bytes() for file in (path / "quarantine").glob("MANIFEST.damaged.*")]
        assert kept == [b"damaged"]


def test_a_backup_that_is_damaged_changes_nothing(path: Path, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "backup", tmp_path / "copy")
    segment = next((tmp_path / "copy" / "segments").glob("*.h5"))
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    with pytest.raises(CorruptStoreError, match=rf"{segment.name} is damaged"):
        LatentDB.restore(tmp_path / "copy", path, overwrite=True)
    assert ids(path) == ["b", "c"]


def test_a_backup_of_another_store_is_refused(path: Path, tmp_path: Path) -> None:
    LatentDB.create(tmp_path / "other", dim=DIM)
    with pytest.raises(StoreError, match=r"is no backup of .*, but of another store"):
        LatentDB.restore(tmp_path / "other", path, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("mine")
    with pytest.raises(AlreadyExistsError, match="is not a store"):
        LatentDB.restore(tmp_path / "backup", tmp_path / "mine", overwrite=True)


def test_a_restore_that_is_killed_anywhere_leaves_the_one_version_or_the_other(
    path: Path, tmp_path: Path
) -> None:
    at, found = 0, []
    while True:
        at += 1
        copy = tmp_path / f"copy {at}"
        shutil.copytree(path, copy)
        try:
            with installed(Shim(Fault(at, action="stop"))):
                LatentDB.restore(tmp_path / "backup", copy, overwrite=True)
            break
        except Stopped:
            found.append(ids(copy))
        assert verify(copy).problems == ()
        LatentDB.restore(tmp_path / "backup", copy, overwrite=True)
        assert ids(copy) == ["a", "b"]
    assert set(map(tuple, found)) == {("b", "c"), ("a", "b")}
