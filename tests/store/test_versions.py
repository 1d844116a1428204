"""Earlier versions: kept, listed, opened, gone back to, and told where one was put back."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from batteries.shim import Fault, Shim, Stopped, installed
from latentdb.base.errors import CorruptStoreError, NotFoundError, StoreError, StoreNotFoundError
from latentdb.database import LatentDB
from latentdb.store import versions
from latentdb.store.store import Store
from latentdb.verify import LOST, verify

DIM = 2


def add(path: Path, name: str) -> None:
    with LatentDB.open(path) as db:
        db.add([name], np.full((1, DIM), float(len(db))))


def ids(path: Path, version: int | None = None) -> list[str]:
    with LatentDB.open(path, version=version) as db:
        return db.ids()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Version 4, of three rows; version 1 is empty."""
    LatentDB.create(tmp_path / "s", dim=DIM)
    for name in "abc":
        add(tmp_path / "s", name)
    return tmp_path / "s"


def age(path: Path) -> None:
    old = time.time() - 3_600
    for file in path.rglob("*"):
        os.utime(file, (old, old))


# --- history ----------------------------------------------------------------------


def test_versions_are_listed_and_opened_for_as_long_as_they_are_kept(path: Path) -> None:
    listed = LatentDB.versions(path)
    assert [(item.version, item.rows, item.current) for item in listed] == [
        (4, 3, True),
        (3, 2, False),
        (2, 1, False),
        (1, 0, False),
    ]
    assert listed[0].committed == (path / "MANIFEST.json").stat().st_mtime
    assert [ids(path, number) for number in (1, 2, 3, 4)] == [[], ["a"], ["a", "b"], list("abc")]
    with LatentDB.open(path, version=2) as db:
        add(path, "d")
        assert db.ids() == ["a"], "it stays at its version"
        assert [match.id for match in db.query(np.zeros(DIM))] == ["a"]
        assert pickle.loads(pickle.dumps(db)).ids() == ["a"]
        for write in (lambda: db.delete(["a"]), db.compact, db.optimize):
            with pytest.raises(StoreError, match=r"version 2 of .* can only be read"):
                write()


def test_a_deletion_is_undone_by_a_copy_of_the_version_before(path: Path, tmp_path: Path) -> None:
    with LatentDB.open(path) as db:
        db.delete(["a", "b"])
        db.compact()
    with LatentDB.open(path, version=4) as db:
        db.backup(tmp_path / "before")
    made = LatentDB.restore(tmp_path / "before", path, overwrite=True)
    assert (made.version, made.rows) == (7, 3)
    assert ids(path) == list("abc")


def test_old_versions_expire_and_the_one_before_stays(path: Path) -> None:
    with LatentDB.open(path) as db:
        db.delete(["a"])
        db.compact()  # version 6; 5 is of the segments before
    age(path)
    with LatentDB.open(path) as db:
        db.delete([])
    assert [item.version for item in LatentDB.versions(path)] == [6, 5]
    assert ids(path, 5) == ["b", "c"]
    with pytest.raises(NotFoundError, match=r"version 2 of .* is not kept; these are: 6, 5\. The"):
        LatentDB.open(path, version=2)
    add(path, "d")
    with LatentDB.open(path) as db:
        db.delete([])
    assert [item.version for item in LatentDB.versions(path)] == [7, 6]
    assert verify(path).orphans == 0


def test_a_version_whose_files_are_gone_is_not_listed(path: Path) -> None:
    with LatentDB.open(path) as db:
        db.compact()
    for file in set((path / "segments").iterdir()):
        if f"segments/{file.name}" not in Store.open(path).snapshot().manifest.file_names():
            file.unlink()
    assert [item.version for item in LatentDB.versions(path)] == [5, 1]
    with pytest.raises(NotFoundError, match=r"\.h5 is missing"):
        LatentDB.open(path, version=4)


def test_only_so_many_versions_are_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "MOST_KEPT", 2)
    add(path, "d")
    assert sorted(os.listdir(path / "history")) == ["2.json", "3.json", "4.json"]
    add(path, "e")
    assert [item.version for item in LatentDB.versions(path)] == [6, 5, 4, 3]


def test_without_hard_links_versions_are_copies(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*words: object, **named: object) -> None:
        raise OSError(95, "not supported")

    monkeypatch.setattr(os, "link", no_links)
    add(path, "d")
    assert [item.version for item in LatentDB.versions(path)] == [5, 4, 3, 2, 1]
    assert ids(path, 4) == list("abc")


def test_a_history_that_cannot_be_written_stops_no_commit(path: Path) -> None:
    shutil.rmtree(path / "history")
    (path / "history").write_text("mine")
    add(path, "d")
    assert [item.version for item in LatentDB.versions(path)] == [5, 4]
    assert (path / "history").read_text() == "mine"


