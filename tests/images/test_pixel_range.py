"""Pixel ranges: written, read, and applied both ways."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentdb.base.errors import InvalidInputError
from latentdb.images.pixel_range import RANGES, parse_pixel_range

EVERY = np.arange(256, dtype=np.uint8).reshape(1, 256, 1, 1)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [("0..1", 0, 1), ("-1..1", -1, 1), ("0..255", 0, 255), ("0.5/0.25", -2, 2)],
)
def test_ends_of_each_range(text: str, low: float, high: float) -> None:
    values = parse_pixel_range(text, 1).encoder.normalize(EVERY)
    assert values.dtype == np.float32
    assert values.min() == pytest.approx(low)
    assert values.max() == pytest.approx(high)


@given(
    st.lists(st.floats(-2, 2), min_size=3, max_size=3),
    st.lists(st.floats(0.01, 10), min_size=3, max_size=3),
)
def test_pixels_survive_the_way_there_and_back(mean: list[float], std: list[float]) -> None:
    text = f"{','.join(map(repr, mean))}/{','.join(map(repr, std))}"
    pixels = np.broadcast_to(EVERY, (1, 256, 1, 3))
    range_ = parse_pixel_range(text, 3).encoder
    assert np.array_equal(range_.denormalize(range_.normalize(pixels)), pixels)


@pytest.mark.parametrize("text", RANGES)
def test_named_ranges_survive_too(text: str) -> None:
    range_ = parse_pixel_range(text, 1).encoder
    assert np.array_equal(range_.denormalize(range_.normalize(EVERY)), EVERY)


def test_a_decoder_may_have_its_own() -> None:
    both = parse_pixel_range("0..255:0..1", 3)
    assert (both.encoder.text, both.decoder.text) == ("0..255", "0..1")
    one = parse_pixel_range("-1..1", 3)
    assert one.encoder is one.decoder


def test_numbers_by_channel() -> None:
    range_ = parse_pixel_range("0.485,0.456,0.406/0.229,0.224,0.225", 3).encoder
    white = range_.normalize(np.full((1, 1, 1, 3), 255, np.uint8))
    assert np.allclose(white, [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0..2", "is unknown"),
        ("", "is unknown"),
        ("0..1:", "is unknown"),
        ("0.5", "is unknown"),
        ("nan/1", "is unknown"),
        ("0/1/2", "is unknown"),
        ("0.5/0", "not positive"),
        ("0.5/-1", "not positive"),
        ("1,2/1", "has 2 means and 1 deviation:"),
        ("9" * 600 + "/1", "is unknown"),
        (3, "is unknown"),
    ],
)
def test_another_text_is_refused(text: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        parse_pixel_range(text, 3)


@given(st.text(max_size=30))
def test_any_text_is_a_range_or_an_error(text: str) -> None:
    try:
        range_ = parse_pixel_range(text, 3).encoder
    except InvalidInputError:
        return
    assert np.isfinite(range_.normalize(EVERY)).all()
