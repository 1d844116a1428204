"""Images in memory are read as their files are, or refused where they would be misread."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentdb.base.errors import ImageError, InvalidInputError
from latentdb.images.decode import Preprocessing, read_image
from latentdb.images.values import is_image, to_pixels

SPEC = Preprocessing(24, 20, 3, "0..1", "crop")


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)


def test_all_kinds_of_one_image_are_equal(array: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path)
    expected = read_image(path, SPEC)
    opaque = np.concatenate([array, np.full((50, 70, 1), 255, np.uint8)], axis=2)
    with Image.open(path) as opened:
        values = (array, array / 255, opaque, opened, path, str(path), path.read_bytes())
        for value in values:
            np.testing.assert_array_equal(to_pixels(value, SPEC, "image"), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_modes_of_pillow_are_read_as_their_png(mode: str, tmp_path: Path) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (40, 40), np.uint8)
    image = Image.fromarray(grey).convert("I" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    image.save(tmp_path / "a.png")
    expected = read_image(tmp_path / "a.png", SPEC)
    np.testing.assert_array_equal(to_pixels(image, SPEC, "image"), expected)


def test_orientation_is_applied(array: np.ndarray) -> None:
    turned = Image.fromarray(array)
    exif = turned.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    turned.save(buffer, "JPEG", exif=exif, quality=100, subsampling=0)
    upright = to_pixels(buffer.getvalue(), SPEC, "image").astype(int)
    opened = to_pixels(Image.open(buffer), SPEC, "image").astype(int)
    assert np.abs(upright - opened).mean() < 3


def test_grey_and_colour(array: np.ndarray) -> None:
    grey = Preprocessing(24, 20, 1, "0..1", "crop")
    assert to_pixels(array, grey, "image").shape == (24, 20, 1)
    one = to_pixels(array[..., :1], SPEC, "image")
    np.testing.assert_array_equal(one, to_pixels(array[..., 0], SPEC, "image"))
    assert (one[..., 0] == one[..., 2]).all()


def test_an_array_of_the_right_size_is_not_resampled() -> None:
    exact = np.random.default_rng(2).integers(0, 256, SPEC.shape, np.uint8)
    assert to_pixels(exact, SPEC, "image") is exact
    np.testing.assert_array_equal(to_pixels(exact / 255, SPEC, "image"), exact)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((4, 4, 3), np.int64), "image x is of int64: give uint8, or floats in 0..1"),
        (np.zeros((4, 4, 3), bool), "is of bool"),
        (np.full((4, 4, 3), 255.0), "has floats from 255 to 255"),
        (np.full((4, 4), -0.5), "has floats from -0.5"),
        (np.full((4, 4), np.nan), "has floats from nan"),
        (np.zeros((3, 8, 8), np.uint8), "its channels first: transpose"),
        (np.zeros((4, 4, 2), np.uint8), r"has shape \[4, 4, 2\]"),
        (np.zeros((0, 4), np.uint8), r"has shape \[0, 4\]"),
        (np.zeros(4, np.uint8), r"has shape \[4\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"has shape \[1, 4, 4, 3\]"),
        (Image.new("F", (4, 4)), "is a PIL image of mode F"),
        (None, "is a NoneType: give uint8"),
        ([[1, 2]], "is a list: give uint8"),
    ],
)
def test_what_would_be_misread_is_refused(value: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        to_pixels(value, SPEC, "image x")


def test_bytes_that_are_no_image() -> None:
    with pytest.raises(ImageError, match="image x"):
        to_pixels(b"hello", SPEC, "image x")


def test_what_is_an_image() -> None:
    assert is_image(Image.new("L", (2, 2)))
    assert is_image(b"\x89PNG")
    assert is_image(np.zeros((2, 2, 3)))
    assert is_image(np.zeros((2, 2), np.uint8))
    for vector in (np.zeros(4), np.zeros((2, 4)), np.zeros((1, 4)), [1.0, 2.0], "id"):
        assert not is_image(vector)
