"""decode, blend, average, interpolate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentdb.database import LatentDB
from tests.cli.running import run, run_error, run_json


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
    assert run("blend", store, *pair, "--sheet", blend).stdout.startswith("|z| ")
    # A sheet that cannot be drawn loses no answer.
    failed = run("blend", store, *pair, "--query", 3, "--sheet", blend, code=1)
    assert len(failed.stdout.splitlines()) == 5
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


def test_a_recipe_is_decoded_and_placed(store: Path, tmp_path: Path) -> None:
    text = 'mean(label == "square") - mean(label == "disc") + id:disc/000.png'
    out = tmp_path / "r.png"
    lines = run(
        "decode", store, "--recipe", text, "--out", out, "--save", "square_off"
    ).stdout.splitlines()
    assert lines[0] == str(out)
    assert lines[1] == "saved as @square_off, of 81 rows"
    assert lines[2].startswith("|z| ")
    assert "drift |encode(decode(z)) - z|" in lines[2]
    assert lines[3].startswith("nearest: ")
    found = run_json("decode", store, "--recipe", "2 * @square_off", "--out", out, "--force")
    with LatentDB.open(store) as db:
        np.testing.assert_allclose(found["vector"], 2 * db.recipe(text).vector, rtol=1e-5)
    assert found["position"]["norm"] == pytest.approx(np.linalg.norm(found["vector"]), rel=1e-5)
    assert len(found["position"]["nearest"]) == 3
    assert f"@square_off  {text}  (81 rows)" in run("recipes", store).stdout
    assert run_json("recipes", store, "--delete", "@square_off") == {"recipes": []}
    assert "no recipe @square_off" in run("query", store, "recipe:@square_off", code=1).stderr


def test_weights_of_sum_zero_are_a_difference(store: Path, tmp_path: Path) -> None:
    pair = ["disc/000.png", "square/000.png"]
    found = run_json("blend", store, *pair, "--weights", "1,-1", "--out", tmp_path / "d.png")
    with LatentDB.open(store) as db:
        vectors = db.vectors(pair)
    np.testing.assert_allclose(found["vector"], vectors[0] - vectors[1], rtol=1e-5)
    assert found["position"]["drift"] > 0


def test_options_of_a_recipe(store: Path, tmp_path: Path) -> None:
    both = run("decode", store, "disc/000.png", "--recipe", "mean()", "--out", tmp_path, code=2)
    assert "give one of TARGETS" in both.stderr
    assert "give --out" in run("decode", store, "--recipe", "mean()", code=2).stderr
    saved = run("decode", store, "--all", "--save", "x", "--out", tmp_path / "x", code=2)
    assert "--save NAME saves a --recipe" in saved.stderr


def test_a_picture_to_stdout(store: Path, tmp_path: Path) -> None:
    names = ("disc/000.png", "square/001.png")
    for words, said in (
        (("blend", store, *names, "--query", 2, "--out"), "disc/"),
        (("average", store, "--out"), "average of 80 rows"),
        (("interpolate", store, *names, "--steps", 3, "--sheet"), "3 steps"),
        (("decode", store, names[0], "--out"), ""),
        (("decode", store, *names, "--compare", "--sheet"), ""),
        (("query", store, names[0], "-k", 2, "--sheet"), "disc/000.png"),
        (("show", store, names[0], "--out"), "disc/000.png"),
    ):
        run(*words, tmp_path / "a.png", "--force")
        done = run(*words, "-")
        assert done.stdout_bytes == (tmp_path / "a.png").read_bytes(), words
        assert said in done.stderr
    assert not Path("-").exists()
    assert "another output is -, too" in run_error(
        "blend", store, *names, "--out", "-", "--sheet", "-", code=2
    )
    assert "- is one picture" in run_error("decode", store, "--all", "--out", "-")
