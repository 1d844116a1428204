"""Planted copies are found, and nothing else; no chain becomes a group."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentdb import LatentDB
from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.model.training import train_model
from tests.conftest import make_images


def planted(folder: Path, db: LatentDB, vectors: np.ndarray) -> None:
    db.add([f"r{row}" for row in range(len(vectors))], vectors.astype(np.float32))


def groups(db: LatentDB, threshold: float, **options: str) -> list[set[str]]:
    found = db.duplicates(threshold=threshold, **options)
    return [{member.id for member in group.members} for group in found.groups]


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 pictures of smooth noise, 25 of which have a copy, and 5 a second file."""
    folder = tmp_path_factory.mktemp("noise") / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(300):
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small.resize((24, 24), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.png")
    for number in range(25):
        with Image.open(folder / f"{number:03d}.png") as image:
            near = image.point(lambda level: min(255, int(level * 1.02)))
            near.save(folder / f"near-{number:03d}.jpg", quality=80)
    for number in range(20, 25):
        shutil.copy(folder / f"{number:03d}.png", folder / f"same-{number:03d}.png")
    train_model([folder], folder.parent / "model", latent_dim=16, preset="fast")
    with LatentDB.create(folder.parent / "a.ldb", model=folder.parent / "model") as db:
        db.index_images(folder)
    return folder.parent / "a.ldb"


def test_planted_copies_are_found(noise: Path, tmp_path: Path) -> None:
    with LatentDB.open(noise) as db:
        found = db.duplicates(sheet=tmp_path / "s.png")
    threshold = found.threshold
    assert threshold.recall is not None
    assert threshold.recall > 0.95
    assert threshold.false_rate is not None
    assert threshold.false_rate < 0.01
    named = [{member.id[-7:-4] for member in group.members} for group in found.groups]
    assert all(len(names) == 1 for names in named)
    assert {next(iter(names)) for names in named} == {f"{number:03d}" for number in range(25)}
    assert len(found.surplus) == 30
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.height > 3 * 96


def test_copies_that_cannot_be_told_from_others_are_noted(noise: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    folder = tmp_path / "alike"
    folder.mkdir()
    with Image.open(noise.parent / "images/000.png") as image:
        pixels = np.asarray(image).astype(float)
    for number in range(200):
        changed = pixels + rng.normal(0, 2, pixels.shape) + rng.normal(0, 6, 3)
        Image.fromarray(changed.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    with LatentDB.create(tmp_path / "c.ldb", model=noise.parent / "model") as db:
        db.index_images(folder)
        found = db.duplicates()
    assert found.threshold.recall is not None
    assert found.threshold.recall < 0.5
    assert "most near copies are missed" in found.notes[-1]
    with LatentDB.open(noise) as db:
        assert not db.duplicates().notes


def test_equal_files_alone(noise: Path, tmp_path: Path) -> None:
    shutil.copytree(noise, tmp_path / "b.ldb")
    with LatentDB.open(tmp_path / "b.ldb") as db:
        found = db.duplicates(threshold=0)
        assert all(group.exact and group.diameter == 0 for group in found.groups)
        ids = [{member.id for member in group.members} for group in found.groups]
        assert ids == [{f"{n:03d}.png", f"same-{n:03d}.png"} for n in range(20, 25)]
        assert db.delete(found.surplus) == 5
        assert not db.duplicates(threshold=0).groups


def test_a_chain_is_no_group(tmp_path: Path) -> None:
    chain = np.arange(10)[:, None] * [1.0, 0]
    with LatentDB.create(tmp_path / "a.ldb", dim=2) as db:
        planted(tmp_path, db, chain)
        found = groups(db, 1.5)
        assert all(len(names) == 2 for names in found)
        assert len(found) == 5
        assert not groups(db, 0.5)


def test_large_groups_are_whole_and_the_medoid_is_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    blob = rng.normal(0, 0.01, (150, 4))
    blob[77] = 0
    others = rng.normal(0, 100, (200, 4))
    with LatentDB.create(tmp_path / "a.ldb", dim=4) as db:
        planted(tmp_path, db, np.concatenate([blob, others]))
        (group,) = db.duplicates(threshold=1).groups
        assert {member.id for member in group.members} == {f"r{row}" for row in range(150)}
        square = np.linalg.norm(blob[:, None] - blob, axis=2)
        assert group.keep == f"r{square.sum(axis=1).argmin()}"
        assert group.diameter == pytest.approx(square.max(), rel=1e-4)
        gaps = [member.distance for member in group.members]
        assert gaps == sorted(gaps)


def test_the_largest_file_is_kept_if_asked(noise: Path) -> None:
    with LatentDB.open(noise) as db:
        for group in db.duplicates(keep="largest").groups:
            assert group.members[0].bytes == max(member.bytes for member in group.members)
            assert group.keep == group.members[0].id


def test_by_cosine(tmp_path: Path) -> None:
    vectors = np.array([[1, 0], [5, 0.01], [0, 3], [0.02, 9], [-4, 0]])
    with LatentDB.create(tmp_path / "a.ldb", dim=2) as db:
        planted(tmp_path, db, vectors)
        assert sorted(map(sorted, groups(db, 1e-4, metric="cosine"))) == [
            ["r0", "r1"],
            ["r2", "r3"],
        ]


def test_what_cannot_be_asked_for(model: Path, tmp_path: Path) -> None:
    with LatentDB.create(tmp_path / "a.ldb", dim=2) as db:
        with pytest.raises(NotFoundError, match="no rows"):
            db.duplicates(threshold=1)
        planted(tmp_path, db, np.eye(2))
        with pytest.raises(InvalidInputError, match=r"no model to calibrate .*: give a threshold"):
            db.duplicates()
        with pytest.raises(InvalidInputError, match="give a distance"):
            db.duplicates(threshold=float("nan"))
        with pytest.raises(InvalidInputError, match="use medoid or largest"):
            db.duplicates(threshold=1, keep="newest")
        with pytest.raises(InvalidInputError, match="metric 'kl' has no index"):
            db.duplicates(threshold=1, metric="kl")
    images = make_images(tmp_path / "images", 15)
    with LatentDB.create(tmp_path / "b.ldb", model=model) as db:
        db.index_images(images)
        shutil.rmtree(images)
        with pytest.raises(InvalidInputError, match=r"0 of 30 images can be read.*put the files"):
            db.duplicates()
