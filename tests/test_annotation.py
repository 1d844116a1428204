"""Errors of reconstructions and clusters, kept as metadata columns."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentdb.base.errors import AlreadyExistsError, ModelError
from latentdb.database import LatentDB
from latentdb.images.decode import read_image
from tests.cli.running import run


def test_errors_are_kept_once_and_outliers_need_no_images(
    store: Path, images: Path, tmp_path: Path
) -> None:
    with LatentDB.open(store) as db:
        before = db.outliers(80)
        assert db.measure_errors() == 80
        assert db.measure_errors() == 0
        assert db.info().columns["reconstruction_error"] == "float"
        row = db["disc/003.png"]
        image = read_image(images / "disc/003.png", db.codec.config.preprocessing)
        squares = np.square(image.astype(float) - db.decode(["disc/003.png"])[0])
        error = float(np.sqrt(squares.mean()))
        assert row.metadata["reconstruction_error"] == pytest.approx(error, rel=1e-6)
        assert 0 < db.count(f"reconstruction_error > {error}") < 80
        assert db.rows(order_by="-texture", limit=1).column("texture")[0] > 0
        after = db.outliers(80)
        np.testing.assert_allclose(after.error, before.error, rtol=1e-6)


def test_stored_errors_serve_without_files(images: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "images")
    with LatentDB.create(tmp_path / "s.ldb", model) as db:
        db.index_images(tmp_path / "images")
        db.measure_errors()
        # A changed image is a new row, whose error is not known yet.
        shutil.copy(images / "square/000.png", tmp_path / "images/disc/010.png")
        with Image.open(images / "square/001.png") as picture:
            picture.rotate(90).save(tmp_path / "images/disc/011.png")
        db.index_images(tmp_path / "images")
        assert db.count("reconstruction_error is None") == 2
        assert db.measure_errors() == 2
        shutil.rmtree(tmp_path / "images")
        found = db.outliers(5)
        assert np.isfinite(found.error).all()
        assert found.notes == ()


def test_errors_need_a_decoder(tmp_path: Path) -> None:
    with LatentDB.create(tmp_path / "s.ldb", dim=2) as db, pytest.raises(ModelError):
        db.measure_errors()


def test_clusters_are_kept(store: Path) -> None:
    with LatentDB.open(store) as db:
        found = db.cluster(3, where='label == "disc"')
        gone = db.ids(where='label == "disc"')[0]
        db.delete([gone])
        assert db.save_clusters(found, "group") == 39
        values = dict(zip(db.ids(), db.rows().column("group"), strict=True))
        expected = dict(zip(db.ids(where='label == "disc"'), found.assignment[1:], strict=True))
        assert {name: value for name, value in values.items() if value is not None} == expected
        with pytest.raises(AlreadyExistsError, match="'group'"):
            db.save_clusters(found, "group")
        db.save_clusters(db.cluster(2, where='label == "square"'), "group", overwrite=True)
        assert db.count("group is None") == 39


def test_on_the_command_line(store: Path, images: Path) -> None:
    assert "saved as group, of 80 rows" in run("cluster", store, "-n", 2, "--save", "group").stdout
    assert "there is a column 'label'" in run("cluster", store, "--save", "label", code=1).stderr
    run("index", store, images, "--with-errors")
    with LatentDB.open(store) as db:
        assert db.count("reconstruction_error > 0") == 80
