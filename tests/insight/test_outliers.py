"""Planted noise and planted vectors are found, and busy images are not mistaken for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentdb import LatentDB
from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.insight.errors import texture
from latentdb.insight.outliers import unusual
from latentdb.model.training import train_model


def test_the_texture_of_a_checkerboard_and_of_a_plain_image() -> None:
    board = 255 * (np.indices((8, 8)).sum(axis=0) % 2).astype(np.uint8)[:, :, None]
    assert texture(board) > 10_000
    assert texture(np.full((8, 8, 3), 200, np.uint8)) == 0
    assert texture(np.full((1, 1, 1), 200, np.uint8)) == 0


def test_what_is_unusual_is_off_the_line_not_far_along_it() -> None:
    rng = np.random.default_rng(0)
    textures = np.exp(rng.normal(4, 1, 2_000))
    errors = textures * np.exp(rng.normal(1, 0.1, 2_000))
    errors[7], textures[7] = 20 * textures[7], textures[7]
    errors[8] = np.nan
    found = unusual(errors, textures)
    assert np.nanargmax(found) == 7
    assert np.isnan(found[8])
    assert abs(np.corrcoef(found[9:], textures[9:])[0, 1]) < 0.6
    assert np.isfinite(unusual(np.full(5, 3.0), np.full(5, 3.0))).all()
    assert np.isnan(unusual(errors[:2], textures[:2])).all()


def test_planted_noise_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(300):
        side = int(rng.integers(3, 8))  # some smooth, some busy
        small = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        small.resize((24, 24), Image.Resampling.BICUBIC).save(tmp_path / f"images/{number:03d}.png")
    for number in range(10):
        noise = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"images/noise-{number}.png")
    train_model([tmp_path / "images"], tmp_path / "model", latent_dim=16, preset="fast")
    with LatentDB.create(tmp_path / "a.ldb", model=tmp_path / "model") as db:
        db.index_images(tmp_path / "images")
        found = db.outliers(15, sheet=tmp_path / "o.png")
        assert found.by == "error"
        assert sum(row.id.startswith("noise") for row in found.top) == 10
        assert [row.error_rank for row in found.top] == list(range(1, 16))
        values = [row.error for row in found.top if row.error is not None]
        assert values == sorted(values, reverse=True)
        assert not found.notes
        (tmp_path / "images/noise-3.png").unlink()
        found = db.outliers(15)
        assert "noise-3.png" not in {row.id for row in found.top}
        assert "cannot be read: 1 row" in found.notes[0]
        two = db.outliers(where='id in ("000.png", "001.png")')
        assert two.by == "kl"
        assert two.notes == ("error is left out: it is compared among 3 images or more",)
    with Image.open(tmp_path / "o.png") as picture:
        assert picture.width > 8 * 96


def test_planted_vectors_are_found_by_distance_and_kl(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 0.5, (3_000, 6)).astype(np.float32)
    vectors[:20] = 9 * rng.choice([-1, 1], (20, 6)) + rng.normal(0, 0.5, (20, 6))
    with LatentDB.create(tmp_path / "a.ldb", dim=6) as db:
        log_var = np.full_like(vectors, -3)
        db.add([f"r{row}" for row in range(3_000)], vectors, z_log_var=log_var)
        planted = {f"r{row}" for row in range(20)}
        by_distance = db.outliers(20, by="distance", k=25)
        assert {row.id for row in by_distance.top} == planted
        first = by_distance.top[0]
        gaps = np.sort(np.linalg.norm(vectors - vectors[int(first.id[1:])], axis=1))[1:26]
        assert first.distance == pytest.approx(gaps.mean(), rel=1e-5)
        found = db.outliers(20)
        assert found.by == "kl"
        assert {row.id for row in found.top} == planted
        assert found.top[0].error is None
        assert found.notes == ("error is left out: this store has no decoder",)
        kl = 0.5 * (vectors.astype(float) ** 2 + np.exp(-3.0) + 3 - 1).sum(axis=1)
        np.testing.assert_allclose(found.kl, kl, rtol=1e-6)
        with pytest.raises(InvalidInputError, match="error needs a decoder, and 3 images"):
            db.outliers(by="error")


def test_what_cannot_be_asked_for(tmp_path: Path) -> None:
    with LatentDB.create(tmp_path / "a.ldb", dim=2) as db:
        with pytest.raises(NotFoundError, match="no rows to look at"):
            db.outliers()
        db.add(["a"], np.eye(1, 2))
        with pytest.raises(InvalidInputError, match="distance needs another row"):
            db.outliers()
        db.add(["b"], np.eye(1, 2))
        assert db.outliers().by == "distance"
        with pytest.raises(InvalidInputError, match="kl needs z_log_var"):
            db.outliers(by="kl")
        with pytest.raises(InvalidInputError, match="use error, kl, distance"):
            db.outliers(by="score")
        with pytest.raises(InvalidInputError, match="give 1 or more"):
            db.outliers(0)
        with pytest.raises(InvalidInputError, match="k 0 cannot be used"):
            db.outliers(k=0)
