"""A few latents as a file: vectors, images, animations, sheets of a query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentdb.base.errors import InvalidInputError, StoreError
from latentdb.database import LatentDB
from latentdb.output.figures import write_query
from latentdb.search.results import Matches
from tests.conftest import make_images


def test_one_is_written_pixel_for_pixel_several_as_a_row_or_animation(
    store: Path, tmp_path: Path
) -> None:
    with LatentDB.open(store) as db:
        path = db.interpolate("disc/000.png", "square/000.png", steps=6)
        db.write(path[0], tmp_path / "one.png")
        db.write(path, tmp_path / "strip.png")
        db.write(path, tmp_path / "move.gif")
        db.write(path, tmp_path / "path.npy")
        decoded = db.decode(path)
    with Image.open(tmp_path / "one.png") as picture:
        assert np.array_equal(np.asarray(picture), decoded[0])
    with Image.open(tmp_path / "strip.png") as picture:
        assert picture.width > 6 * 96
        # The first cell is the first image, enlarged pixel for pixel.
        cell = np.asarray(picture)[4 : 4 + 96 : 6, 4 : 4 + 96 : 6]
        assert np.array_equal(cell, decoded[0])
    with Image.open(tmp_path / "move.gif") as picture:
        assert picture.n_frames == 10  # there and back
    assert np.array_equal(np.load(tmp_path / "path.npy"), path)


def test_a_sheet_shows_query_reconstruction_and_matches(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        matches = db.query("disc/003.png", k=12)
        db.sheet("disc/003.png", matches, tmp_path / "sheet.png")
        rebuilt = db.decode("disc/003.png")[0]
        original = np.asarray(Image.open(matches[0].path or ""))
    with Image.open(tmp_path / "sheet.png") as picture:
        pixels = np.asarray(picture)
    step = 100  # a cell of 96 and a gap of 4
    assert np.array_equal(pixels[4:100:6, 4:100:6], original)
    assert np.array_equal(pixels[4:100:6, 4 + step : 100 + step : 6], rebuilt)
    below = 4 + 96 + 14 + 4  # one line of caption
    assert np.array_equal(pixels[below : below + 96 : 6, 4:100:6], original)
    assert pixels.shape[1] == 4 + 10 * step
    assert pixels.shape[0] > below + 2 * 96


def test_a_sheet_draws_a_missing_image_from_its_latent(tmp_path: Path, model: Path) -> None:
    folder = make_images(tmp_path / "in", 2)
    with LatentDB.create(tmp_path / "a.ldb", model=model) as db:
        db.index_images(folder)
        (folder / "disc/001.png").unlink()
        matches = db.query("disc/001.png", k=1)
        db.sheet("disc/001.png", matches, tmp_path / "sheet.png")
        rebuilt = db.decode("disc/001.png")[0]
    with Image.open(tmp_path / "sheet.png") as picture:
        assert np.array_equal(np.asarray(picture)[4:100:6, 4:100:6], rebuilt)


def test_what_cannot_be_written_is_refused(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        vector = db.vectors(["disc/000.png"])[0]
        with pytest.raises(InvalidInputError, match=r"cannot write '\.xyz' files, use \.png"):
            db.write(vector, tmp_path / "a.xyz")
        with pytest.raises(InvalidInputError, match=r"cannot write '\.xyz' files, use \.png"):
            db.decode_to(["disc/000.png"], tmp_path / "a.xyz")
        (tmp_path / "file").touch()
        with pytest.raises(StoreError, match="cannot be written"):
            db.write(vector, tmp_path / "file" / "a.png")
        with pytest.raises(StoreError, match="cannot be written"):
            db.write(vector, tmp_path / "file" / "a.npy")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_one_picture_has_at_most_2_gib_of_pixels(store: Path, tmp_path: Path) -> None:
    most = 2**31 // (96 * 96 * 3)  # the images have 16x16 pixels, and are drawn larger
    message = rf"{most + 1:,} images of 16x16 pixels .*: at most {most:,} do; give fewer, or \.npy"
    with LatentDB.open(store) as db:
        vectors = np.broadcast_to(db.vectors(["disc/000.png"]), (most + 1, 4))
        with pytest.raises(InvalidInputError, match=message):
            db.write(vectors, tmp_path / "a.png")
        with pytest.raises(InvalidInputError, match=message):
            db.decode_to(["disc/000.png"] * (most + 1), tmp_path / "a.png")
        found: Any = Matches("l2", True, 0, (None,) * 99_998, 1.0)  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="100,000 images of 16x16"):
            write_query(db.codec, found, None, found, vectors, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
