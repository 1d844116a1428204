"""On real photographs, where they are at hand."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentdb.database import LatentDB
from latentdb.images.decode import Preprocessing, read_image
from latentdb.model.training import train_model
from tests.conftest import SHARED

PHOTOS = SHARED / "photos-200.tar"
CIFAR = SHARED / "cifar10-train.tar.gz"


def unpack(archive: Path, folder: Path, most: int | None = None) -> Path:
    if not archive.is_file():
        pytest.skip(f"{archive} is not here: it is not part of the repository")
    # The first 3.10 and 3.11 have no filters.
    safe: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as tar:
        for number, member in enumerate(tar):
            if most is not None and number >= most:
                break
            tar.extract(member, folder, **safe)
    return folder


def test_photos_of_all_sizes_find_themselves(tmp_path: Path) -> None:
    photos = unpack(PHOTOS, tmp_path / "photos")
    done = train_model([photos], tmp_path / "m", epochs=4, latent_dim=16, image_size=(32, 32))
    assert done.bad == ()
    with LatentDB.create(tmp_path / "db", model=tmp_path / "m") as db:
        report = db.index_images(photos)
        assert (report.added, report.bad) == (200, ())
        for name in db.ids()[::20]:
            # The file itself, read and encoded again, is nearest to its own row.
            match = db.query(photos / name, k=1)[0]
            assert (match.id, match.distance < 1e-3) == (name, True)
        assert db.decode(db.ids()[:3]).shape == (3, 32, 32, 3)


def test_a_reduced_jpeg_is_like_the_whole_one(tmp_path: Path) -> None:
    """DCT-scaled decoding (64 px from a photo) against a full decode, box-averaged."""
    photos = unpack(PHOTOS, tmp_path / "photos")
    spec = Preprocessing(64, 64, 3)
    from PIL import Image, ImageOps

    differences = []
    for path in sorted(photos.rglob("*.JPEG"))[:40]:
        with Image.open(path) as image:
            whole = ImageOps.exif_transpose(image).convert("RGB")
        full = np.asarray(whole.resize((64, 64), Image.Resampling.BILINEAR), float)
        differences.append(np.abs(read_image(path, spec) - full).mean())
    assert np.mean(differences) < 2.0
    assert np.max(differences) < 6.0


def test_cifar_by_the_command_of_the_readme(tmp_path: Path) -> None:
    folder = unpack(CIFAR, tmp_path / "cifar", most=1500)
    done = train_model([folder], tmp_path / "m", epochs=3, latent_dim=32)
    assert done.config.preprocessing.shape == (32, 32, 3)
    assert done.psnr > 14
    with LatentDB.create(tmp_path / "db", model=tmp_path / "m") as db:
        report = db.index_images(folder / "train", labels_from_folders=True)
        labels = {m["label"] for m in (dict(x.metadata) for x in db.query(db.ids()[0], k=50))}
        assert report.bad == ()
        assert labels <= {p.name for p in (folder / "train").iterdir()}
