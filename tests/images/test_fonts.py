"""Captions in a font that has their letters, or escaped."""

from __future__ import annotations

import pytest

from latentdb.images import fonts
from latentdb.images.fonts import fitted


def test_letters_that_no_font_has_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitted("cat é 1", 13)[0] == "cat é 1"
    assert fitted("a\x1b\n", 13)[0] == "a\\x1b\\n"
    monkeypatch.setattr(fonts, "_NAMES", ())
    fonts._fonts.cache_clear()
    fonts._has.cache_clear()
    text, font = fitted("猫.png", 13)
    assert text == "\\u732b.png"
    assert font.getlength(text) > 0
    fonts._fonts.cache_clear()
    fonts._has.cache_clear()


def test_a_font_of_the_system_is_found() -> None:
    names = [font.getname()[0] for font in fonts._fonts(13)]
    if "DejaVu Sans" not in names:
        pytest.skip("DejaVu is not installed")
    text, font = fitted("Ελληνικά Кошка", 13)
    assert text == "Ελληνικά Кошка"
    assert bytes(font.getmask("Я")) != bytes(font.getmask("\U0010fffe"))
