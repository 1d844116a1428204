"""Originals of rows: those that are there are read, in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latentdb import LatentDB
from latentdb.images.decode import read_image
from latentdb.insight.originals import read_originals
from tests.conftest import make_images


def test_what_can_be_read(model: Path, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 50)
    with LatentDB.create(tmp_path / "a.ldb", model=model) as db:
        db.index_images(images)
        (images / "disc/001.png").unlink()
        (images / "disc/003.png").write_bytes(b"\x89PNG, but no more")
        snapshot, spec = db._snapshot(), db.codec.config.preprocessing
        rows = snapshot.live_rows()
        indices, found = read_originals(snapshot, rows, spec)
        paths = snapshot.paths(rows)
    missing = [number for number, path in enumerate(paths) if path and path[-12:] in (
        "disc/001.png", "disc/003.png")]  # fmt: skip
    assert sorted([*indices.tolist(), *missing]) == list(range(100))
    assert len(missing) == 2
    for index, image in zip(indices.tolist(), found, strict=True):
        np.testing.assert_array_equal(image, read_image(str(paths[index]), spec))
