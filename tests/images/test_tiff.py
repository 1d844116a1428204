"""Every TIFF layout is decoded to what it stores, by Pillow or by tifffile, or refused by name."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentdb.base.errors import ImageError
from latentdb.images import tiff
from latentdb.images.decode import Preprocessing, probe, read_image

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")

HEIGHT, WIDTH = 32, 48
COMPRESSIONS = ("none", "lzw", "zlib", "packbits", "zstd", "lzma")


def picture() -> np.ndarray:
    """uint8 ``[32, 48, 3]`` with smooth shades and an edge."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    pixels = np.dstack([x * 5, y * 8, x + y]).astype(np.uint8)
    pixels[8:20, 12:30] = (200, 30, 90)
    return pixels


def write(path: Path, array: np.ndarray, **options: Any) -> str:
    if options.get("planarconfig") == "separate":
        array = np.moveaxis(array, -1, 0)
    tifffile.imwrite(path, np.ascontiguousarray(array), **options)
    return str(path)


def read(path: str, **options: Any) -> np.ndarray:
    return read_image(path, Preprocessing(HEIGHT, WIDTH, 3, **options)).astype(int)


def kinds() -> dict[str, tuple[np.ndarray, np.ndarray, dict[str, Any]]]:
    """Stored samples in 8 bits, the RGB they stand for, and how tifffile is told so."""
    rgb = picture()
    grey = rgb[..., :1]
    alpha = np.repeat(np.linspace(0, 255, WIDTH).astype(np.uint8)[None], HEIGHT, 0)[..., None]
    share = alpha / 255.0
    premultiplied = np.rint(rgb * share).astype(np.uint8)
    whole = np.full_like(grey, 255)

    def over(pixels: np.ndarray) -> np.ndarray:
        return pixels * share + 255 * (1 - share)

    def told(photometric: str, *extras: Any) -> dict[str, Any]:
        return {"photometric": photometric, **({"extrasamples": list(extras)} if extras else {})}

    return {
        "grey": (grey, grey, told("minisblack")),
        "white is zero": (255 - grey, grey, told("miniswhite")),
        "rgb": (rgb, rgb, told("rgb")),
        "cmyk": (np.dstack([255 - rgb, 0 * grey]), rgb, told("separated")),
        "rgba": (np.dstack([rgb, alpha]), over(rgb), told("rgb", "unassalpha")),
        "rgb premultiplied": (
            np.dstack([premultiplied, alpha]),
            premultiplied + 255 * (1 - share),
            told("rgb", "assocalpha"),
        ),
        "rgb and infrared": (np.dstack([rgb, grey]), rgb, told("rgb", 0)),
        "rgb and two bands": (np.dstack([rgb, grey, grey]), rgb, told("rgb", 0, 0)),
        "grey and alpha": (np.dstack([grey, alpha]), over(grey), told("minisblack", "unassalpha")),
        "grey premultiplied": (
            np.dstack([np.rint(grey * share).astype(np.uint8), alpha]),
            np.rint(grey * share) + 255 * (1 - share),
            told("minisblack", "assocalpha"),
        ),
        "grey and a band": (np.dstack([grey, whole]), grey, told("minisblack", 0)),
    }


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", kinds())
def test_every_layout_is_decoded_to_what_it_stores(kind: str, bits: int, tmp_path: Path) -> None:
    stored, truth, told = kinds()[kind]
    samples = stored.astype(np.uint16) * 257 if bits == 16 else stored
    arrangements = itertools.product(COMPRESSIONS, ("contig", "separate"), "<>", (None, (16, 16)))
    readers = set()
    for number, (compression, planar, order, tile) in enumerate(arrangements):
        if stored.shape[-1] == 1 and planar == "separate":
            continue
        for predictor in (False, True) if compression in ("lzw", "zlib") else (False,):
            options: dict[str, Any] = {**told, "byteorder": order, "tile": tile}
            if stored.shape[-1] > 1:
                options["planarconfig"] = planar
            if compression != "none":
                options |= {"compression": compression, "predictor": predictor}
            array = samples if stored.shape[-1] > 1 else samples[..., 0]
            path = write(tmp_path / f"{number}{predictor}.tif", array, **options)
            layout = tiff.read_layout(Path(path).read_bytes())
            assert layout is not None
            assert tiff.refusal(layout) is None
            readers.add(tiff.is_right_in_pillow(layout))
            # Premultiplied colours are divided by alpha and multiplied again.
            limit = 3 if "premultiplied" in kind else 1
            assert np.abs(read(path) - np.rint(truth)).max() <= limit, (options, layout)
            shape = probe(path)
            assert (shape.height, shape.width) == (HEIGHT, WIDTH)
    if kind == "rgb":
        assert readers == ({True} if bits == 8 else {True, False})


