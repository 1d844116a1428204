"""simplejpeg against Pillow, and JPEG files whose coded pixels were lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from latentdb.base.errors import ImageError
from latentdb.images import jpeg
from latentdb.images.decode import Preprocessing, decode_pixels
from tests.images.test_decode import Pixels, encoded, photo

needs_fast = pytest.mark.skipif(
    jpeg.simplejpeg_decoder() is None, reason="simplejpeg is not installed"
)


def outcome(data: bytes, spec: Preprocessing) -> Pixels | str:
    try:
        return decode_pixels(data, spec, name="the image")
    except ImageError as error:
        return error.reason


def both_ways(data: bytes, spec: Preprocessing) -> tuple[Pixels | str, Pixels | str]:
    """What becomes of a file with simplejpeg, and without."""
    fast = outcome(data, spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jpeg, "simplejpeg_decoder", lambda: None)
        return fast, outcome(data, spec)


@needs_fast
@settings(max_examples=150)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 3]),
    st.sampled_from(["stretch", "crop", "pad"]),
    st.integers(0, 9),
    st.sampled_from(
        [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"optimize": True},
         {"restart_marker_rows": 1}, {"quality": 30}, {"mode": "L"}]
    ),
)  # fmt: skip
def test_both_decoders_give_the_same_pixels(
    height: int,
    width: int,
    new_height: int,
    new_width: int,
    channels: int,
    resize: str,
    orientation: int,
    options: dict[str, Any],
) -> None:
    options = dict(options)
    image = photo(height, width).convert(options.pop("mode", "RGB"))
    if orientation:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    spec = Preprocessing(new_height, new_width, channels, resize=resize)
    fast, slow = both_ways(encoded(image, "JPEG", **options), spec)
    assert isinstance(fast, np.ndarray)
    assert np.array_equal(fast, slow)


@needs_fast
def test_plain_files_are_decoded_by_simplejpeg_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, calls = jpeg.simplejpeg_decoder(), []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(options)
        assert real is not None
        return real(*arguments, **options)

    monkeypatch.setattr(jpeg, "simplejpeg_decoder", lambda: counted)
    out = np.empty((32, 48, 3), np.uint8)
    spec = Preprocessing(32, 48, 3)
    image = photo(32, 48)
    decode_pixels(encoded(image, "JPEG"), spec, name="x", out=out)
    assert len(calls) == 1
    assert calls[0]["buffer"] is out
    for format, mode in (("PNG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGB")):
        decode_pixels(encoded(image.convert(mode), format), spec, name="x", out=out)
    assert len(calls) == 1


@needs_fast
@settings(max_examples=100)
@given(st.data())
def test_damage_has_the_same_outcome_either_way(data: st.DataObject) -> None:
    whole = bytearray(encoded(photo(96, 120), "JPEG", progressive=data.draw(st.booleans())))
    offset = data.draw(st.integers(3, len(whole) - 1))
    length = data.draw(st.sampled_from([1, 2, 30, 600, 3000]))
    fill = data.draw(st.sampled_from([b"\0", b"\xff", b"\xa5"]))
    whole[offset : offset + length] = fill * len(whole[offset : offset + length])
    fast, slow = both_ways(bytes(whole), Preprocessing(24, 24, 3))
    assert np.array_equal(fast, slow)  # pixels, or the same reason


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("optimize", [False, True])
def test_a_zeroed_middle_is_refused_with_and_without_simplejpeg(
    progressive: bool, optimize: bool
) -> None:
    whole = encoded(photo(256, 320), "JPEG", progressive=progressive, optimize=optimize)
    assert jpeg.find_zero_run(whole) is None
    middle = len(whole) // 2
    data = whole[:middle] + bytes(1024) + whole[middle + 1024 :]
    for reason in both_ways(data, Preprocessing(32, 32, 3)):
        assert isinstance(reason, str)
        assert reason.startswith("damaged: its pixels are lost (zero bytes) from byte ")
        assert middle - 512 <= int(reason.split()[-2]) <= middle


def test_a_tail_that_was_never_written_is_refused() -> None:
    # A download into a file that was preallocated.
    whole = encoded(photo(256, 320), "JPEG")
    half = len(whole) // 2
    for reason in both_ways(whole[:half] + bytes(len(whole) - half), Preprocessing(32, 32, 3)):
        assert isinstance(reason, str)
        assert "its pixels are lost" in reason


@pytest.mark.parametrize(
    "options",
    [{"optimize": True}, {"progressive": True}, {"optimize": True, "subsampling": 0}, {}],
)
@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (200, 30, 90)])
def test_a_plain_image_may_have_zeros(
    options: dict[str, Any], colour: tuple[int, int, int]
) -> None:
    # Under optimised tables "no change, end of block" may be two zero bits.
    data = encoded(Image.new("RGB", (2000, 2000), colour), "JPEG", **options)
    assert jpeg.find_zero_run(data) is None
    pixels = outcome(data, Preprocessing(8, 8, 3))
    assert isinstance(pixels, np.ndarray)
    assert np.abs(pixels.astype(int) - colour).max() <= 3


def test_plain_images_with_zeros_are_among_those_tested() -> None:
    data = encoded(Image.new("L", (2000, 2000), 255), "JPEG", optimize=True)
    assert data.count(bytes(jpeg.ZERO_RUN)) > 0


def test_zeros_outside_the_pixels_are_no_damage() -> None:
    image = photo(64, 64)
    for data in (
        encoded(image, "JPEG", icc_profile=bytes(3000)),
        encoded(image, "JPEG", comment=bytes(3000)),
        encoded(image, "JPEG") + bytes(5000),
    ):
        assert jpeg.find_zero_run(data) is None
        assert isinstance(outcome(data, Preprocessing(8, 8, 3)), np.ndarray)


@given(st.binary(max_size=80), st.integers(0, 1400))
def test_any_bytes_have_a_frame_header_or_none(tail: bytes, length: int) -> None:
    data = encoded(photo(64, 64), "JPEG")[:length] + tail + bytes(600)
    for text in (data, jpeg.START + tail, tail):
        found = jpeg.read_frame(text)
        assert found is None or found.components >= 0
        offset = jpeg.find_zero_run(text)
        assert offset is None or text[offset : offset + jpeg.ZERO_RUN] == bytes(jpeg.ZERO_RUN)


def test_the_frame_header_is_read() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image, grey, cmyk = (photo(30, 40).convert(mode) for mode in ("RGB", "L", "CMYK"))
    for data, expected in (
        (encoded(image, "JPEG"), jpeg.Frame(30, 40, 3, True, False, False)),
        (encoded(image, "JPEG", exif=exif), jpeg.Frame(30, 40, 3, True, True, False)),
        (encoded(grey, "JPEG", progressive=True), jpeg.Frame(30, 40, 1, True, False, False)),
        (encoded(cmyk, "JPEG"), jpeg.Frame(30, 40, 4, True, False, False)),
        (
            encoded(image, "JPEG", icc_profile=bytes(200)),
            jpeg.Frame(30, 40, 3, True, False, True),
        ),
        (encoded(image, "PNG"), None),
    ):
        assert jpeg.read_frame(data) == expected


def test_the_scale_keeps_both_sides_large_enough() -> None:
    assert jpeg.scale_denominator(480, 640, (64, 64)) == 4
    assert jpeg.scale_denominator(512, 512, (64, 64)) == 8
    assert jpeg.scale_denominator(511, 5000, (64, 64)) == 4
    assert jpeg.scale_denominator(100, 100, (64, 64)) == 1
    assert jpeg.scale_denominator(10, 10, (64, 64)) == 1
    assert jpeg.scale_denominator(10_000, 10_000, (1, 1)) == 8
