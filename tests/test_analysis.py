"""The calls of `Analysis` on a real store: numbers, pictures, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentdb import LatentDB
from latentdb.base.errors import IdNotFoundError, InvalidInputError, ModelError


def test_diagnose_draws_the_dimensions(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        found = db.diagnose(out=tmp_path / "d.png")
        assert found.rows == len(db)
        assert len(found.dimensions) == db.info().dim
        effects = [row.effect for row in found.dimensions if row.effect is not None]
        assert len(effects) == len(found.dimensions)
        assert effects == sorted(effects, reverse=True)
    with Image.open(tmp_path / "d.png") as picture:
        assert picture.width > 7 * 96


def test_traverse_goes_through_its_target(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        name = db.ids()[3]
        walk = db.traverse(name, dims=[1, 0], steps=5, out=tmp_path / "t.png")
        assert walk.dims == (1, 0)
        np.testing.assert_allclose(walk.latents[:, 2], np.repeat(db.vectors([name]), 2, axis=0))
        by_effect = db.traverse(name, dims="top:2", steps=3)
        ranked = [row.number for row in db.diagnose().dimensions]
        assert list(by_effect.dims) == ranked[:2]
        mean = db.average().vector
        np.testing.assert_allclose(db.traverse(dims="0", steps=3).latents[0, 1], mean, atol=1e-5)
        db.traverse(name, dims="0,1", steps=4, out=tmp_path / "t.gif")
    with Image.open(tmp_path / "t.gif") as animation:
        assert animation.n_frames == 6  # forth and back
        assert animation.height > animation.width
    with Image.open(tmp_path / "t.png") as picture:
        assert picture.width > 5 * 96


def test_samples_of_the_prior_and_of_the_aggregate(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        drawn = db.sample(3, out=tmp_path / "s.npy")
        np.testing.assert_array_equal(np.load(tmp_path / "s.npy"), drawn.latents)
        fitted = db.sample(200, source="aggregate")
        spread = db.vectors(db.ids()).std(axis=0)
        assert (np.abs(np.log(fitted.latents.std(axis=0) / np.maximum(spread, 0.1))) < 1.5).all()
        db.sample(12, source="aggregate", out=tmp_path / "s.png")
        with pytest.raises(InvalidInputError, match="source 'aggregate' only"):
            db.sample(3, where='label == "disc"')
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.width > 900


def test_refusals(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        with pytest.raises(InvalidInputError, match=r"cannot write '\.pdf' files"):
            db.diagnose(out=tmp_path / "d.pdf")
        with pytest.raises(IdNotFoundError):
            db.traverse("nobody", dims="0")
        with pytest.raises(InvalidInputError, match="give top:N"):
            db.traverse(dims="top")
    with LatentDB.create(tmp_path / "bare.ldb", dim=2) as db:
        db.add(["a", "b"], np.eye(2))
        with pytest.raises(ModelError, match="no model"):
            db.sample(2, out=tmp_path / "no.png")
        assert db.traverse("a", dims="top:1").dims in ((0,), (1,))
    assert not (tmp_path / "no.png").exists()
