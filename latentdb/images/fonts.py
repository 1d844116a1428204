"""Fonts of captions: one that has the letters, or the letters escaped."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from latentdb.base.wording import escaped, printable

# Looked for after Pillow's own, which has Latin letters; by name, where the system keeps them.
_NAMES = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "PingFang.ttc",
    "Arial Unicode.ttf", "msgothic.ttc",
)  # fmt: skip


def fitted(text: str, size: int) -> tuple[str, Any]:
    """A text, and a font that can draw it; letters that no font here has are escaped."""
    text = printable(text)
    fonts = _fonts(size)
    for number, font in enumerate(fonts):
        if all(_has(number, size, char) for char in text):
            return text, font
    return "".join(char if _has(0, size, char) else escaped(char) for char in text), fonts[0]


@lru_cache
def _fonts(size: int) -> tuple[Any, ...]:
    from PIL import ImageFont

    found: list[Any] = [ImageFont.load_default(size=size)]
    for name in _NAMES:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return tuple(found)


@lru_cache(8_192)
def _has(number: int, size: int, char: str) -> bool:
    """Whether a font has a letter: it draws all that are missing the same way."""
    if char.isascii():
        return True
    font = _fonts(size)[number]
    return bytes(font.getmask(char)) != bytes(font.getmask("\U0010fffe"))
