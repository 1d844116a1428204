"""Image files written: formats, paths that cannot be written, animations, contact sheets."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentdb.base.errors import InvalidInputError, StoreError
from latentdb.base.outputs import Output
from latentdb.images import render
from latentdb.images.decode import Preprocessing, read_image, to_pil
from latentdb.images.render import (
    contact_sheet,
    picture_format,
    write_animation,
    write_picture,
    write_pixels,
)
from tests.images.test_decode import BLUE, GREEN, RED, Pixels, corners, gap, noise

WRITTEN = "apng bmp gif jfif jpe jpeg jpg png tif tiff webp PNG"


@pytest.mark.parametrize("suffix", ["." + name for name in WRITTEN.split()])
def test_a_picture_is_written_in_the_format_of_its_suffix(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"picture{suffix}"
    write_picture(path, corners())
    with Image.open(path) as image:
        assert image.format == Image.registered_extensions()[suffix.lower()]
        assert gap(image.convert("RGB"), corners()).mean() < 10
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("suffix", ["", ".txt", ".pdf", ".ico", ".jp2", ".npy", ".", ".png "])
def test_another_suffix_is_refused_before_anything_is_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"picture{suffix}"
    for check in (picture_format, lambda path: write_picture(path, corners())):
        with pytest.raises(InvalidInputError, match=r"cannot write .* use one of \.png"):
            check(path)
    assert os.listdir(tmp_path) == []


def test_picture_format_gives_the_format() -> None:
    assert {ending: picture_format(f"x{ending}") for ending in (".jpg", ".PNG", ".tif")} == {
        ".jpg": "JPEG", ".PNG": "PNG", ".tif": "TIFF",
    }  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_written_as_they_are(channels: int, tmp_path: Path) -> None:
    pixels = np.asarray(noise(6, 9))[..., :channels]
    write_pixels(tmp_path / "x.png", pixels)
    again = read_image(tmp_path / "x.png", Preprocessing(6, 9, channels))
    assert np.array_equal(again, pixels)
    assert to_pil(pixels).mode == ("L" if channels == 1 else "RGB")


def test_a_picture_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"old")
    write_picture(Output(str(path), overwrite=True), corners())
    assert np.array_equal(read_image(path, Preprocessing(32, 48, 3)), np.asarray(corners()))
    assert os.listdir(tmp_path) == ["x.png"]


def test_a_picture_that_cannot_be_written_whole_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as a full disk would
    try:
        with pytest.raises(StoreError, match=r"x\.png.*cannot be written: file too large"):
            write_picture(Output(str(path), overwrite=True), noise(64, 64))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.png"]


def test_a_picture_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.png").mkdir()
    with pytest.raises(StoreError, match="cannot be written: is a directory"):
        write_picture(tmp_path / "x.png", corners())
    assert os.listdir(tmp_path) == ["x.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_reported(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(StoreError, match="cannot be written: permission denied"):
        write_picture(closed / "x.png", corners())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("file/x.png", "(file exists|not a directory)", id="in a file"),
        pytest.param("a" * 300 + ".png", "file name too long", id="too long"),
        pytest.param("a\0b.png", "it has a null character", id="null"),
    ],
)
def test_a_path_that_can_hold_no_picture_is_refused(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=f"cannot be written: {reason}"):
        write_picture(tmp_path / name, corners())


@pytest.mark.parametrize("name", ["x.webp", "x.jpg", "x.gif"])
def test_a_picture_too_large_for_its_format_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"70000x2 pixels cannot be written .* use \.png"):
        write_picture(tmp_path / name, Image.new("RGB", (70_000, 2)))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.jpg", "a.bmp"])
def test_an_animation_needs_a_format_with_animations(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"(JPEG|BMP) has no animations, use \.gif"):
        write_animation(tmp_path / name, np.zeros((3, 8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("count", "order"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2, 1]), (5, [0, 1, 2, 3, 4, 3, 2, 1])]
)
def test_an_animation_goes_there_and_back(count: int, order: list[int], tmp_path: Path) -> None:
    frames = np.zeros((count, 8, 8, 1), np.uint8)
    frames += (40 * np.arange(1, count + 1, dtype=np.uint8))[:, None, None, None]
    write_animation(tmp_path / "x.gif", frames)
    frame_order = []
    with Image.open(tmp_path / "x.gif") as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            assert image.size == (96, 96)
            frame_order.append(int(np.asarray(image.convert("L"))[48, 48]) // 40 - 1)
    assert frame_order == order


def test_a_sheet_shows_small_pictures_enlarged_pixel_for_pixel() -> None:
    pixels = np.asarray(noise(8, 8))
    laid = np.asarray(contact_sheet([[(pixels, "")]]))
    assert laid.shape == (104, 104, 3)
    assert np.array_equal(laid[4:100, 4:100], pixels.repeat(12, axis=0).repeat(12, axis=1))
    edge = laid.copy()
    edge[4:100, 4:100] = 255
    assert (edge == 255).all()


def test_a_sheet_shows_large_pictures_as_they_are() -> None:
    pixels = np.asarray(noise(100, 130))
    laid = np.asarray(contact_sheet([[(pixels, "")]]))
    assert np.array_equal(laid[4:104, 4:134], pixels)


def test_a_sheet_has_a_cell_for_every_picture() -> None:
    colours = [RED, GREEN, BLUE]
    cells = [(np.full((8, 8, 3), colour, np.uint8), "") for colour in colours]
    grey = (np.full((8, 8, 1), 77, np.uint8), "")
    laid = np.asarray(contact_sheet([cells, [grey]]))
    assert laid.shape == (204, 304, 3)
    for column, colour in enumerate(colours):
        left = 4 + 100 * column
        assert (laid[4:100, left : left + 96] == colour).all()
    assert (laid[104:200, 4:100] == 77).all()
    assert (laid[104:200, 104:] == 255).all()


def test_a_caption_takes_space_only_in_a_row_that_has_one() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    without = contact_sheet([[(pixels, "")]] * 2)
    one = contact_sheet([[(pixels, "name")], [(pixels, "")]])
    assert one.height - without.height == 14
    caption = np.asarray(one)[100:114]
    assert caption.min() < 128
    assert (np.asarray(one)[[0, 3, 114, 117, -1]] == 255).all()


def test_a_long_caption_shows_its_end() -> None:
    def drawn(caption: str) -> Pixels:
        return np.asarray(contact_sheet([[(np.zeros((8, 8, 3), np.uint8), caption)]]))

    folder = "a/very/long/folder/of/images/"
    assert not np.array_equal(drawn(folder + "1.png"), drawn(folder + "2.png"))
    assert np.array_equal(drawn("x" + folder + "1.png"), drawn("y" + folder + "1.png"))
    assert drawn(folder * 3).shape == (118, 104, 3)


@pytest.mark.parametrize("caption", ["日本", "😀", "\u202e", "\t", "\0", "\ud800"])
def test_a_caption_may_be_any_text(caption: str) -> None:
    assert contact_sheet([[(np.zeros((8, 8, 3), np.uint8), caption)]]).size == (104, 118)


@pytest.mark.parametrize("caption", ["a\nb", "\n"])
def test_a_caption_may_have_line_breaks(caption: str) -> None:
    height = 104 + 14 * len(caption.splitlines())
    assert contact_sheet([[(np.zeros((8, 8, 3), np.uint8), caption)]]).size == (104, height)


def test_a_long_caption_is_not_measured_letter_by_letter() -> None:
    class Counter:
        calls = 0

        def textlength(self, text: str, font: Any) -> float:
            self.calls += 1
            return 6.0 * len(text)

    counter = Counter()
    assert render.shorten("x" * 4000 + "end", 60, counter, None) == "…" + "x" * 6 + "end"
    assert counter.calls < 100


def test_an_empty_sheet_is_a_picture_too() -> None:
    for rows in ([], [[]]):
        assert (np.asarray(contact_sheet(rows)) == 255).all()
