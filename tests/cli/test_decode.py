"""decode, blend, average, interpolate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from latentdb.database import LatentDB
from tests.cli.running import run, run_json


def test_blend_average_interpolate(store: Path, tmp_path: Path) -> None:
    pair = ("disc/000.png", "square/000.png")
    run("blend", store, *pair, "--weights", "1,0", "--out", tmp_path / "blend.png")
    run("decode", store, pair[0], "--out", tmp_path / "decode.png")
    assert (tmp_path / "blend.png").read_bytes() == (tmp_path / "decode.png").read_bytes()
    found = run_json("blend", store, *pair, "--weights", "3,1", "--query", 2, "--method", "slerp")
    assert len(found["vector"]) == 4
    assert len(found["matches"]["matches"]) == 2
    mean = run_json("average", store, "--where", 'label == "disc"', "--out", tmp_path / "mean.npy")
    assert mean["rows"] == 40
    with LatentDB.open(store) as db:
        expected = db.vectors(db.ids(where='label == "disc"')).mean(axis=0)
    assert np.allclose(np.load(tmp_path / "mean.npy"), expected, atol=1e-6)
    run("interpolate", store, *pair, "--steps", 4, "--out", tmp_path / "path.gif")
    with Image.open(tmp_path / "path.gif") as picture:
        assert picture.n_frames == 6


def test_sheets_of_what_is_composed(store: Path, tmp_path: Path) -> None:
    pair = ("disc/000.png", "square/000.png")
    mean, path, blend = (str(tmp_path / f"{name}.png") for name in ("mean", "path", "blend"))
    said = run("average", store, "--where", 'label == "disc"', "--sheet", mean)
    assert said.stdout == f"{mean}: average of 40 rows\n"
    assert run("interpolate", store, *pair, "--sheet", path).stdout == f"{path}: 10 steps\n"
    assert run("blend", store, *pair, "--sheet", blend).stdout == ""
    # A sheet that cannot be drawn loses no answer.
    failed = run("blend", store, *pair, "--query", 3, "--sheet", blend, code=1)
    assert len(failed.stdout.splitlines()) == 3
    assert "blend.png exists" in failed.stderr
    for arguments in (["blend", store, *pair], ["average", store], ["interpolate", store, *pair]):
        assert "give --out PNG" in run(*arguments, code=2).stderr
    for name in (mean, path, blend):
        with Image.open(name) as picture:
            assert picture.width > 300


def test_decode_compares_and_enlarges(store: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    run("decode", store, "disc/000.png", "--out", tmp_path / "big.png", "--scale", 4)
    run("decode", store, "--all", "--sheet", sheet, "--compare")
    with Image.open(tmp_path / "big.png") as picture:
        assert picture.size == (64, 64)
    with Image.open(sheet) as picture:
        assert picture.width == 4 + 5 * (6 * 33 + 4)
    said = run("decode", store, "--all", "--out", tmp_path / "x", "--compare", code=1).stderr
    assert "compare is of contact sheets: give sheet, too" in said
