"""Numbers with their nouns, and texts of others, for messages."""

from __future__ import annotations

from unicodedata import category

MAX_NAME = 80  # characters of a name in a message


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun: "1 row", "2,000 rows"; `plural` where it is not noun + s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def megabytes(size: int) -> str:
    """A number of bytes, in MB; small ones in kB."""
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


def printable(text: str) -> str:
    """A text in one line, without what a terminal would obey: control characters are escaped."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or category(char) == "Zs" else escaped(char) for char in text
    )


def clipped(text: object) -> str:
    """A text of a file that is not trusted, for a message: one line, at most 80 characters."""
    shown = printable(str(text)[: MAX_NAME + 1])
    return shown if len(shown) <= MAX_NAME else shown[: MAX_NAME - 1] + "…"


def quoted(name: object) -> str:
    """A name of a file that is not trusted, in quotes: as `clipped`."""
    return f"'{clipped(name)}'"


def escaped(char: str) -> str:
    """A character by its code point, as Python writes it."""
    return char.encode("unicode_escape").decode()
