"""A few latents as a file: vectors, images, animations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentdb.base.errors import InvalidInputError, StoreError
from latentdb.database import LatentDB


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


def test_what_cannot_be_written_is_refused(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        vector = db.vectors(["disc/000.png"])[0]
        with pytest.raises(InvalidInputError, match=r"cannot write '\.xyz' files, use one of"):
            db.write(vector, tmp_path / "a.xyz")
        with pytest.raises(InvalidInputError, match=r"cannot write '\.xyz' files, use one of"):
            db.decode_to(["disc/000.png"], tmp_path / "a.xyz")
        (tmp_path / "file").touch()
        with pytest.raises(StoreError, match="cannot be written"):
            db.write(vector, tmp_path / "file" / "a.png")
        with pytest.raises(StoreError, match="cannot be written"):
            db.write(vector, tmp_path / "file" / "a.npy")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_images_are_enlarged_by_a_whole_factor(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        vectors = db.vectors(["disc/000.png", "square/000.png"])
        expected = db.decode(vectors).repeat(3, axis=1).repeat(3, axis=2)
        db.write(vectors[0], tmp_path / "one.png", scale=3)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "one.png")), expected[0])
        db.decode_to(db.ids()[:2], tmp_path / "folder", scale=3)
        written = [tmp_path / "folder" / name for name in db.ids()[:2]]
        decoded = db.decode(db.ids()[:2]).repeat(3, axis=1).repeat(3, axis=2)
        for file, pixels in zip(written, decoded, strict=True):
            assert np.array_equal(np.asarray(Image.open(file)), pixels)
        for scale in (0, -1, 65, 1.5, "2"):
            with pytest.raises(InvalidInputError, match=f"scale {scale!r} cannot be used: give a"):
                db.write(vectors[0], tmp_path / "a.png", scale=scale)  # type: ignore[arg-type]
            with pytest.raises(InvalidInputError, match=f"scale {scale!r} cannot be used: give a"):
                db.decode_to(db.ids()[:1], tmp_path / "b", scale=scale)  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match=r"a\.npy: latents have no scale"):
            db.write(vectors[0], tmp_path / "a.npy", scale=2)
        with pytest.raises(InvalidInputError, match="scale is of the pictures that out writes"):
            db.decode_to(db.ids(), tmp_path / "a.npy", scale=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "folder", "one.png", "shapes.ldb",
    ]  # fmt: skip


def test_one_picture_has_at_most_2_gib_of_pixels(store: Path, tmp_path: Path) -> None:
    most = 2**31 // (96 * 96 * 3)  # the images have 16x16 pixels, and are drawn larger
    message = rf"{most + 1:,} images of 16x16 pixels .*: at most {most:,} do; give fewer, or \.npy"
    with LatentDB.open(store) as db:
        vectors = np.broadcast_to(db.vectors(["disc/000.png"]), (most + 1, 4))
        with pytest.raises(InvalidInputError, match=message):
            db.write(vectors, tmp_path / "a.png")
        with pytest.raises(InvalidInputError, match=message):
            db.decode_to(["disc/000.png"] * (most + 1), tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
