"""train and model."""

from __future__ import annotations

from pathlib import Path

from tests.cli.running import run, run_json


def test_model_prints_the_layers(model: Path) -> None:
    assert "z_sampling" in run("model", model).stdout
    assert run_json("model", model)["latent_dim"] == 4


def test_train_prints_numbers_that_agree_with_their_nouns(images: Path, tmp_path: Path) -> None:
    settings = ("--epochs", 1, "--latent-dim", 2, "--arch", "mlp")
    lines = run("train", images, "--out", tmp_path / "m", *settings).stdout.splitlines()
    assert lines[0] == "trained on 72 of 80 images at 16x16x3, 8 held out"
    assert lines[1].startswith("1 epoch in ")
