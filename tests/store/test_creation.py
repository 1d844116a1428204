"""Making a store: what a folder may hold, and what is left after a failure."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from latentdb.store.creation import is_unfinished, undo_creation
from latentdb.store.rows import Rows
from latentdb.store.store import Store


def test_what_a_killed_creation_leaves_is_unfinished(tmp_path: Path) -> None:
    assert is_unfinished(tmp_path)
    (tmp_path / "segments").mkdir()
    (tmp_path / ".MANIFEST.json.7.tmp").write_bytes(b"")
    assert is_unfinished(tmp_path)
    (tmp_path / "segments/a.h5").write_bytes(b"")
    assert not is_unfinished(tmp_path)  # nothing is written before the lock
    (tmp_path / "LOCK").write_bytes(b"")
    assert is_unfinished(tmp_path)
    (tmp_path / "notes.txt").write_bytes(b"")
    assert not is_unfinished(tmp_path)
    assert not is_unfinished(tmp_path / "notes.txt")


@pytest.mark.parametrize("where", ["folder", "link", "working directory"])
def test_an_empty_folder_becomes_a_store_in_place(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s").mkdir()
    inode = (tmp_path / "s").stat().st_ino
    (tmp_path / "link").symlink_to(tmp_path / "s")
    monkeypatch.chdir(tmp_path / "s")
    given = {"folder": tmp_path / "s", "link": tmp_path / "link", "working directory": Path()}
    Store.create(given[where], dim=3)
    assert Store.open(tmp_path / "s").snapshot().dim == 3
    assert (tmp_path / "s").stat().st_ino == inode
    assert sorted(os.listdir(tmp_path)) == ["link", "s"]


def test_a_creation_is_undone_unless_rows_were_committed(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", dim=2)
    undo_creation(store.path, existed=True)
    assert os.listdir(tmp_path / "s") == []
    undo_creation(Store.create(tmp_path / "s", dim=2).path, existed=False)
    assert os.listdir(tmp_path) == []
    store = Store.create(tmp_path / "s", dim=2)
    with store.writer() as writer:
        writer.append(Rows(["a"], np.zeros((1, 2), np.float32)))
    undo_creation(store.path, existed=False)
    assert len(Store.open(tmp_path / "s").snapshot()) == 1
