"""A random sample of images: the same from folders and archives, of a bounded size."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.base.progress import Progress
from latentdb.images.decode import ImageShape, Preprocessing, read_image
from latentdb.images.sampling import ImageSample, draw_images

SPEC = Preprocessing(16, 16, 3)


def draw(*sources: Path) -> ImageSample:
    return draw_images(sources, np.random.default_rng(3), None)


def as_set(pixels: np.ndarray) -> set[bytes]:
    return {each.tobytes() for each in pixels}


@pytest.fixture(scope="module")
def content(images: Path) -> set[bytes]:
    return {read_image(path, SPEC).tobytes() for path in images.rglob("*.png")}


@pytest.mark.parametrize("name", ["folder", "a.tar", "a.tar.gz", "a.zip", "a.npz"])
def test_every_source_gives_its_images_in_random_order(
    images: Path, content: set[bytes], tmp_path: Path, name: str
) -> None:
    source = tmp_path / name
    files = sorted(images.rglob("*.png"))
    if name == "folder":
        source = images
    elif ".tar" in name:
        with tarfile.open(source, "w:gz" if name.endswith("gz") else "w") as tar:
            tar.add(images, "shapes")
    elif name.endswith(".zip"):
        with zipfile.ZipFile(source, "w") as archive:
            for file in files:
                archive.write(file, file.relative_to(images))
    else:
        np.savez(source, images=np.stack([read_image(file, SPEC) for file in files]))
    sample = draw(source)
    assert (sample.found, len(sample.paths), sample.bad) == (80, 80, [])
    spec = sample.preprocessing(None, None, resize="stretch", background="white")
    assert spec.shape == SPEC.shape
    pixels, bad = sample.read(80, spec, None)
    assert not bad
    assert as_set(pixels) == content
    in_order = np.stack([read_image(file, SPEC) for file in files])
    assert not np.array_equal(pixels, in_order)
    again, _ = draw(source).read(80, spec, None)
    assert np.array_equal(again, pixels)
    fewer, _ = sample.read(20, spec, None)
    assert np.array_equal(fewer, pixels[:20])


def test_folders_and_archives_in_one_sample(
    images: Path, content: set[bytes], tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "squares.tar", "w") as tar:
        tar.add(images / "square", "square")
    reports: list[Progress] = []
    sample = draw_images(
        [images / "disc", tmp_path / "squares.tar"], np.random.default_rng(0), reports.append
    )
    pixels, bad = sample.read(1000, SPEC, reports.append)
    assert (sample.found, len(pixels), bad) == (80, 80, [])
    assert as_set(pixels) == content
    assert (reports[-1].done, reports[-1].total) == (80, 80)


def test_what_cannot_be_read_is_named_and_left_out(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(images / "disc", folder)
    (folder / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(folder / "000.png", "bad.png")
        tar.add(folder / "001.png", "good.png")
        tar.add(folder / "002.png", "good.png")  # a name may come twice
    sample = draw(folder, tmp_path / "a.tar")
    assert sample.found == 43
    pixels, bad = sample.read(100, SPEC, None)
    assert sorted(Path(each.path).name for each in bad) == ["000.png", "a.tar!bad.png"]
    assert len(pixels) == 40  # 39 files, and one of the two members with one name


def test_a_truncated_archive_gives_what_is_whole(images: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.tar"
    with tarfile.open(whole, "w") as tar:
        tar.add(images, "shapes")
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:20_000])
    sample = draw(cut)
    assert 0 < sample.found < 80
    assert "truncated" in sample.bad[0].reason
    pixels, bad = sample.read(100, SPEC, None)
    assert len(pixels) + len(bad) == len(sample.paths)
    assert len(pixels) > 0


def test_a_sample_is_bounded_and_shapes_are_of_all_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentdb.images.sampling.MAX_IMAGES", 30)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(150):
            side = 8 if number < 100 else 24
            Image.new("L", (side, side), number).save(tmp_path / "one.png")
            archive.write(tmp_path / "one.png", f"{number}.png")
    sample = draw(tmp_path / "a.zip")
    assert (sample.found, len(sample.paths)) == (150, 30)
    assert len(sample.shapes) == 100
    assert {ImageShape(8, 8, 1), ImageShape(24, 24, 1)} == set(sample.shapes)
    pixels, _ = sample.read(10, Preprocessing(8, 8, 1), None)
    assert len(as_set(pixels)) == 10


def test_no_images_and_no_source_are_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no image"):
        draw(tmp_path)
    with pytest.raises(NotFoundError, match="does not exist"):
        draw(tmp_path / "gone.tar")
