"""Texts of the command line as values."""

from __future__ import annotations

import click
import pytest

from latentdb.cli.options import Channels, Memory, Size, Weights
from tests.cli.running import run


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("12", 12),
        ("4G", 4 * 10**9),
        ("4g", 4 * 10**9),
        ("4GB", 4 * 10**9),
        ("4GiB", 4 << 30),
        ("4Gi", 4 << 30),
        (" 1.5 M ", 1_500_000),
        ("500k", 500_000),
        ("2T", 2 * 10**12),
        ("7b", 7),
    ],
)
def test_a_size_is_bytes(text: str, count: int) -> None:
    assert Memory().convert(text, None, None) == count


def test_the_words_on_sizes_are_those_of_their_numbers() -> None:
    words = " ".join(run("optimize", "--help").stdout.split())
    assert "4G is 4 x 10^9, 4GiB is 4 x 2^30" in words
    with pytest.raises(click.BadParameter, match=r"4G \(10\^9\) or 4GiB \(2\^30\)"):
        Memory().convert("4X", None, None)


def test_an_image_size_is_a_height_and_a_width() -> None:
    assert Size().convert("64", None, None) == (64, 64)
    assert Size().convert("32x48", None, None) == (32, 48)
    for text in ("", "x", "1x2x3", "-4", "4.5"):
        with pytest.raises(click.BadParameter, match="is not a size: give 64, or HEIGHTxWIDTH"):
            Size().convert(text, None, None)


def test_weights_and_channels_are_numbers() -> None:
    assert Weights().convert("2,-1", None, None) == [2.0, -1.0]
    assert Channels().convert("3", None, None) == 3
