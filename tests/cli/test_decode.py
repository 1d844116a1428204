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
