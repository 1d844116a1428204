"""ICC profiles and backgrounds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from latentdb.base.errors import InvalidInputError
from latentdb.images import colour, jpeg
from latentdb.images.decode import Preprocessing, decode_pixels, read_image
from tests.images.test_decode import encoded, gap, photo

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def linear_profile() -> bytes:
    """The sRGB profile with its tone curves replaced by a gamma of 1."""
    data = bytearray(SRGB)
    count = int.from_bytes(data[128:132], "big")
    for number in range(count):
        entry = 132 + 12 * number
        if bytes(data[entry : entry + 4]) in (b"rTRC", b"gTRC", b"bTRC"):
            offset = int.from_bytes(data[entry + 4 : entry + 8], "big")
            # A parametric curve of kind 0 has one number: its exponent, here 1.0.
            data[offset : offset + 16] = (
                b"para" + bytes(4) + bytes(4) + (1 << 16).to_bytes(4, "big")
            )
    return bytes(data)


LINEAR = linear_profile()


def linear_to_srgb(pixels: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, of levels 0 to 255."""
    share = pixels / 255
    return 255 * np.where(
        share <= 0.0031308, 12.92 * share, 1.055 * np.maximum(share, 1e-9) ** (1 / 2.4) - 0.055
    )


def spec(size: int = 64, **options: str) -> Preprocessing:
    return Preprocessing(size, size, 3, **{"icc": "srgb", **options})


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF"])
def test_a_profile_is_converted_to_srgb(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = photo(64, 64)
    options = {"WEBP": {"lossless": True}, "PNG": {}, "TIFF": {}}.get(format, {"quality": 100})
    data = encoded(image, format, icc_profile=LINEAR, **options)
    truth = linear_to_srgb(np.asarray(image))
    for decoder in (jpeg.simplejpeg_decoder, lambda: None):
        monkeypatch.setattr(jpeg, "simplejpeg_decoder", decoder)
        found = decode_pixels(data, spec(), name="a").astype(float)
        stored = decode_pixels(data, spec(icc="ignore"), name="a")
        assert np.abs(found - truth).mean() < (1 if options.get("quality") is None else 6)
        assert np.abs(stored - np.asarray(image, float)).mean() < 6
        assert np.abs(found - stored).mean() > 20


@pytest.mark.parametrize("profile", [SRGB, b"", b"damaged" * 40, LINEAR[:200]], ids=len)
def test_srgb_and_damaged_profiles_change_nothing(profile: bytes) -> None:
    image = photo(64, 64)
    data = encoded(image, "PNG", icc_profile=profile)
    assert np.array_equal(decode_pixels(data, spec(), name="a"), np.asarray(image))


def test_a_profile_of_another_colour_space_is_ignored() -> None:
    grey = photo(64, 64).convert("L")
    data = encoded(grey, "PNG", icc_profile=LINEAR)
    assert gap(decode_pixels(data, spec(), name="a"), grey.convert("RGB")).max() == 0


def test_a_profile_and_transparency_go_together() -> None:
    image = photo(64, 64)
    image.putalpha(128)
    data = encoded(image, "PNG", icc_profile=LINEAR)
    truth = linear_to_srgb(np.asarray(image)[..., :3]) * 128 / 255 + 255 * 127 / 255
    assert np.abs(decode_pixels(data, spec(), name="a") - truth).max() <= 2


@pytest.mark.parametrize(
    ("background", "expected"),
    [("white", (255, 255, 255)), ("black", (0, 0, 0)), ("7,80,200", (7, 80, 200))],
)
def test_a_background_shows_through(background: str, expected: tuple[int, ...]) -> None:
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    image.paste((0, 255, 0, 255), (0, 0, 16, 32))
    for format in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if format == "WEBP" else {}
        pixels = decode_pixels(
            encoded(image, format, **options), spec(32, background=background), name="a"
        )
        assert pixels[8, 8].tolist() == [0, 255, 0]
        assert pixels[8, 24].tolist() == list(expected)


def test_a_transparent_grey_of_16_bits_shows_the_background() -> None:
    buffer = io.BytesIO()
    levels = np.array([[0, 65535]], np.uint16)
    Image.fromarray(levels).save(buffer, "PNG", transparency=0)
    pixels = decode_pixels(buffer.getvalue(), Preprocessing(1, 2, 3, background="9,9,9"), name="a")
    assert pixels[0].tolist() == [[9, 9, 9], [255, 255, 255]]


def test_neither_black_nor_white_art_vanishes_on_a_checker(tmp_path: Path) -> None:
    seen = []
    for level in (0, 255):
        image = Image.new("RGBA", (64, 64), (level, level, level, 0))
        image.paste((level, level, level, 255), (16, 16, 48, 48))
        path = tmp_path / f"{level}.png"
        image.save(path)
        pixels = read_image(path, spec(background="checker"))
        assert gap(pixels[16:48, 16:48], (level,) * 3).max() == 0
        assert sorted(np.unique(pixels[:16])) == [102, 153]
        seen.append(pixels)
    assert not np.array_equal(*seen)


@pytest.mark.parametrize("text", ["", "pink", "1,2", "1,2,256", "-1,0,0", "1,2,3,4", "a,b,c"])
def test_another_background_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="use white, black, checker or R,G,B"):
        Preprocessing(8, 8, 3, background=text)


def test_another_icc_rule_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="use one of ignore, srgb"):
        Preprocessing(8, 8, 3, icc="yes")


def test_a_record_of_old_rules_is_as_old_versions_wrote_it() -> None:
    assert sorted(Preprocessing(8, 8, 3).to_record()) == [
        "channels", "height", "pixel_range", "resize", "width",
    ]  # fmt: skip
    new = Preprocessing(8, 8, 3, background="black", icc="srgb")
    assert Preprocessing(**new.to_record()) == new


def test_an_rgb_profile_changes_no_grey_image() -> None:
    grey = photo(32, 32).convert("L")
    assert not colour.changes_colours(SRGB, "L")
    assert np.array_equal(np.asarray(colour.to_srgb(grey, SRGB)), np.asarray(grey))
