"""What many tests share: small real images, and a small VAE trained once a run."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image, ImageDraw

from latentdb.database import LatentDB
from latentdb.kerasfile.runtime import load_keras
from latentdb.model.outcome import TrainReport
from latentdb.model.training import train_model

# Python leaves a cut .pyc behind where a test lets a small file limit cut its writes.
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
sys.dont_write_bytecode = True

settings.register_profile("latentdb", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("latentdb")

SIZE = 16
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

# A shell starts what it runs in the background with SIGINT ignored, and so would be the
# processes that tests start and send Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def draw_shape(kind: str, seed: int) -> Image.Image:
    """A disc or a square somewhere on a dark ground, the same for the same seed."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (SIZE, SIZE), tuple(random.integers(0, 60, 3).tolist()))
    left, top = random.integers(1, 6, 2).tolist()
    box = (left, top, left + 8, top + 8)
    colour = tuple(random.integers(120, 256, 3).tolist())
    draw = ImageDraw.Draw(image)
    (draw.ellipse if kind == "disc" else draw.rectangle)(box, fill=colour)
    return image


def make_images(folder: Path, each: int, seed: int = 0) -> Path:
    for place, kind in enumerate(("disc", "square")):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            picture = draw_shape(kind, 1000 * seed + 2 * number + place)
            picture.save(folder / kind / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 images in two folders, disc and square; not to be changed."""
    return make_images(tmp_path_factory.mktemp("images") / "shapes", 40)


@pytest.fixture(scope="session")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainReport:
    """What training the model of `model` reported."""
    out = tmp_path_factory.mktemp("model") / "model"
    return train_model([images], out, latent_dim=4, epochs=6, batch=16)


@pytest.fixture(scope="session")
def model(trained: TrainReport) -> Path:
    """A small model folder; not to be changed."""
    return Path(trained.path)


@pytest.fixture(scope="session")
def _filled(images: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "shapes.ldb"
    with LatentDB.create(path, model=model) as db:
        db.index_images(images, labels_from_folders=True)
        db.compact()  # on a slow machine the first half second is a segment of its own
    return path


@pytest.fixture(scope="session")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conditional VAEs of two classes, of random weights; not to be changed.

    ``encoder.keras`` and ``decoder.keras`` take a one-hot class, ``embedding.keras`` is a
    decoder that looks its number up, ``plain.keras`` an encoder without a condition.
    """
    keras = load_keras()
    layers = keras.layers
    keras.utils.set_random_seed(4)
    folder = tmp_path_factory.mktemp("conditional")

    def encoder(image: Any, *conditions: Any) -> Any:
        hidden = layers.Flatten()(image)
        if conditions:
            hidden = layers.Concatenate()([hidden, *conditions])
        hidden = layers.Dense(24, activation="relu")(hidden)
        outputs = [layers.Dense(4, name=name)(hidden) for name in ("z_mean", "z_log_var")]
        return keras.Model([image, *conditions] if conditions else image, outputs, name="encoder")

    def decoder(latent: Any, condition: Any, code: Any) -> Any:
        hidden = layers.Dense(24, activation="relu")(layers.Concatenate()([latent, code]))
        pixels = layers.Dense(SIZE * SIZE * 3, activation="sigmoid")(hidden)
        image = layers.Reshape((SIZE, SIZE, 3))(pixels)
        return keras.Model([latent, condition], image, name="decoder")

    image, latent = keras.Input((SIZE, SIZE, 3), name="image"), keras.Input((4,), name="z")
    one_hot, number = keras.Input((2,), name="label"), keras.Input((), name="y", dtype="int32")
    encoder(image, one_hot).save(folder / "encoder.keras")
    encoder(image).save(folder / "plain.keras")
    decoder(latent, one_hot, one_hot).save(folder / "decoder.keras")
    embedded = layers.Embedding(2, 3, keras.initializers.RandomNormal(stddev=2))(number)
    decoder(latent, number, embedded).save(folder / "embedding.keras")
    return folder


@pytest.fixture
def store(_filled: Path, tmp_path: Path) -> Path:
    """A store of `images`, of which every test has its own copy."""
    return Path(shutil.copytree(_filled, tmp_path / "shapes.ldb"))
