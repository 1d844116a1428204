"""Reading images: every format and mode, damaged files, resize rules."""

from __future__ import annotations

import io
import os
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from latentdb.base.errors import ImageError, InvalidInputError
from latentdb.images.decode import (
    MAX_FILE_BYTES,
    MAX_PIXELS,
    RESIZE_RULES,
    ImageShape,
    Preprocessing,
    decode_pixels,
    probe,
    read_bytes,
    read_image,
)
from latentdb.images.pixel_range import RANGES

Pixels = NDArray[np.uint8]
RED, GREEN, BLUE, WHITE = (250, 20, 20), (20, 250, 20), (20, 20, 250), (255, 255, 255)
ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp",
           "TIFF": ".tif"}  # fmt: skip


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def decoded(
    data: bytes, height: int, width: int, channels: int = 3, resize: str = "stretch"
) -> Pixels:
    spec = Preprocessing(height, width, channels, resize=resize)
    return decode_pixels(data, spec, name="the image")


def corners(height: int = 32, width: int = 48) -> Image.Image:
    """A different colour in each quarter, whole JPEG blocks each."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = RED
    pixels[: height // 2, width // 2 :] = GREEN
    pixels[height // 2 :, : width // 2] = BLUE
    pixels[height // 2 :, width // 2 :] = (240, 240, 20)
    return Image.fromarray(pixels)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, 3)).astype(np.uint8))


def photo(height: int, width: int, seed: int = 1) -> Image.Image:
    """Smooth shades, edges and some noise, as in a photograph."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 97 + y / 53), np.cos(x / 31), np.sin(y / 41)]
    shades = 128 + 90 * np.stack(waves, -1) + random.normal(0, 6, (height, width, 3))
    image = Image.fromarray(np.clip(shades, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        left, top = random.integers(0, width), random.integers(0, height)
        size = random.integers(10, 160)
        colour = tuple(random.integers(0, 256, 3).tolist())
        draw.ellipse((left, top, left + size, top + size), fill=colour)
    return image


def gap(a: Any, b: Any) -> NDArray[np.int64]:
    return np.abs(np.asarray(a, np.int64) - np.asarray(b, np.int64))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def grey_png(rows: list[bytes], width: int, bits: int, clear: int | None = None) -> bytes:
    """A grey PNG of any depth, by hand: Pillow writes no 16-bit or packed one with tRNS."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, 0, 0, 0, 0)
    transparent = b"" if clear is None else chunk(b"tRNS", struct.pack(">H", clear))
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + transparent
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )


def grey_tiff(
    data: bytes, size: int, bits: int, photometric: int = 1, sample_format: int = 1
) -> bytes:
    """A square grey TIFF of any depth, by hand.

    Photometric 0 is white-is-zero; sample format 1 is unsigned, 2 signed, 3 float.
    """
    tags = {256: size, 257: size, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: size,
            279: len(data), 339: sample_format}  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    body = data + b"\0" * (len(data) % 2)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(body))
    return head + body + struct.pack("<H", len(tags)) + entries + bytes(4)


def bomb(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


# --- formats and modes ---------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_a_lossless_format_gives_its_pixels_exactly(format: str) -> None:
    image = noise(12, 9)
    assert np.array_equal(decoded(encoded(image, format), 12, 9), np.asarray(image))


@pytest.mark.parametrize(
    "options",
    [
        {"format": "TIFF", "compression": "tiff_lzw"},
        {"format": "TIFF", "compression": "tiff_adobe_deflate"},
        {"format": "TIFF", "compression": "packbits"},
        {"format": "WEBP", "lossless": True},
        {"format": "PNG", "compress_level": 0},
    ],
)
def test_lossless_compression_gives_its_pixels_exactly(options: dict[str, Any]) -> None:
    image = noise(12, 9)
    format = options.pop("format")
    assert np.array_equal(decoded(encoded(image, format, **options), 12, 9), np.asarray(image))


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("WEBP", {"quality": 95}),
        ("TIFF", {"compression": "jpeg"}),
        ("GIF", {}),
    ],
)
def test_a_lossy_format_gives_its_pixels_nearly(format: str, options: dict[str, Any]) -> None:
    image = corners()
    assert gap(decoded(encoded(image, format, **options), 32, 48), image).mean() < 6


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_grey_and_colour_become_each_other(format: str) -> None:
    grey = Image.linear_gradient("L").resize((16, 16))
    for channels in (1, 3):
        pixels = decoded(encoded(grey, format), 16, 16, channels)
        assert (pixels.dtype, pixels.shape) == (np.uint8, (16, 16, channels))
        assert gap(pixels, np.asarray(grey)[..., None]).max() <= 4
    colour = decoded(encoded(Image.new("RGB", (4, 4), RED), format), 4, 4, 1)
    assert gap(colour, 0.299 * 250 + 0.587 * 20 + 0.114 * 20).max() <= 4


def test_cmyk_becomes_colour() -> None:
    for ink, colour in (((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0))):
        image = Image.new("CMYK", (16, 16), ink)
        for format in ("JPEG", "TIFF"):
            assert gap(decoded(encoded(image, format), 8, 8), colour).max() <= 3
            grey = Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0))
            assert gap(decoded(encoded(image, format), 8, 8, 1), grey).max() <= 3


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "TIFF"])
def test_a_palette_gives_its_colours(format: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    assert decoded(encoded(image, format), 1, 2)[0].tolist() == [list(RED), list(BLUE)]


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "TIFF"])
def test_one_bit_is_black_and_white(format: str) -> None:
    image = Image.fromarray(np.eye(9, dtype=bool))
    assert image.mode == "1"
    assert np.array_equal(decoded(encoded(image, format), 9, 9, 1)[..., 0], 255 * np.eye(9))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_transparency_is_composited_over_white(format: str) -> None:
    image = Image.new("RGBA", (4, 1))
    for position, alpha in enumerate((255, 128, 1, 0)):
        image.putpixel((position, 0), (200, 0, 0, alpha))
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    pixels = decoded(encoded(image, format, **options), 1, 4)[0]
    expected = [[200, 0, 0], [227, 127, 127], [255, 254, 254], [255, 255, 255]]
    assert gap(pixels, expected).max() <= 1


def test_grey_with_alpha_is_composited_over_white() -> None:
    image = Image.new("LA", (3, 1))
    for position, alpha in enumerate((255, 128, 0)):
        image.putpixel((position, 0), (100, alpha))
    for channels in (1, 3):
        pixels = decoded(encoded(image, "PNG"), 1, 3, channels)[0, :, 0]
        assert gap(pixels, [100, 177, 255]).max() <= 1


def test_what_is_under_full_transparency_does_not_bleed_into_a_resize() -> None:
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    assert (decoded(encoded(clear, "PNG"), 8, 8) == 255).all()


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *BLUE, *GREEN])
    image.putdata([0, 1, 2])
    one = decoded(encoded(image, "PNG", transparency=0), 1, 3)[0]
    assert one.tolist() == [list(WHITE), list(BLUE), list(GREEN)]
    shares = decoded(encoded(image, "PNG", transparency=bytes([255, 0, 128])), 1, 3)[0]
    assert gap(shares, [RED, WHITE, (137, 252, 137)]).max() <= 1
    gif = decoded(encoded(image, "GIF", transparency=1), 1, 3)[0]
    assert gif.tolist() == [list(RED), list(WHITE), list(GREEN)]


def test_a_transparent_colour_is_white() -> None:
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), BLUE)
    pixels = decoded(encoded(image, "PNG", transparency=RED), 1, 2)[0]
    assert pixels.tolist() == [list(WHITE), list(BLUE)]


GREY_ROWS = {  # two rows of two pixels
    8: [b"\x00\xff", b"\x55\xaa"],
    4: [b"\x0f", b"\x5a"],
    2: [b"\x10", b"\xb0"],
    1: [b"\x40", b"\x80"],
}
GREYS = {
    8: [[0, 255], [85, 170]],
    4: [[0, 255], [85, 170]],
    2: [[0, 85], [170, 255]],
    1: [[0, 255], [255, 0]],
}


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_packed_grey_is_scaled_to_eight_bits(bits: int) -> None:
    data = grey_png(GREY_ROWS[bits], 2, bits)
    assert decoded(data, 2, 2, 1)[..., 0].tolist() == GREYS[bits]


@pytest.mark.parametrize(
    ("bits", "clear"),
    [(8, 85), (1, 0), (1, 1), (2, 1), (2, 2), (4, 5), (4, 10)],
)
def test_a_transparent_grey_is_white(bits: int, clear: int) -> None:
    grey = clear * 255 // (2**bits - 1)
    expected = [[255 if value == grey else value for value in row] for row in GREYS[bits]]
    data = grey_png(GREY_ROWS[bits], 2, bits, clear)
    assert decoded(data, 2, 2, 1)[..., 0].tolist() == expected


WIDE = [0, 1000, 30000, 65535]
NARROW = [0, 4, 117, 255]  # of WIDE, rounded


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_grey_is_scaled_not_clipped(channels: int) -> None:
    image = Image.fromarray(np.array([WIDE], np.uint16))
    for format in ("PNG", "TIFF"):
        pixels = decoded(encoded(image, format), 1, 4, channels)
        assert np.array_equal(pixels, np.repeat(np.array([NARROW])[..., None], channels, -1))


def test_sixteen_bit_grey_may_have_its_high_byte_first() -> None:
    image = Image.fromarray(np.array([WIDE], ">u2"))
    assert image.mode == "I;16B"
    assert decoded(encoded(image, "TIFF"), 1, 4, 1)[0, :, 0].tolist() == NARROW


def test_a_transparent_sixteen_bit_grey_is_white() -> None:
    data = grey_png([struct.pack(">4H", *WIDE)], 4, 16, clear=1000)
    assert decoded(data, 1, 4, 1)[0, :, 0].tolist() == [0, 255, 117, 255]


@pytest.mark.parametrize(
    ("bits", "data"),
    [
        (8, bytes([0, 4, 117, 255])),
        (16, struct.pack("<4H", *WIDE)),
    ],
)
def test_tiff_may_have_black_and_white_exchanged(bits: int, data: bytes) -> None:
    pixels = decoded(grey_tiff(data, 2, bits, photometric=0), 2, 2, 1)
    assert pixels.ravel().tolist() == [255 - value for value in NARROW]


def test_twelve_bit_grey_is_not_taken_for_sixteen() -> None:
    # 0, 2048, 4095 and 4095 of 4095, two in three bytes: nearly black as 16 bits.
    data = grey_tiff(bytes.fromhex("000800 ffffff"), 2, 12)
    assert gap(decoded(data, 2, 2, 1).ravel(), [0, 128, 255, 255]).max() <= 1


@pytest.mark.parametrize(
    "data",
    [
        grey_tiff(np.zeros(4, "<f4").tobytes(), 2, 32, sample_format=3),
        grey_tiff(np.zeros(4, "<i4").tobytes(), 2, 32, sample_format=2),
        grey_tiff(np.zeros(4, "<u4").tobytes(), 2, 32),
    ],
    ids=["float", "signed", "unsigned"],
)
def test_pixels_without_a_fixed_range_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"32-bit (float )?pixels have no fixed range"):
        decoded(data, 2, 2, 1)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_or_pages_the_first_is_read(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert gap(decoded(data, 8, 8), RED).max() <= 1


def test_a_photo_with_a_second_picture_in_it_is_the_same_photo() -> None:
    # Many phones write MPO: a JPEG with a preview or a depth map behind it.
    image = photo(600, 600)
    data = encoded(image, "MPO", save_all=True, append_images=[image])
    assert np.array_equal(decoded(data, 16, 16), decoded(encoded(image, "JPEG"), 16, 16))


@pytest.mark.parametrize(
    ("format", "orientation"),
    [
        (format, orientation)
        for format in ("JPEG", "PNG", "WEBP", "TIFF")
        for orientation in range(1, 9)
    ],
)
def test_exif_orientation_is_applied(format: str, orientation: int, tmp_path: Path) -> None:
    oriented = corners()
    stored = {
        1: lambda image: image,
        2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
        4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
        6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
        7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    }[orientation](oriented)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {
        "JPEG": {"quality": 95, "subsampling": 0},
        "PNG": {},
        "WEBP": {"lossless": True},
        "TIFF": {},
    }[format]
    data = encoded(stored, format, exif=exif, **options)
    limit = 6 if format == "JPEG" else 0
    assert gap(decoded(data, 32, 48), oriented).max() <= limit
    assert (
        gap(decoded(data, 16, 24), oriented.resize((24, 16), Image.Resampling.BILINEAR)).mean()
        <= limit
    )
    file = tmp_path / f"image{ENDINGS[format]}"
    file.write_bytes(data)
    assert probe(str(file)) == ImageShape(32, 48, 3)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_invalid_orientation_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decoded(encoded(corners(), "PNG", exif=exif), 32, 48), corners())


def test_damaged_exif_says_nothing_about_the_pixels() -> None:
    data = encoded(corners(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xffgarbage", quality=95)
    assert gap(decoded(data, 32, 48), corners()).mean() < 6


def test_the_content_says_the_format_not_the_name(tmp_path: Path) -> None:
    file = tmp_path / "image.jpg"
    file.write_bytes(encoded(corners(), "PNG"))
    assert np.array_equal(read_image(file, Preprocessing(32, 48, 3)), np.asarray(corners()))


# --- sizes ---------------------------------------------------------------------------


@pytest.mark.parametrize("resize", RESIZE_RULES)
@pytest.mark.parametrize(("height", "width"), [(256, 256), (100, 100), (512, 256), (130, 390)])
def test_a_fine_checkerboard_becomes_mid_grey(resize: str, height: int, width: int) -> None:
    board = 255 * ((np.add.outer(np.arange(height), np.arange(width))) % 2).astype(np.uint8)
    pixels = decoded(encoded(Image.fromarray(board), "PNG"), 7, 7, 1, resize)[..., 0]
    if resize == "pad" and height != width:
        lines = pixels if height < width else pixels.T
        pixels = lines[len(lines) // 2 : len(lines) // 2 + 1]
    assert gap(pixels, 127.5).max() <= 1


def triangle(source: int, target: int) -> NDArray[np.float64]:
    """The weights ``[target, source]`` of an antialiased linear resize, by its definition."""
    scale = source / target
    reach = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    weights = 1 - np.abs(np.arange(source) + 0.5 - centres[:, None]) / reach
    weights = np.clip(weights, 0, None)
    normed: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return normed


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 20), st.integers(1, 20))
def test_a_resize_weighs_every_pixel_by_its_area(
    height: int, width: int, new_height: int, new_width: int
) -> None:
    image = noise(height, width).convert("L")
    rows, columns = triangle(height, new_height), triangle(width, new_width)
    expected = rows @ np.asarray(image, np.float64) @ columns.T
    pixels = decoded(encoded(image, "PNG"), new_height, new_width, 1)[..., 0]
    assert np.abs(pixels - expected).max() <= 1.01


@pytest.mark.parametrize("resize", ["stretch", "crop"])
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 7), (90, 40)])
def test_one_colour_stays_that_colour(resize: str, size: tuple[int, int]) -> None:
    data = encoded(Image.new("RGB", size, RED), "PNG")
    assert (decoded(data, 16, 8, resize=resize) == RED).all()


def test_stretch_uses_the_whole_image() -> None:
    pixels = decoded(encoded(corners(320, 480), "PNG"), 8, 8)
    assert gap(pixels[[0, 0, -1, -1], [0, -1, 0, -1]], [RED, GREEN, BLUE, (240, 240, 20)]).max() < 3


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 64), st.integers(1, 64))
def test_a_crop_stays_inside_the_image(
    height: int, width: int, new_height: int, new_width: int
) -> None:
    # Rounded, 4 pixels scaled to 37 and back were a little over 4.
    for size in ((width, height), (127, 4)):
        data = encoded(Image.new("L", size, 255), "PNG")
        assert (decoded(data, new_height, new_width, 1, "crop") == 255).all()
        assert (decoded(data, 1, 37, 1, "crop") == 255).all()


def test_crop_keeps_the_centre() -> None:
    stripes = np.zeros((40, 120, 3), np.uint8)
    stripes[:, :40], stripes[:, 40:80], stripes[:, 80:] = RED, GREEN, BLUE
    wide, tall = Image.fromarray(stripes), Image.fromarray(stripes.transpose(1, 0, 2))
    for image in (wide, tall):
        pixels = decoded(encoded(image, "PNG"), 10, 10, resize="crop")
        assert gap(pixels[2:-2, 2:-2], GREEN).max() <= 1
        # The antialiasing reaches half a pixel beyond.
        assert gap(pixels, GREEN).max() < 40
    exact = decoded(encoded(wide, "PNG"), 40, 120, resize="crop")
    assert np.array_equal(exact, stripes)


def test_pad_keeps_the_whole_image_between_black() -> None:
    data = encoded(Image.new("RGB", (100, 50), WHITE), "PNG")
    wide = decoded(data, 16, 16, resize="pad")
    assert (wide[4:12] == 255).all()
    assert not wide[:4].any()
    assert not wide[12:].any()
    tall = decoded(data, 21, 10, 1, resize="pad")[..., 0]
    assert np.flatnonzero(tall[:, 5]).tolist() == [8, 9, 10, 11, 12]
    fits = decoded(encoded(corners(), "PNG"), 16, 24, resize="pad")
    assert fits.any(axis=-1).all()


@pytest.mark.parametrize(
    ("resize", "size"),
    [
        (resize, size)
        for resize in RESIZE_RULES
        for size in ((5000, 1), (1, 5000), (1, 1), (3, 4000))
    ],
)
def test_images_of_any_shape_are_read(resize: str, size: tuple[int, int]) -> None:
    for format in ("PNG", "JPEG"):
        data = encoded(Image.new("RGB", size, WHITE), format)
        assert decoded(data, 8, 12, resize=resize).shape == (8, 12, 3)
        assert decoded(data, 8, 12, resize=resize).max() > 0


SIZES = [(480, 640), (300, 1024), (900, 200), (130, 130), (700, 64), (20, 900)]


@pytest.mark.parametrize(
    ("shape", "resize", "target"),
    [
        (shape, resize, target)
        for shape in SIZES
        for resize in RESIZE_RULES
        for target in ((32, 32), (16, 48))
    ],
)
def test_jpeg_decoded_at_a_scale_is_as_decoded_in_full(
    shape: tuple[int, int], resize: str, target: tuple[int, int]
) -> None:
    jpeg = encoded(photo(*shape), "JPEG", quality=90)
    full = encoded(Image.open(io.BytesIO(jpeg)).convert("RGB"), "PNG")
    difference = gap(decoded(jpeg, *target, resize=resize), decoded(full, *target, resize=resize))
    assert difference.mean() < 1


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 32), st.integers(1, 32))
def test_a_padded_jpeg_lies_where_the_same_image_without_loss_lies(
    height: int, width: int, new_height: int, new_width: int
) -> None:
    white = Image.new("L", (width, height), 255)
    jpeg = decoded(encoded(white, "JPEG"), new_height, new_width, 1, "pad")
    png = decoded(encoded(white, "PNG"), new_height, new_width, 1, "pad")
    assert np.array_equal(jpeg > 127, png > 127)


def test_reading_is_the_same_every_time() -> None:
    data = encoded(photo(300, 400), "JPEG")
    assert np.array_equal(decoded(data, 32, 32), decoded(data, 32, 32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "image size 0x8 cannot be used"),
        ({"width": -1}, "image size 8x-1"),
        ({"width": 8193}, "image size 8x8193"),
        ({"channels": 4}, "4 channels cannot be read: use 1 or 3"),
        ({"channels": 0}, "0 channels"),
        ({"pixel_range": "0..2"}, "pixel range '0..2' is unknown"),
        ({"resize": "squeeze"}, "resize rule 'squeeze' is unknown"),
        ({"resize": None}, "resize rule None is unknown"),
    ],
)
def test_a_size_or_rule_that_cannot_be_used_is_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Preprocessing(**{"height": 8, "width": 8, "channels": 3, **change})


@pytest.mark.parametrize(
    "change", [{"height": "64"}, {"height": None}, {"height": 64.5}, {"channels": 3.0}]
)
def test_a_size_is_a_whole_number(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=r"image size or channels .*: give whole numbers"):
        Preprocessing(**{"height": 8, "width": 8, "channels": 3, **change})


def test_all_rules_and_ranges_are_taken() -> None:
    for resize in RESIZE_RULES:
        for pixel_range in RANGES:
            spec = Preprocessing(1, 8192, 3, pixel_range, resize)
            assert spec.shape == (1, 8192, 3)


# --- damaged files -------------------------------------------------------------------

WHOLE = {
    "JPEG": encoded(photo(24, 24), "JPEG"),
    "progressive JPEG": encoded(photo(24, 24), "JPEG", progressive=True),
    "PNG": encoded(photo(24, 24), "PNG"),
    "WEBP": encoded(photo(24, 24), "WEBP"),
    "GIF": encoded(photo(24, 24), "GIF"),
    "BMP": encoded(photo(24, 24), "BMP"),
    "TIFF": encoded(photo(24, 24), "TIFF"),
    "LZW TIFF": encoded(photo(24, 24), "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("format", WHOLE)
def test_a_file_cut_anywhere_is_refused_or_has_all_its_pixels(format: str) -> None:
    data = WHOLE[format]
    whole = decoded(data, 24, 24)
    refused = 0
    for length in range(len(data)):
        try:
            pixels = decoded(data[:length], 24, 24)
        except ImageError:
            refused += 1
        else:
            assert np.array_equal(pixels, whole), length
    assert refused >= len(data) - 25


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_file_cut_in_half_is_damaged_or_truncated(format: str) -> None:
    data = encoded(photo(256, 256), format)
    with pytest.raises(ImageError, match="the image: damaged or truncated"):
        decoded(data[: len(data) // 2], 24, 24)


def test_a_changed_byte_of_png_pixels_is_found() -> None:
    # Pillow checks a chunk only as far as it needs data for the pixels: verify() checks the rest.
    data = WHOLE["PNG"]
    whole = decoded(data, 24, 24)
    wrong = []
    for position in range(8, len(data) - 12, 3):
        damaged = bytearray(data)
        damaged[position] ^= 0x80
        try:
            if not np.array_equal(decoded(bytes(damaged), 24, 24), whole):
                wrong.append(position)
        except ImageError:
            pass
    assert wrong == []


@given(st.binary(max_size=200), st.sampled_from(sorted(WHOLE)), st.integers(0, 60))
def test_any_bytes_are_an_image_or_an_image_error(tail: bytes, format: str, length: int) -> None:
    for data in (tail, WHOLE[format][:length] + tail):
        blamed, shape = "the image", (8, 8, 3)
        try:
            shape = decoded(data, 8, 8).shape
        except ImageError as error:
            blamed = error.path
        assert (blamed, shape) == ("the image", (8, 8, 3))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"just text\n", "a text file"),
        (b"<svg/>", "an SVG drawing, which has no pixels"),
        (b"<!DOCTYPE html><p>404", "an HTML page, as a failed download leaves"),
        (b"%PDF-1.7", "a PDF document"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
            "a git-LFS pointer, not the image: run git lfs pull",
        ),
        (b"\x00" * 100, "nothing but zero bytes: its content was lost"),
        (b"name\0".ljust(257, b"\0") + b"ustar\0" + bytes(200), "a tar archive"),
        (
            b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
            "camera raw (Canon CR3): export it as JPEG or TIFF",
        ),
        (b"\0\0\0\x18ftypisom\0\0\0\1mp41avc1", "a video or another ISO media file (brand 'isom')"),
        (b'{"a": 1}', "a JSON document"),
        (b"[package]\nname = 1\n", "a text file"),
        (b"II*\0", "damaged header: its TIFF directory cannot be read"),
    ],
)
def test_what_is_no_image_is_refused_by_what_it_is(
    data: bytes, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "image.jpg"
    file.write_bytes(data)
    for reader in (lambda: read_image(file, Preprocessing(8, 8, 3)), lambda: probe(str(file))):
        with pytest.raises(ImageError) as caught:
            reader()
        assert str(caught.value) == f"{file}: {reason}"


def test_a_format_that_is_not_listed_is_refused() -> None:
    with pytest.raises(ImageError, match="not one of JPEG"):
        decoded(encoded(Image.new("RGB", (16, 16)), "PCX"), 8, 8)


@pytest.mark.parametrize(
    ("format", "options", "limit"),
    [
        ("AVIF", {"quality": 95}, 6),
        ("JPEG2000", {}, 1),
        ("PPM", {}, 1),
        ("ICO", {"sizes": [(64, 64)]}, 1),
        ("TGA", {}, 1),
        ("DIB", {}, 1),
        ("HEIF", {"quality": 95}, 6),
    ],
)
def test_further_formats_are_read(
    format: str, options: dict[str, Any], limit: float, tmp_path: Path
) -> None:
    if format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    image = corners(64, 64)
    file = tmp_path / f"image.{format.lower()}"
    file.write_bytes(encoded(image, format, **options))
    assert gap(read_image(file, Preprocessing(64, 64, 3)), image).mean() <= limit
    shape = probe(str(file))
    assert (shape.height, shape.width, shape.channels) == (64, 64, 3)


def test_sixteen_bit_netpbm_is_scaled() -> None:
    data = b"P5 2 1 65535\n" + bytes([0, 0, 255, 255])
    assert decoded(data, 1, 2, 1).ravel().tolist() == [0, 255]


def test_tga_without_a_footer_needs_its_name() -> None:
    data = encoded(corners(16, 16), "TGA")[:-26]
    with pytest.raises(ImageError, match="not one of JPEG"):
        decoded(data, 8, 8)
    pixels = decode_pixels(data, Preprocessing(16, 16, 3), name="old/a.TGA")
    assert gap(pixels, corners(16, 16)).max() <= 1


def test_heic_without_the_extra_is_refused_by_what_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"HEIC and HEIF need an extra: .*latentdb\[heif\]"):
        decoded(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", 8, 8)


def test_a_jpeg_of_another_depth_is_refused_by_its_depth() -> None:
    data = bytearray(encoded(corners(16, 16), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(ImageError, match="12-bit JPEG is not read: save it with 8 bits"):
        decoded(bytes(data), 8, 8)


def test_an_inner_image_larger_than_its_header_says_is_a_bomb() -> None:
    inner = bomb(20_000, 20_000)
    entry = struct.pack("<4B2H2I", 0, 0, 0, 0, 1, 32, len(inner), 22)
    with pytest.raises(ImageError, match="decompression bomb"):
        decoded(b"\0\0\1\0\1\0" + entry + inner, 8, 8)
    data = bytearray(encoded(corners(16, 16), "JPEG2000"))
    size = data.index(b"\xff\x4f\xff\x51") + 8
    data[size : size + 8] = struct.pack(">2I", 1 << 20, 1 << 20)
    with pytest.raises(ImageError, match="decompression bomb"):
        decoded(bytes(data), 8, 8)


@pytest.mark.parametrize("size", [(20_000, 20_000), (14_000, 13_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_by_its_header(
    size: tuple[int, int], tmp_path: Path
) -> None:
    assert size[0] * size[1] > MAX_PIXELS
    file = tmp_path / "bomb.png"
    file.write_bytes(bomb(*size))
    with pytest.raises(ImageError, match=f"decompression bomb: .*over {MAX_PIXELS:,} pixels"):
        read_image(file, Preprocessing(8, 8, 3))
    with pytest.raises(ImageError, match="decompression bomb"):
        probe(str(file))


def test_a_large_image_below_the_limit_gives_no_warning() -> None:
    with warnings.catch_warnings(record=True) as caught:
        with pytest.raises(ImageError, match="truncated"):
            decoded(bomb(13_000, 13_000), 8, 8)
        assert caught == []


def test_a_text_that_unpacks_without_end_is_refused() -> None:
    text = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(100_000_000)))
    data = grey_png([b"\0"], 1, 8)
    with pytest.raises(ImageError, match="Decompressed data too large"):
        decoded(data[:33] + text + data[33:], 8, 8)


def test_reading_in_threads_leaves_the_warnings_of_the_program_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two threads read a file each; the first to begin is the first to end.
    data = WHOLE["PNG"]
    real = Image.open
    first_in, second_in = threading.Event(), threading.Event()
    gates = {"first": (first_in, second_in), "second": (second_in, threading.Event())}

    def open_between(*args: Any, **options: Any) -> Image.Image:
        mine, other = gates[threading.current_thread().name]
        mine.set()
        other.wait(2)
        return real(*args, **options)

    monkeypatch.setattr(Image, "open", open_between)
    first, second = (
        threading.Thread(target=decoded, args=(data, 8, 8), name=name) for name in gates
    )
    with warnings.catch_warnings():
        before = list(warnings.filters)
        first.start()
        first_in.wait(2)
        second.start()
        first.join()
        gates["second"][1].set()
        second.join()
        after = list(warnings.filters)
    assert [entry for entry in before if entry not in after] == []
    added = {entry[2] for entry in after if entry not in before}
    assert added <= {Image.DecompressionBombWarning}


# --- files ---------------------------------------------------------------------------


def test_read_bytes_gives_the_content(tmp_path: Path) -> None:
    file = tmp_path / "any"
    file.write_bytes(b"content")
    assert read_bytes(str(file)) == b"content"


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    empty, folder, pipe = tmp_path / "empty.jpg", tmp_path / "folder.jpg", tmp_path / "pipe.jpg"
    broken, loop, large = tmp_path / "broken.jpg", tmp_path / "loop.jpg", tmp_path / "large.jpg"
    empty.touch()
    folder.mkdir()
    os.mkfifo(pipe)  # to be opened without waiting for a writer
    broken.symlink_to(tmp_path / "gone")
    loop.symlink_to(loop)
    with large.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    for path, message in (
        (empty, "empty file"),
        (folder, "is a directory"),
        (pipe, "not a regular file"),
        (broken, "no such file or directory"),
        (loop, "too many levels of symbolic links"),
        (tmp_path / "gone.jpg", "no such file or directory"),
        (empty / "x.jpg", "not a directory"),
        (tmp_path / ("a" * 300), "file name too long"),
        (large, "over the limit of 1 GiB"),
    ):
        with pytest.raises(ImageError, match=message) as caught:
            read_bytes(str(path))
        assert caught.value.path == str(path)
        with pytest.raises(ImageError, match=message):
            read_image(path, Preprocessing(8, 8, 3))
        with pytest.raises(ImageError, match=message):
            probe(str(path))


@pytest.mark.parametrize("path", ["a\0b.jpg", "\ud800.jpg"])
def test_an_invalid_path_is_refused(path: str) -> None:
    with pytest.raises(ImageError, match=r"embedded null byte|surrogates not allowed"):
        read_bytes(path)


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("I;16", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)],
)
def test_probe_gives_shape_and_channels(mode: str, channels: int, tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    Image.new(mode, (5, 7)).save(file)
    assert probe(str(file)) == ImageShape(7, 5, channels)