@pytest.mark.parametrize(
    ("array", "told", "reason"),
    [
        (np.zeros((4, 4), np.int8), {}, "signed 8-bit pixels have no fixed range"),
        (np.zeros((4, 4), np.int16), {}, "signed 16-bit pixels have no fixed range"),
        (np.zeros((4, 4), np.float16), {}, "16-bit float pixels have no fixed range"),
        (np.zeros((4, 4, 3), np.float32), {"photometric": "rgb"}, "32-bit float pixels"),
        (np.zeros((4, 4), np.float64), {}, "64-bit float pixels"),
        (np.zeros((4, 4), np.uint32), {}, "32-bit pixels have no fixed range"),
        (np.zeros((4, 4), np.complex64), {}, "64-bit complex pixels"),
        (
            np.zeros((4, 4, 4), np.uint8),
            {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": [0, 0, 0]},
            "4 bands that no tag calls colours",
        ),
        (np.zeros((16, 16), np.uint8), {"compression": "jpegxl"}, "compression JPEG XL is not"),
        (np.zeros((4, 4), np.uint8), {"photometric": "cfa"}, "camera raw in a TIFF"),
    ],
)
def test_a_layout_without_usable_pixels_is_refused_by_its_name(
    array: np.ndarray, told: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.tif", array, **{"photometric": "minisblack", **told})
    with pytest.raises(ImageError, match=reason):
        read_image(path, Preprocessing(8, 8, 3))


@pytest.mark.parametrize("missing", ["tifffile", "imagecodecs"])
def test_without_the_extra_the_layout_is_named(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = picture().astype(np.uint16) * 257
    path = write(tmp_path / "a.tif", deep, photometric="rgb", planarconfig="separate")
    monkeypatch.setitem(sys.modules, missing, None)
    reason = r"3 x 16-bit pixels in separate planes, compression none needs an extra: .*\[tiff\]"
    with pytest.raises(ImageError, match=reason):
        read(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
def test_both_readers_apply_the_orientation(bits: int, orientation: int, tmp_path: Path) -> None:
    pixels = picture()
    samples = pixels.astype(np.uint16) * 257 if bits == 16 else pixels
    path = write(
        tmp_path / "a.tif",
        samples,
        photometric="rgb",
        planarconfig="separate",
        extratags=[(274, "H", 1, orientation, True)],
    )
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: pixels.swapaxes(0, 1)[:, ::-1],
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: pixels.swapaxes(0, 1)[::-1],
    }[orientation]
    shape = probe(path)
    assert (shape.height, shape.width) == turned.shape[:2]
    found = read_image(path, Preprocessing(*turned.shape[:2], 3)).astype(int)
    assert np.abs(found - turned).max() <= 1


def test_tiles_under_the_tags_of_strips(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", picture(), photometric="rgb", tile=(16, 16))
    content = bytearray(Path(path).read_bytes())
    for tiles, strips in ((324, 273), (325, 279)):
        (place,) = (
            place
            for place in range(0, len(content) - 2, 2)
            if content[place : place + 2] == tiles.to_bytes(2, "little")
            and content[place + 2] in (3, 4)
            and content[place + 3] == 0
        )
        content[place : place + 2] = strips.to_bytes(2, "little")
    Path(path).write_bytes(content)
    np.testing.assert_array_equal(read(path), picture())


def test_strips_of_unknown_length_are_damage(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "a.tif", picture(), photometric="rgb", rowsperstrip=8))
    data = path.read_bytes()
    entry = data.index((279).to_bytes(2, "little") + b"\x03\x00\x04\x00\x00\x00")
    path.write_bytes(data[: entry + 4] + b"\x01" + data[entry + 5 :])
    with pytest.raises(ImageError, match="its TIFF directory cannot be read"):
        read(str(path))


def test_libtiff_and_tifffile_print_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = Path(write(tmp_path / "a.tif", picture(), photometric="rgb", compression="lzw"))
    data = bytearray(path.read_bytes())
    for position in range(200, len(data) - 200, 7):
        data[position] ^= 0x55
    path.write_bytes(bytes(data))
    deep = picture().astype(np.uint16) * 257
    cut = Path(write(tmp_path / "b.tif", deep, photometric="rgb", planarconfig="separate"))
    cut.write_bytes(cut.read_bytes()[:-4000])
    for file in (path, cut):
        try:
            read_image(file, Preprocessing(8, 8, 3))
        except ImageError:
            continue
    assert capfd.readouterr() == ("", "")


def test_a_strip_that_inflates_beyond_its_layout_is_refused_in_little_memory(
    tmp_path: Path,
) -> None:
    import tracemalloc
    import zlib

    deep = np.zeros((16, 16, 2), np.uint16)
    told = {"photometric": "minisblack", "planarconfig": "separate", "extrasamples": [0]}
    path = Path(write(tmp_path / "a.tif", deep, compression="zlib", **told))
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        offsets, counts = tags["StripOffsets"], tags["StripByteCounts"]
    strip = zlib.compress(bytes(1 << 28), 9)
    for position in range(2):
        at = offsets.valueoffset + 4 * position
        data[at : at + 4] = len(data).to_bytes(4, "little")
        size = 2 if counts.dtype == 3 else 4  # SHORT or LONG
        at = counts.valueoffset + size * position
        data[at : at + size] = min(len(strip), 2 ** (8 * size) - 1).to_bytes(size, "little")
    path.write_bytes(bytes(data) + strip)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="TIFF with 2 x 16-bit pixels"):
            read_image(path, Preprocessing(8, 8, 3))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
