"""Garbage collection: which files of killed writers are deleted, and which stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from latentdb.store.garbage import collect_garbage


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("segments", "index", "model"):
        (tmp_path / name).mkdir()
    for name in ("MANIFEST.json", "LOCK", ".MANIFEST.json.7.tmp", "mine", "segments/a.h5",
                 "segments/b.h5", "index/c.faiss"):  # fmt: skip
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_what_no_version_names_goes(root: Path) -> None:
    assert collect_garbage(root, {"segments/a.h5"}, -1) == 3
    assert files(root) == {"MANIFEST.json", "LOCK", "mine", "segments/a.h5"}


def test_what_is_in_its_grace_stays(root: Path) -> None:
    os.utime(root / "segments/b.h5", (0, 0))
    assert collect_garbage(root, set(), 600) == 1
    assert "index/c.faiss" in files(root)
    assert "segments/b.h5" not in files(root)


def test_a_folder_that_is_lost_or_cannot_go_is_passed_over(root: Path) -> None:
    (root / "index/c.faiss").unlink()
    (root / "index").rmdir()
    (root / "model/folder").mkdir()
    assert collect_garbage(root, {"segments/a.h5", "segments/b.h5"}, -1) == 1
    assert (root / "model/folder").is_dir()
