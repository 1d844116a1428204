"""What the page asks to be decoded or searched: parts with weights, then shifts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentdb.base.errors import InvalidInputError
from latentdb.model.generation import SOURCES

MAX_PARTS = 32
MAX_BLENDS = 64
MAX_CORNERS = 500
MAX_WHERE = 2_000
MAX_WEIGHT = 1e6
MAX_NAME = 200
MAX_SEED = 2**31
_PART = (
    'a part has one of "row", "image", "sample", "cluster", or any of "where", "polygon", '
    '"category", and a "weight"'
)


@dataclass(frozen=True)
class Selection:
    """Rows that are averaged: those that fulfil all of what is given.

    Attributes
    ----------
    where
        A metadata expression.
    polygon
        Corners on the map.
    category
        A column and the number of one of its categories, as `Views.column` gives them.
    """

    where: str | None = None
    polygon: tuple[tuple[float, float], ...] | None = None
    category: tuple[str, int] | None = None


@dataclass(frozen=True)
class Sampled:
    """One of the latents that are drawn with a seed."""

    seed: int
    number: int
    source: str


@dataclass(frozen=True)
class Clustered:
    """The mean of one of `count` clusters."""

    count: int
    number: int


@dataclass(frozen=True)
class Uploaded:
    """An image that was uploaded."""

    token: str


@dataclass(frozen=True)
class Part:
    """A latent of a blend, and its weight; a row is its number."""

    of: int | Selection | Sampled | Clustered | Uploaded
    weight: float


@dataclass(frozen=True)
class Blend:
    """Latents with weights, moved along dimensions and directions.

    Attributes
    ----------
    parts
        1 to 32.
    method
        As of `latentdb.model.arithmetic.blend`, which checks it.
    shifts
        Standard deviations by dimension.
    directions
        Factors by the name of a saved recipe.
    """

    parts: tuple[Part, ...]
    method: str = "linear"
    shifts: tuple[tuple[int, float], ...] = ()
    directions: tuple[tuple[str, float], ...] = ()


def read_blend(body: object) -> Blend:
    """A blend of JSON: ``{"parts": [{"row": 3, "weight": 0.5}, ...], "method": "linear"}``.

    Raises
    ------
    InvalidInputError
        If it is none.
    """
    given = body if isinstance(body, Mapping) else {}
    parts = given.get("parts")
    if not isinstance(parts, list) or not 1 <= len(parts) <= MAX_PARTS:
        raise InvalidInputError(f'expected {{"parts": [...]}} with 1 to {MAX_PARTS} parts')
    method = given.get("method", "linear")
    if not isinstance(method, str):
        raise InvalidInputError('method must be "linear", "slerp" or "norm"')
    shifts = [
        (read_whole(int(key) if key.isdecimal() and len(key) < 10 else None, "a dimension"), value)
        for key, value in _factors(given.get("shifts", {}), "shifts")
    ]
    directions = _factors(given.get("directions", {}), "directions")
    return Blend(tuple(map(_read_part, parts)), method, tuple(shifts), tuple(directions))


def read_blends(body: object) -> list[Blend]:
    """One blend, or ``{"blends": [...]}``."""
    if not isinstance(body, Mapping) or "blends" not in body:
        return [read_blend(body)]
    blends = body["blends"]
    if not isinstance(blends, list) or not 1 <= len(blends) <= MAX_BLENDS:
        raise InvalidInputError(f'expected {{"blends": [...]}} with 1 to {MAX_BLENDS} blends')
    return [read_blend(blend) for blend in blends]


def _read_part(part: object) -> Part:
    if not isinstance(part, Mapping):
        raise InvalidInputError(_PART)
    kinds = [kind for kind in ("row", "image", "sample", "cluster") if kind in part]
    selecting = any(part.get(name) is not None for name in ("where", "polygon", "category"))
    weight = _number(part.get("weight", 1), "a weight")
    if len(kinds) + selecting != 1:
        raise InvalidInputError(_PART)
    if selecting:
        return Part(read_selection(part), weight)
    value = part[kinds[0]]
    if kinds[0] == "row":
        return Part(read_whole(value, "a row", 2**62), weight)
    if kinds[0] == "image":
        return Part(Uploaded(read_text(value, "an image")), weight)
    if not isinstance(value, list) or len(value) != 2:
        raise InvalidInputError(f"{kinds[0]} must be a list of two numbers")
    first, second = (read_whole(number, kinds[0]) for number in value)
    if kinds[0] == "cluster":
        return Part(Clustered(first, second), weight)
    source = part.get("source", SOURCES[0])
    if source not in SOURCES:
        raise InvalidInputError(f"source must be one of {', '.join(SOURCES)}")
    return Part(Sampled(first, second, source), weight)


def read_selection(given: Mapping[Any, Any]) -> Selection:
    """The rows of ``{"where": EXPR, "polygon": [[x, y], ...], "category": [COLUMN, NUMBER]}``."""
    where, polygon, category = (given.get(name) for name in ("where", "polygon", "category"))
    if where is not None and len(read_text(where, "where", MAX_WHERE)) == 0:
        raise InvalidInputError("where is empty: leave it out, or give an expression")
    corners = None
    if polygon is not None:
        if not isinstance(polygon, list) or not 3 <= len(polygon) <= MAX_CORNERS:
            raise InvalidInputError(f"a polygon is a list of 3 to {MAX_CORNERS} corners [x, y]")
        corners = tuple(map(_corner, polygon))
    chosen = None
    if category is not None:
        if not isinstance(category, list) or len(category) != 2:
            raise InvalidInputError("a category is a column and a number")
        chosen = read_text(category[0], "a column"), read_whole(category[1], "a category")
    return Selection(where, corners, chosen)


def _corner(corner: object) -> tuple[float, float]:
    if not isinstance(corner, list) or len(corner) != 2:
        raise InvalidInputError("a corner of a polygon is [x, y]")
    return _number(corner[0], "a corner", 1e30), _number(corner[1], "a corner", 1e30)


def _factors(given: object, name: str) -> list[tuple[str, float]]:
    if not isinstance(given, Mapping) or len(given) > MAX_BLENDS:
        raise InvalidInputError(f"{name} are an object of up to {MAX_BLENDS} numbers")
    return [(read_text(key, name), _number(value, name)) for key, value in given.items()]


def read_text(value: object, what: str, longest: int = MAX_NAME) -> str:
    """A text of JSON; raises `InvalidInputError` for anything else."""
    if not isinstance(value, str) or len(value) > longest:
        raise InvalidInputError(f"{what} must be a text of up to {longest:,} characters")
    return value


def read_whole(value: object, what: str, most: int = MAX_SEED) -> int:
    """A whole number of JSON, from 0; raises `InvalidInputError` for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < most:
        raise InvalidInputError(f"{what} must be a whole number, 0 or more")
    return value


def _number(value: object, what: str, most: float = MAX_WEIGHT) -> float:
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not (math.isfinite(value) and abs(value) <= most)
    ):
        raise InvalidInputError(f"{what} must be a number up to {most:,.0f}")
    return float(value)
