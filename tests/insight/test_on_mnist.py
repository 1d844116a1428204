"""What recipes and outliers are for, on real digits: ones become sevens, strangers are found."""

from __future__ import annotations

import gzip
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from latentdb.database import LatentDB
from latentdb.model.training import train_model
from tests.conftest import SHARED

MNIST = SHARED / "mnist"
TEXT = "{strength} * (mean(label == 7 and part == 0) - mean(label == 1 and part == 0)) + id:{one}"


def mnist(name: str, offset: int) -> NDArray[np.uint8]:
    """The values of a file of MNIST."""
    path = MNIST / f"t10k-{name}-ubyte.gz"
    if not path.exists():
        pytest.skip(f"MNIST is not in {MNIST}")
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=offset)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 6,000 digits, preset fast; in part 1 are 200 ones that no mean is taken of."""
    images, labels = mnist("images-idx3", 16).reshape(-1, 28, 28)[:6_000], mnist("labels-idx1", 8)
    labels = labels[:6_000]
    folder = tmp_path_factory.mktemp("mnist")
    model = folder / "model"
    (folder / "some").mkdir()
    for number in range(2_000):
        Image.fromarray(images[number]).save(folder / f"some/{number}.png")
    train_model([folder / "some"], model, preset="fast")
    part = np.zeros(len(labels), int)
    part[np.flatnonzero(labels == 1)[:200]] = 1
    with LatentDB.create(folder / "s.ldb", model) as db:
        ids = [str(number) for number in range(len(labels))]
        columns = {"label": labels.tolist(), "part": part.tolist()}
        db.add_images(ids, images, metadata=columns)
    return folder / "s.ldb"


def label_of(db: LatentDB, one: str, strength: float) -> int:
    """The most frequent label of the ten rows nearest to a one that was moved."""
    text = "recipe:" + TEXT.format(strength=strength, one=one)
    found = db.query(text, k=10, where=f'id != "{one}"')
    return int(Counter(match.metadata["label"] for match in found).most_common(1)[0][0])


def test_ones_become_sevens(digits: Path) -> None:
    with LatentDB.open(digits) as db:
        ones = db.ids(where="label == 1 and part == 1")
        chosen_on, held_out = ones[:100], ones[100:]
        shares = {
            strength: np.mean([label_of(db, one, strength) == 7 for one in chosen_on])
            for strength in (0.5, 1.0, 1.5, 2.0)
        }
        best = max(shares, key=lambda strength: shares[strength])
        assert sum(label_of(db, one, 0.0) == 1 for one in held_out) >= 90
        moved = sum(label_of(db, one, best) == 7 for one in held_out)
        assert moved >= 90


def test_noise_and_photographs_are_no_digits(digits: Path, tmp_path: Path) -> None:
    photos = SHARED / "photos-200.tar"
    if not photos.exists():
        pytest.skip(f"no photographs in {photos}")
    images = tmp_path / "images"
    images.mkdir()
    for number, digit in enumerate(mnist("images-idx3", 16).reshape(-1, 28, 28)[:2_000]):
        Image.fromarray(digit).save(images / f"{number}.png")
    rng = np.random.default_rng(0)
    for number in range(20):
        noise = Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8))
        noise.save(images / f"noise-{number}.png")
    with tarfile.open(photos) as archive:
        for number in range(20):
            file = archive.extractfile(archive.next() or "")
            assert file is not None
            Image.open(file).convert("L").resize((28, 28)).save(images / f"photo-{number}.png")
    with LatentDB.create(tmp_path / "a.ldb", digits / "model") as db:
        db.index_images(images)
        first = [row.id for row in db.outliers(80, by="error").top]
    assert sum(name.startswith("noise") for name in first) >= 18
    assert sum(name.startswith("photo") for name in first) >= 18
