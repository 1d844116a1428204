"""Training: from image files to a model folder."""

from __future__ import annotations

import csv
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentdb.base.errors import (
    AlreadyExistsError,
    ImageError,
    InvalidInputError,
    ModelError,
    NotFoundError,
)
from latentdb.base.outputs import write_folder
from latentdb.base.progress import Progress
from latentdb.model import outcome
from latentdb.model.codec import Codec
from latentdb.model.outcome import TrainReport, psnr
from latentdb.model.training import train_model
from latentdb.onnx import export, runtime
from latentdb.onnx.compiled import ONNX_FILES
from tests.conftest import draw_shape


def test_the_folder_is_complete(trained: TrainReport) -> None:
    folder = Path(trained.path)
    names = {path.name for path in folder.iterdir()}
    assert names - set(ONNX_FILES) == {
        "encoder.keras", "decoder.keras", "model.json", "history.csv", "pictures.png",
    }  # fmt: skip
    assert names >= (set(ONNX_FILES) if runtime.is_available() and export.is_available() else set())
    config = json.loads((folder / "model.json").read_text())
    assert config["preprocessing"]["resize"] == "stretch"
    assert config["about"]["seed"] == 0
    assert set(config["about"]["versions"]) >= {"tensorflow", "keras", "latentdb"}
    assert config["about"]["losses"]["val_loss"] > 0
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == [str(n) for n in range(7)]  # 0 is the start
    assert rows[0]["loss"] == ""
    assert {"reconstruction_loss", "kl_loss", "val_reconstruction_loss", "val_kl_loss"} <= set(
        rows[0]
    )
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]


def test_the_report_says_what_happened(trained: TrainReport) -> None:
    assert (trained.images, trained.validation_images, trained.found) == (72, 8, 80)
    assert trained.config.latent_dim == 4
    assert trained.config.preprocessing.shape == (16, 16, 3)
    assert trained.stopped == "epochs"
    assert trained.losses["val_loss"] < 100


def test_minutes_alone_have_no_limit_of_epochs(images: Path, tmp_path: Path) -> None:
    options = {"minutes": 0.1, "latent_dim": 2, "image_size": (8, 8), "patience": 10**6}
    done = train_model([images], tmp_path / "m", preset="reconstruction", **options)
    assert done.stopped == "minutes"


def test_reconstructions_are_below_their_originals(trained: TrainReport) -> None:
    with Image.open(Path(trained.path) / "pictures.png") as page:
        # Every 16 px image is enlarged to 96, pixel for pixel.
        rows = [np.asarray(page)[top : top + 96 : 6] for top in (4, 118)]
    originals, rebuilt = (
        np.stack([row[:, 4 + 100 * n : 100 + 100 * n : 6] for n in range(8)]) for row in rows
    )
    codec = Codec.from_folder(trained.path)
    assert len(np.unique(originals.reshape(8, -1), axis=0)) == 8
    assert np.array_equal(codec.decode(codec.encode(originals)[0]), rebuilt)


def test_the_picture_page_has_a_row_for_everything(trained: TrainReport) -> None:
    with Image.open(Path(trained.path) / "pictures.png") as page:
        # Two of reconstructions, two of samples, two interpolations, a traversal of each dimension.
        assert page.size == (4 + 8 * 100, 4 + 10 * 100 + 11 * 14)


def test_grey_images_make_a_grey_model_of_their_size(tmp_path: Path) -> None:
    grey = tmp_path / "grey"
    grey.mkdir()
    for number in range(12):
        draw_shape("disc", number).convert("L").resize((40, 30)).save(grey / f"{number}.png")
    done = train_model([grey], tmp_path / "m", epochs=1, latent_dim=2)
    assert done.config.preprocessing.shape == (30, 30, 1)
    assert done.notes == (
        "trained for reconstruction alone, without semantic dimensions: the images are grey",
    )
    other = train_model([grey], tmp_path / "n", epochs=1, latent_dim=2, arch="mlp")
    assert other.config.preprocessing.shape == (30, 30, 1)


