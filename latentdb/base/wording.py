"""Numbers with their nouns, for messages."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun: "1 row", "2,000 rows"; `plural` where it is not noun + s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
