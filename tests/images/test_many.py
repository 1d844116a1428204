"""Many images are read at once, those of an archive in one pass."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from latentdb.images import sources
from latentdb.images.decode import Preprocessing, read_image
from latentdb.images.many import read_files

SPEC = Preprocessing(8, 8, 3)
COUNT = 40
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make_tar(path: Path) -> list[str]:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as tar:
        for number, pixels in enumerate(PIXELS):
            data = png(pixels)
            info = tarfile.TarInfo(f"a/{number}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return [f"{path}!a/{number}.png" for number in range(COUNT)]


def make_zip(path: Path) -> list[str]:
    with zipfile.ZipFile(path, "w") as archive:
        for number, pixels in enumerate(PIXELS):
            archive.writestr(f"a/{number}.png", png(pixels))
    return [f"{path}!a/{number}.png" for number in range(COUNT)]


def make_npy(path: Path) -> list[str]:
    np.save(path, PIXELS)
    return [f"{path}!{number}" for number in range(COUNT)]


def make_npz(path: Path) -> list[str]:
    np.savez_compressed(path, first=PIXELS[:25], second=PIXELS[25:])
    names = [f"first/{number}" for number in range(25)]
    return [f"{path}!{name}" for name in names + [f"second/{n}" for n in range(COUNT - 25)]]


def make_idx(path: Path) -> list[str]:
    with gzip.open(path, "wb") as file:
        file.write(struct.pack(">4B4I", 0, 0, 8, 4, *PIXELS.shape) + PIXELS.tobytes())
    return [f"{path}!{number}" for number in range(COUNT)]


def make_parquet(path: Path) -> list[str]:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"image": list(map(png, PIXELS))})
    parquet.write_table(table, path, row_group_size=7)
    return [f"{path}!{number}" for number in range(COUNT)]


ARCHIVES: dict[str, Callable[[Path], list[str]]] = {
    "x.tar": make_tar,
    "x.tar.gz": make_tar,
    "x.zip": make_zip,
    "x.npy": make_npy,
    "x.npz": make_npz,
    "x-idx4-ubyte.gz": make_idx,
    "x.parquet": make_parquet,
}


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The archives that were opened."""
    opened: list[str] = []
    source_type = sources.source_type

    def counted(path: str) -> Callable[[str], sources.ImageSource] | None:
        make = source_type(path)
        return None if make is None else lambda of: (opened.append(of), make(of))[1]

    monkeypatch.setattr(sources, "source_type", counted)
    return opened


@pytest.mark.parametrize("name", ARCHIVES)
def test_images_of_an_archive_are_read_in_one_pass(
    name: str, tmp_path: Path, passes: list[str]
) -> None:
    names = ARCHIVES[name](tmp_path / name)
    order = np.random.default_rng(1).permutation(COUNT).tolist()
    (tmp_path / "alone.png").write_bytes(png(PIXELS[0]))
    others = [None, f"{tmp_path / name}!none", f"{tmp_path / name}!a/99", str(tmp_path / "no.png")]
    paths = [*others, str(tmp_path / "alone.png"), *(names[n] for n in [*order, 3, 3])]
    images = read_files(paths, SPEC)
    assert images[: len(others)] == [None] * len(others)
    np.testing.assert_array_equal(np.array(images[len(others) :]), PIXELS[[0, *order, 3, 3]])
    assert passes == [str(tmp_path / name)]
    assert np.array_equal(read_image(names[7], SPEC), PIXELS[7])


def test_archives_are_read_beside_each_other(tmp_path: Path, passes: list[str]) -> None:
    names = [make_tar(tmp_path / "a.tar"), make_zip(tmp_path / "b.zip")]
    paths = [one for pair in zip(*names, strict=True) for one in pair]
    np.testing.assert_array_equal(np.array(read_files(paths, SPEC)), PIXELS.repeat(2, axis=0))
    assert sorted(passes) == [str(tmp_path / "a.tar"), str(tmp_path / "b.zip")]


def test_one_damaged_image_of_an_archive_costs_no_other(tmp_path: Path) -> None:
    names = make_zip(tmp_path / "x.zip")
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[data.index(png(PIXELS[5])) + 60] ^= 1
    (tmp_path / "x.zip").write_bytes(data)
    images = read_files(names, SPEC)
    assert [number for number, image in enumerate(images) if image is None] == [5]


def test_what_comes_before_the_end_of_a_cut_archive_is_read(tmp_path: Path) -> None:
    names = make_tar(tmp_path / "x.tar")
    data = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(data[: len(data) // 2])
    images = read_files(names, SPEC)
    read = [number for number, image in enumerate(images) if image is not None]
    assert read == list(range(len(read)))
    assert 0 < len(read) < COUNT
