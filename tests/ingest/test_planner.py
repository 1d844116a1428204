"""Which files are new, changed, bad, or of an id that another source has."""

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


def test_the_first_source_owns_an_id(empty: LatentDB, tmp_path: Path) -> None:
    one, two = make_images(tmp_path / "one", 1), make_images(tmp_path / "two", 1)
    images = planner_of(empty, one, two, one / "disc" / "000.png", two / "disc" / "000.png")

    def first(name: str, number: int) -> str | None:
        return images._earlier_sources.find(Candidate(name, "", number))

    assert first("disc/000.png", 0) is None
    assert first("disc/000.png", 1) == str(one / "disc/000.png")
    assert first("disc/001.png", 1) is None
    assert first("000.png", 2) is None
    assert first("000.png", 3) == str(one / "disc/000.png")
    # Files that a search leaves out own no id.
    (one / ".hidden.png").touch()
    (one / "note.txt").touch()
    assert first(".hidden.png", 1) is None
    assert first("note.txt", 1) is None


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
