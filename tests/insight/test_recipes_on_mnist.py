"""What recipes are for, on real digits: ones become sevens."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentdb.database import LatentDB
from latentdb.model.training import train_model
from tests.conftest import SHARED

MNIST = SHARED / "mnist"
TEXT = "{strength} * (mean(label == 7 and part == 0) - mean(label == 1 and part == 0)) + id:{one}"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 6,000 digits, preset fast; in part 1 are 200 ones that no mean is taken of."""
    if not (MNIST / "t10k-images-idx3-ubyte.gz").exists():
        pytest.skip(f"MNIST is not in {MNIST}")
    images, labels = (
        np.frombuffer(
            gzip.decompress((MNIST / f"t10k-{name}-ubyte.gz").read_bytes()), np.uint8, offset=offset
        )
        for name, offset in (("images-idx3", 16), ("labels-idx1", 8))
    )
    images, labels = images.reshape(-1, 28, 28)[:6_000], labels[:6_000]
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
