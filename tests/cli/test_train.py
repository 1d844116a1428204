"""train and model."""

from __future__ import annotations

from pathlib import Path

from tests.cli.running import run, run_json
from tests.conftest import make_images


def test_model_prints_the_layers(model: Path) -> None:
    assert "z_sampling" in run("model", model).stdout
    assert run_json("model", model)["latent_dim"] == 4


def test_train_prints_numbers_that_agree_with_their_nouns(images: Path, tmp_path: Path) -> None:
    settings = ("--epochs", 1, "--latent-dim", 2, "--arch", "mlp")
    lines = run("train", images, "--out", tmp_path / "m", *settings).stdout.splitlines()
    assert lines[0] == "trained on 72 of 80 images at 16x16x3, 8 held out"
    assert lines[1].startswith("1 epoch in ")


def test_train_info_and_index_give_the_verdict(images: Path, tmp_path: Path) -> None:
    settings = ("--preset", "fast", "--latent-dim", 40, "--image-size", 8, "--channels", 1)
    done = run("train", images, "--out", tmp_path / "m", *settings)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("reconstructions ")]
    assert "PCA-40 " in line
    assert "mean image " in line
    assert "neighbour agreement" not in line  # 8 images are held out
    made = run("index", tmp_path / "a.ldb", images, "--model", tmp_path / "m")
    assert f"note: {line}" in made.stderr
    assert f"verdict   {line}" in run("info", tmp_path / "a.ldb").stdout
    assert "neighbour" not in run("index", tmp_path / "a.ldb", images).stderr


def test_dead_dimensions_are_a_warning(tmp_path: Path) -> None:
    images = make_images(tmp_path / "few", 6)
    done = run("train", images, "--out", tmp_path / "m", "--preset", "fast", "--latent-dim", 20)
    assert "Warning: " in done.stderr
    assert " dimensions of 20 are dead, equal for all images: use a latent size of " in done.stderr
