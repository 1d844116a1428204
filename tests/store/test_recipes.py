"""Saved recipes on disk: names, damage, other models, backups, links."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from latentdb.base.errors import (
    AlreadyExistsError,
    CorruptStoreError,
    InvalidInputError,
    ModelMismatchError,
    StoreError,
)
from latentdb.database import LatentDB
from latentdb.store import recipes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with LatentDB.create(tmp_path / "s.ldb", dim=2) as db:
        db.add(["a", "b"], np.array([[1, 2], [0.1, 1e-30]]))
        db.save_recipe("one", "id:a - id:b")
    return tmp_path / "s.ldb"


def test_the_vector_is_read_back_bit_for_bit(path: Path) -> None:
    with LatentDB.open(path) as db:
        expected = db.recipe("id:a - id:b").vector
        assert db.recipes()[0].vector.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["", "One", "a b", "../x", "1a", "a" * 65, "a\n", "a.b"])
def test_unsafe_names_are_refused(path: Path, name: str) -> None:
    with LatentDB.open(path) as db, pytest.raises(InvalidInputError, match="lower-case"):
        db.save_recipe(name, "id:a")
    assert [file.name for file in (path / "recipes").iterdir()] == ["one.json"]


def test_one_is_not_replaced_unless_asked(path: Path) -> None:
    with LatentDB.open(path) as db:
        with pytest.raises(AlreadyExistsError, match="@one"):
            db.save_recipe("one", "id:a")
        db.save_recipe("one", "id:a", overwrite=True)
        assert db.recipes()[0].vector.tolist() == [1, 2]


def test_there_is_a_limit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "MAX_RECIPES", 1)
    with LatentDB.open(path) as db:
        db.save_recipe("one", "id:b", overwrite=True)
        with pytest.raises(InvalidInputError, match="at most 1 recipes"):
            db.save_recipe("two", "id:a")


def test_damage_is_noticed(path: Path) -> None:
    file = path / "recipes/one.json"
    whole = file.read_text()
    for text in ("", "[]", whole.replace("id:a", "id:b"), whole[:-20], "[" * 100_000):
        file.write_text(text)
        with LatentDB.open(path) as db, pytest.raises(CorruptStoreError, match=r"one\.json"):
            db.recipe("@one")
    document = json.loads(whole)
    assert document["recipe"]["text"] == "id:a - id:b"


def test_a_recipe_of_other_latents_is_refused(path: Path, tmp_path: Path) -> None:
    with LatentDB.create(tmp_path / "t.ldb", dim=2) as db:
        db.add(["a"], np.ones((1, 2)))
        shutil.copytree(path / "recipes", tmp_path / "t.ldb/recipes")
        with pytest.raises(ModelMismatchError, match="@one"):
            db.recipe("@one")


def test_a_backup_has_them(path: Path, tmp_path: Path) -> None:
    with LatentDB.open(path) as db:
        db.backup(tmp_path / "copy.ldb")
        expected = db.recipe("@one").vector
    with LatentDB.open(tmp_path / "copy.ldb") as copy:
        np.testing.assert_array_equal(copy.recipe("@one").vector, expected)
        assert LatentDB.verify(tmp_path / "copy.ldb").problems == ()


def test_what_a_killed_backup_left_is_no_obstacle(path: Path, tmp_path: Path) -> None:
    with LatentDB.open(path) as db:
        db.backup(tmp_path / "copy.ldb")
        (tmp_path / "copy.ldb/MANIFEST.json").unlink()
        db.backup(tmp_path / "copy.ldb")
    with LatentDB.open(tmp_path / "copy.ldb") as copy:
        assert len(copy.recipes()) == 1


def test_nothing_is_written_through_a_link(path: Path, tmp_path: Path) -> None:
    shutil.move(path / "recipes", tmp_path / "elsewhere")
    (path / "recipes").symlink_to(tmp_path / "elsewhere")
    with LatentDB.open(path) as db, pytest.raises(StoreError, match="is a link"):
        db.save_recipe("two", "id:a")
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1
