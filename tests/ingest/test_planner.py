"""Which files are new, and which are bad."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np

from latentdb.database import LatentDB
from latentdb.images.decode import read_image
from latentdb.images.discover import BadFile, Candidate
from tests.conftest import make_images
from tests.ingest.conftest import SPEC, ids, planner_of


def test_bad_files_are_listed_apart_from_good_ones(empty: LatentDB, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "in", 2)
    (folder / "disc" / "001.png").write_bytes(b"no image")
    os.mkfifo(folder / "pipe.png")
    images = planner_of(empty, folder)
    found: list[Candidate | BadFile] = [
        Candidate("disc/000.png", str(folder / "disc/000.png"), 0),
        Candidate("disc/001.png", str(folder / "disc/001.png"), 0),
        BadFile("gone", "permission denied"),
        Candidate("pipe.png", str(folder / "pipe.png"), 0),
        Candidate("square/000.png", str(folder / "square/000.png"), 0),
    ]
    batch = images.read(found, images.look_up(found), threading.Event())
    assert ids(batch) == ["disc/000.png", "square/000.png"]
    assert [Path(bad.path).name for bad in batch.bad] == ["001.png", "gone", "pipe.png"]
    expected = [read_image(folder / name, SPEC) for name in ids(batch)]
    assert np.array_equal(batch.pixels, np.stack(expected))
