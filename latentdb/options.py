"""What the command line takes as text, as values."""

from __future__ import annotations

from typing import Any

import click


class Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """64, or HEIGHTxWIDTH."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) > 2 or not all(part.isdigit() for part in parts):
            self.fail(f"{value!r} is no size: give 64, or HEIGHTxWIDTH", param, ctx)
        return int(parts[0]), int(parts[-1])


def as_floats(text: str | None) -> list[float] | None:
    """W,W,... as numbers; None for None."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no list of numbers: give W,W,...") from error