def test_the_same_seed_gives_the_same_model(images: Path, tmp_path: Path) -> None:
    options = {"epochs": 1, "latent_dim": 2, "arch": "mlp", "seed": 4, "deterministic": True}
    configs = [
        train_model([images], tmp_path / name, **options).config  # type: ignore[arg-type]
        for name in ("a", "b")
    ]
    assert configs[0].encoder_fingerprint == configs[1].encoder_fingerprint
    assert configs[0].decoder_fingerprint == configs[1].decoder_fingerprint


def test_the_process_is_left_as_it_was(images: Path, tmp_path: Path) -> None:
    """In a process of its own: nothing turns op determinism off again."""
    code = """
import random, sys
import numpy as np
from latentdb.kerasfile.runtime import load_keras
from latentdb.model.training import train_model
keras = load_keras()
import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled

def draw():
    return [random.random(), np.random.rand(), float(keras.random.uniform(())),
            float(tf.random.uniform(()))]

keras.utils.set_random_seed(9)
expected = draw()
keras.utils.set_random_seed(9)
train_model([sys.argv[1]], sys.argv[2], epochs=1, latent_dim=2, arch="mlp", seed=4)
assert draw() == expected
assert not is_op_determinism_enabled()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(images), str(tmp_path / "m")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_folder_of_a_killed_training_is_no_model(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, bytes] = {}
    with monkeypatch.context() as patched:
        patched.setattr(outcome, "write_folder", lambda _, files: written.update(files))
        train_model([images], tmp_path / "m", epochs=1, latent_dim=2, arch="mlp")
    assert list(written)[-1] == "model.json"
    code = (
        "import os, pickle, sys\n"
        "from latentdb.base import outputs\n"
        "outputs.os.rename = lambda *_: os._exit(9)\n"
        "outputs.write_folder(sys.argv[1], pickle.load(sys.stdin.buffer))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m")], input=pickle.dumps(written), check=False
    )
    assert process.returncode == 9
    (left,) = tmp_path.iterdir()
    with pytest.raises(ModelError, match="is what a training that was killed left behind"):
        Codec.from_folder(left)
    # A part of it is no model under any name.
    part = tmp_path / "part"
    part.mkdir()
    for name, data in written.items():
        with pytest.raises(NotFoundError, match=r"model\.json does not exist"):
            Codec.from_folder(part)
        (part / name).write_bytes(data)
    # The next run deletes it.
    write_folder(tmp_path / "m", written)
    assert {path.name for path in tmp_path.iterdir()} == {"m", "part"}
    assert Codec.from_folder(tmp_path / "m").has_decoder


def test_bad_files_are_reported_and_strict_refuses_them(images: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    done = train_model([images, tmp_path], tmp_path / "m", epochs=1, latent_dim=2, arch="mlp")
    assert [(Path(bad.path).name, bad.reason) for bad in done.bad] == [("empty.png", "empty file")]
    with pytest.raises(ImageError, match="empty file"):
        train_model([images, tmp_path / "empty.png"], tmp_path / "n", epochs=1, strict=True)
    assert not (tmp_path / "n").exists()


def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m"
    with pytest.raises(NotFoundError, match="does not exist"):
        train_model([tmp_path / "none"], out)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InvalidInputError, match="no images in"):
        train_model([tmp_path / "nothing"], out)
    with pytest.raises(InvalidInputError, match="1 readable image cannot train"):
        train_model([images / "disc/000.png"], out)
    with pytest.raises(InvalidInputError, match="0 epochs"):
        train_model([images], out, epochs=0)
    with pytest.raises(InvalidInputError, match="a batch of 0: give 1 to 65,536"):
        train_model([images], out, batch=0)
    with pytest.raises(InvalidInputError, match="a seed of -1: give 0 to 2,147,483,647"):
        train_model([images], out, seed=-1)
    for size in (0, 4097):
        with pytest.raises(InvalidInputError, match=rf"latent size of {size}: give 1 to 4,096 dim"):
            train_model([images], out, latent_dim=size)
    with pytest.raises(InvalidInputError, match="-1 minutes"):
        train_model([images], out, minutes=-1)
    with pytest.raises(InvalidInputError, match="validation share of 1"):
        train_model([images], out, validation=1)
    with pytest.raises(InvalidInputError, match=r"127x64 cannot .* use multiples of 2, such as"):
        train_model([images], out, image_size=(127, 64))
    with pytest.raises(
        InvalidInputError, match="architecture 'cnn' is unknown: use one of conv, mlp"
    ):
        train_model([images], out, arch="cnn")
    with pytest.raises(InvalidInputError, match="preset 'best' is unknown: use one of balanced, "):
        train_model([images], out, preset="best")
    with pytest.raises(InvalidInputError, match="mlp architecture, which has none: use conv"):
        train_model([images], out, preset="fast", arch="mlp")
    with pytest.raises(InvalidInputError, match="2 channels"):
        train_model([images], out, channels=2)
    assert not out.exists()
    out.mkdir()
    (out / "precious").touch()
    with pytest.raises(AlreadyExistsError, match="exists: give another path"):
        train_model([images], out)


def test_a_large_collection_is_sampled(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentdb.images.sampling.MAX_IMAGES", 30)
    done = train_model([images], tmp_path / "m", epochs=1, latent_dim=2, arch="mlp")
    assert (done.found, done.images + done.validation_images) == (80, 30)


def test_progress_is_reported(images: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    train_model([images], tmp_path / "m", epochs=2, latent_dim=2, arch="mlp", report=seen.append)
    stages = [at.stage.split()[0] for at in seen]
    assert stages[0] == "reading"
    assert stages[-1] == "epoch"
    assert seen[-1].done == seen[-1].total


def test_psnr_against_its_formula() -> None:
    black = np.zeros((1, 2, 2, 1), np.uint8)
    assert psnr(black, black + 255)[0] == pytest.approx(0.0)
    assert psnr(black, black + 1)[0] == pytest.approx(48.1308, abs=1e-4)
    assert psnr(black, black)[0] == np.inf


def test_exact_reconstructions_are_finite_in_the_config(tmp_path: Path) -> None:
    for number in range(12):
        Image.new("RGB", (16, 16), (number % 2 * 255,) * 3).save(tmp_path / f"{number}.png")
    done = train_model([tmp_path], tmp_path / "m", preset="fast", latent_dim=2)
    assert done.psnr == 100
    text = (tmp_path / "m" / "model.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["about"]["validation_psnr_db"] == 100


def test_ctrl_c_keeps_the_best_weights(images: Path, tmp_path: Path) -> None:
    """A real process, interrupted in the middle of its training."""
    out = tmp_path / "m"
    code = (
        "import sys, os, signal\n"
        "from latentdb.model.training import train_model\n"
        "def report(at):\n"
        "    if at.stage.startswith('epoch 4'): print('here', flush=True); sys.stdin.read(1)\n"
        "done = train_model([sys.argv[1]], sys.argv[2], latent_dim=2, arch='mlp',\n"
        "                   epochs=100000, patience=100000, report=report)\n"
        "print(done.stopped, done.epochs)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(images), str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    os.kill(process.pid, signal.SIGINT)
    rest, _ = process.communicate("x" * 1000, timeout=120)
    assert rest.splitlines()[-1] == "interrupted 4"
    assert Codec.from_folder(out).config.about["stopped"] == "interrupted"


def test_archives_train_as_folders_do(images: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shapes.tar", "w") as tar:
        tar.add(images, "shapes")
    done = train_model([tmp_path / "shapes.tar"], tmp_path / "m", preset="fast", latent_dim=4)
    assert (done.found, done.images + done.validation_images, done.bad) == (80, 80, ())
    assert done.config.preprocessing.shape == (16, 16, 3)
    same = train_model([images], tmp_path / "same", preset="fast", latent_dim=4)
    assert done.psnr == pytest.approx(same.psnr, abs=3)  # other images are held out
