"""scripts/bench_latents on digits drawn here: it scores, appends, and goes on where it was."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def draw_digits(folder: Path) -> None:
    """150 pictures of three classes, bars at three places, in the files of MNIST."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 150).astype(np.uint8)
    pixels = random.integers(0, 60, (150, 28, 28)).astype(np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[:, 8 * label + 2 : 8 * label + 6] = 220
    folder.mkdir()
    for name, header, values in (("images", 16, pixels), ("labels", 8, labels)):
        file = folder / f"t10k-{name}-idx{3 if name == 'images' else 1}-ubyte.gz"
        file.write_bytes(gzip.compress(bytes(header) + values.tobytes()))


def test_runs_are_appended_and_not_repeated(tmp_path: Path) -> None:
    draw_digits(tmp_path / "mnist")
    runs = tmp_path / "runs.jsonl"

    def bench(models: str) -> str:
        words = [runs, "--data", tmp_path, "--sets", "mnist", "--models", models]
        return subprocess.run(
            [sys.executable, ROOT / "scripts/bench_latents", *words, "--minutes", "0.01"],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        ).stdout  # fmt: skip

    assert "| mnist | pca |" in bench("pixels,pca")
    first = runs.read_text()
    runs.write_text(first + '{"set": "mnist", "mod')  # a run that was killed
    with_more = bench("pca,reconstruction")
    assert len(with_more.splitlines()) == 2 + 3
    rows = [json.loads(line) for line in runs.read_text().splitlines() if line.endswith("}")]
    assert [row["model"] for row in rows] == ["pixels", "pca", "reconstruction"]
    assert all(row["l2"] == [1.0, 1.0] for row in rows)
    assert abs(rows[2]["psnr_db"] - rows[1]["psnr_db"]) < 1
    assert "psnr_db" not in rows[0]