def test_a_history_that_is_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    (path / "history").rename(tmp_path / "elsewhere")
    (path / "history").symlink_to(tmp_path / "elsewhere")
    assert [item.version for item in LatentDB.versions(path)] == [4, 3]
    with LatentDB.open(path) as db, pytest.raises(StoreError, match="history is a link, to which"):
        db.delete(["a"])


def test_what_is_no_store_has_no_versions(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        LatentDB.versions(tmp_path)


# --- the manifest is damaged ------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: os.truncate(path, 100),
    "missing": Path.unlink,
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_repair_goes_back_to_the_version_before(path: Path, how: str) -> None:
    newest = set(Store.open(path).snapshot().manifest.file_names())
    lost = newest - versions.read_previous(path).file_names()
    DAMAGES[how](path / "MANIFEST.json")
    for call in (LatentDB.open, LatentDB.verify):
        with pytest.raises((CorruptStoreError, StoreNotFoundError), match=r"verify --repair goes"):
            call(path)
    report = LatentDB.verify(path, repair=True)
    (problem,) = report.problems
    assert (problem.file, problem.kind, report.rows) == ("MANIFEST.json", LOST, 2)
    assert "version 3, of MANIFEST.previous, was put in its place" in problem.repair
    assert "the one after is lost" in problem.repair
    assert ids(path) == ["a", "b"]
    assert Store.open(path).snapshot().manifest.version == 5
    assert verify(path).problems == ()
    for name in lost:
        assert (path / "quarantine" / Path(name).name).exists()
    add(path, "new")
    assert ids(path) == ["a", "b", "new"]


def test_a_repair_does_not_go_back_to_a_version_that_is_damaged_itself(path: Path) -> None:
    (path / "MANIFEST.json").write_bytes(b"")
    first = versions.read_previous(path).segments[0].file.name
    flip(path / first)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(CorruptStoreError, match=rf"{first} of version 3 .*latentdb restore puts"):
        verify(path, repair=True)
    del before[path / "LOCK"]
    assert {file: file.read_bytes() for file in before} == before


def test_the_repair_of_a_manifest_that_is_killed_anywhere_loses_nothing(
    path: Path, tmp_path: Path
) -> None:
    (path / "MANIFEST.json").write_bytes(b"damaged")
    whole = {file.name for file in (path / "segments").iterdir()}
    at = 0
    while True:
        at += 1
        copy = tmp_path / f"copy {at}"
        shutil.copytree(path, copy)
        try:
            with installed(Shim(Fault(at, action="stop"))):
                verify(copy, repair=True)
            break
        except Stopped:
            verify(copy, repair=True)
        assert ids(copy) == ["a", "b"]
        kept = {*os.listdir(copy / "segments"), *os.listdir(copy / "quarantine")}
        assert whole <= kept
        assert verify(copy).problems == ()
    assert at > 10


# --- an older manifest was put back -----------------------------------------------


def put_back(path: Path, version: int) -> None:
    data = (path / f"history/{version}.json").read_bytes()
    (path / "MANIFEST.json").unlink()
    (path / "MANIFEST.json").write_bytes(data)


@pytest.mark.parametrize("version", [2, 3])
def test_an_older_manifest_in_the_place_of_a_newer_one_is_told(path: Path, version: int) -> None:
    opened = LatentDB.open(path)
    put_back(path, version)
    told = f"MANIFEST.json is version {version}, but version 4 was committed: an older one was put"
    with pytest.warns(RuntimeWarning, match=told):
        assert len(ids(path)) == version - 1
    with pytest.warns(RuntimeWarning, match=told):
        assert len(opened) == version - 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with LatentDB.open(path) as db, pytest.raises(StoreError, match=told):
            db.add(["x"], np.zeros((1, DIM)))
    (problem,) = LatentDB.verify(path).problems
    assert (problem.file, problem.kind) == ("MANIFEST.json", LOST)
    assert f"{problem.file} {problem.what}" in told + " back"


def test_an_older_manifest_is_accepted_by_a_repair(path: Path) -> None:
    later = Store.open(path).snapshot().manifest.segments[2].file.name
    put_back(path, 2)
    (problem,) = LatentDB.verify(path, repair=True).problems
    assert problem.repair.startswith("accepted")
    assert (path / "quarantine" / Path(later).name).exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ids(path) == ["a"]
        add(path, "new")
        assert Store.open(path).snapshot().manifest.version == 6
    assert verify(path).problems == ()


def test_no_version_is_known_where_the_lock_says_none(path: Path) -> None:
    """As after an older latentdb wrote, or a power cut."""
    for content in (b"", b"process 1 on a since b\n", b"x\nversion -1\n", b"\0" * 60):
        (path / "LOCK").write_bytes(content)
        put_back(path, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert ids(path) == ["a"]
    (path / "LOCK").unlink()
    assert ids(path) == ["a"]
    add(path, "new")
    assert json.loads(json.dumps(ids(path))) == ["a", "new"]
