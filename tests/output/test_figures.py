"""A few latents as a file: vectors, images, animations, sheets of a query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentdb.base.errors import InvalidInputError, StoreError
from latentdb.database import LatentDB
from latentdb.output.figures import Sought, write_query
from latentdb.output.query_sheet import AGREES, DIFFERS
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


SIDE = 128  # of an image of 16 pixels on the sheet of a query
ACROSS, DOWN = SIDE + 2 * 4 + 10, SIDE + 2 * 4 + 6 + 3 * 17 + 10


def cell(pixels: Any, left: int, top: int) -> Any:
    """The image of 16x16 pixels at a corner, made small again."""
    return pixels[top + 4 : top + 4 + SIDE : 8, left + 4 : left + 4 + SIDE : 8]


def test_a_sheet_shows_query_reconstruction_and_matches(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        matches = db.query("disc/003.png", k=12)
        db.sheet("disc/003.png", matches, tmp_path / "sheet.png")
        rebuilt = db.decode("disc/003.png")[0]
        originals = [np.asarray(Image.open(match.path or "")) for match in matches]
    with Image.open(tmp_path / "sheet.png") as picture:
        pixels = np.asarray(picture)
    assert np.array_equal(cell(pixels, 16, 16), originals[0])
    assert np.array_equal(cell(pixels, 16, 16 + DOWN), rebuilt)
    left = 16 + ACROSS + 20
    for number, original in enumerate(originals):
        row, column = divmod(number, 5)
        corner = (left + column * ACROSS, 16 + row * DOWN)
        assert np.array_equal(cell(pixels, *corner), original)
        agrees = matches[number].metadata["label"] == "disc"
        frame = tuple(pixels[corner[1], corner[0]].tolist())
        assert frame == (AGREES if agrees else DIFFERS)


def test_a_sheet_draws_photos_as_they_are_up_to_256_pixels(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    wide = Image.linear_gradient("L").resize((900, 300)).convert("RGB")
    wide.save(folder / "猫 é.png")
    with LatentDB.create(tmp_path / "a.ldb", model=model) as db:
        db.index_images(folder)
        matches = db.query(folder / "猫 é.png", k=1)
        db.sheet(folder / "猫 é.png", matches, tmp_path / "sheet.png")
        db.sheet(None, matches, tmp_path / "like.png", like=["猫 é.png"])
    with Image.open(tmp_path / "sheet.png") as picture:
        pixels = np.asarray(picture).astype(int)
    top = 16 + 4 + (256 - 85) // 2
    shown = np.asarray(wide.resize((256, 85), Image.Resampling.BOX), int)
    assert np.abs(pixels[top : top + 85, 20 : 20 + 256] - shown).max() < 12
    assert (tmp_path / "like.png").is_file()


def test_a_sheet_draws_a_missing_image_from_its_latent(tmp_path: Path, model: Path) -> None:
    folder = make_images(tmp_path / "in", 2)
    with LatentDB.create(tmp_path / "a.ldb", model=model) as db:
        db.index_images(folder)
        (folder / "disc/001.png").unlink()
        matches = db.query("disc/001.png", k=1)
        db.sheet("disc/001.png", matches, tmp_path / "sheet.png")
        rebuilt = db.decode("disc/001.png")[0]
    with Image.open(tmp_path / "sheet.png") as picture:
        assert np.array_equal(cell(np.asarray(picture), 16, 16), rebuilt)


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
        (target,) = db._resolve(db._snapshot(), ["disc/000.png"])
        with pytest.raises(InvalidInputError, match="100,000 images of 256x256"):
            write_query(db.codec, [Sought(target)], found, vectors, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
