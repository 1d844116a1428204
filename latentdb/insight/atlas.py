"""The picture of a map: points, thumbnails framed by colour, a legend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentdb.images.decode import to_pil
from latentdb.images.fonts import fitted
from latentdb.images.pixel_range import Pixels
from latentdb.images.render import one_line
from latentdb.store.columns import Value

if TYPE_CHECKING:
    from PIL import Image as PILImage

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Color: TypeAlias = tuple[int, int, int]

_SIDE = 1_600  # of the map
_MARGIN = 30
_LEGEND = 260  # width of the column at the right
_THUMBNAIL, _FRAME = 34, 3
_CELL = _THUMBNAIL + 2 * _FRAME + 2
_LINE = 26
_MOST_LABELS = 20
# Distinct hues first, then their lighter forms (Tableau 20).
_PALETTE: tuple[Color, ...] = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (140, 86, 75), (227, 119, 194), (188, 189, 34), (23, 190, 207), (90, 90, 160),
    (174, 199, 232), (255, 187, 120), (152, 223, 138), (255, 152, 150), (197, 176, 213),
    (196, 156, 148), (247, 182, 210), (219, 219, 141), (158, 218, 229), (60, 60, 60),
)  # fmt: skip
_OTHER: Color = (190, 190, 190)
# From low to high: dark blue, green, yellow (after viridis).
_RAMP = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)])
_SPREAD = 0.5, 99.5  # percentiles that the picture shows; points beyond lie on its edge


def thumbnail_points(points: Floats) -> Ints:
    """The point of each occupied cell that is nearest to the middle of it, ascending."""
    pixels = _pixels(points)
    cells = pixels // _CELL
    columns = _SIDE // _CELL + 1
    keys = (cells[:, 1] * columns + cells[:, 0]).astype(np.int64)
    off = np.abs(pixels - (cells + 0.5) * _CELL).max(axis=1)
    order = np.argsort(keys.astype(np.int16), kind="stable")  # of a thousand cells
    keys, off = keys[order], off[order]
    firsts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    counts = np.diff(np.append(firsts, len(keys)))
    nearest = np.flatnonzero(off == np.minimum.reduceat(off, firsts).repeat(counts))
    return np.sort(order[nearest[nearest.searchsorted(firsts)]])


def _pixels(points: Floats, side: int = _SIDE) -> NDArray[np.float64]:
    """Where points lie on the canvas, ``[n, 2]``; the same scale on both axes."""
    low, high = np.percentile(points, _SPREAD, axis=0)
    middle, width = (low + high) / 2, max(float((high - low).max()), 1e-9)
    scaled = (points - middle) / width + 0.5
    return np.asarray(_MARGIN + scaled.clip(0, 1) * (side - 2 * _MARGIN - 1), np.float64)


def draw_map(
    points: Floats,
    shown: Ints,
    images: Sequence[Pixels],
    values: Sequence[Value | None] | None,
    title: str,
    note: str,
    *,
    side: int = _SIDE,
) -> PILImage.Image:
    """Draw points, the images of some of them, and a legend.

    Parameters
    ----------
    points
        float32 ``[n, 2]``.
    shown, images
        From `thumbnail_points`, and their images; no images for points alone.
    values
        What each point is coloured by; None for one colour.
    title
        Of the legend.
    note
        What is written below it.
    side
        Of the map, in pixels; thumbnails have their places at the default only.
    """
    from PIL import Image, ImageDraw

    pixels = _pixels(points, side)
    colors, legend = _colors(values, len(points))
    corners = pixels.astype(np.int64)
    ground = np.full(side * side, 0xFFFFFFFF, "<u4")  # red, green, blue and 255 in one number
    packed = np.insert(colors, 3, 255, axis=1).view("<u4")[:, 0]
    places = corners[:, 1] * side + corners[:, 0]
    radius = 1 if len(points) > 2_000 else 2
    for down in range(-radius, radius + 1):
        for right in range(-radius, radius + 1):
            ground[places + (down * side + right)] = packed
    canvas = Image.new("RGB", (side + _LEGEND, side), "white")
    canvas.paste(Image.fromarray(ground.view(np.uint8).reshape(side, side, 4)[..., :3]))
    for number, image in zip(shown.tolist(), images, strict=False):
        picture = to_pil(image).convert("RGB")
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        framed = _THUMBNAIL + 2 * _FRAME
        tile = Image.new("RGB", (framed, framed), tuple(colors[number].tolist()))
        tile.paste(picture, ((framed - picture.width) // 2, (framed - picture.height) // 2))
        left, top = (corners[number] // _CELL * _CELL).tolist()
        canvas.paste(tile, (left, top))
    _draw_legend(ImageDraw.Draw(canvas), side, title, legend, f"{len(points):,} rows", note)
    return canvas


def _colors(
    values: Sequence[Value | None] | None, count: int
) -> tuple[NDArray[np.uint8], list[tuple[str, Color]]]:
    """The colour of each point, uint8 ``[n, 3]``, and the lines of the legend."""
    colors = np.full((count, 3), _OTHER, np.uint8)
    if values is None:
        colors[:] = _PALETTE[0]
        return colors, []
    distinct = Counter(values)
    del distinct[None]  # no error if there is none
    if len(distinct) > _MOST_LABELS and all(type(value) in (int, float) for value in distinct):
        return _ramp_colors(values, colors)
    counts: Counter[str] = Counter()
    for value, number_of in distinct.items():
        counts[str(value)] += number_of
    named = sorted(name for name, _ in counts.most_common(_MOST_LABELS))
    number = {name: index for index, name in enumerate(named)}
    legend = []
    color_of: dict[Value | None, int] = {
        value: number.get(str(value), -1) for value in (*distinct, None)
    }
    indices = np.fromiter(map(color_of.__getitem__, values), np.int64, count)
    colors[indices >= 0] = np.array(_PALETTE, np.uint8)[indices[indices >= 0]]
    for name in named:
        legend.append((f"{one_line(name)[:18]}  {counts[name]:,}", _PALETTE[number[name]]))
    others = count - sum(counts[name] for name in named)
    if others:
        legend.append((f"others, missing  {others:,}", _OTHER))
    return colors, legend


def _ramp_colors(
    values: Sequence[Value | None], colors: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], list[tuple[str, Color]]]:
    """Colours of numbers, from their 1st to their 99th percentile."""
    present = np.flatnonzero([isinstance(value, int | float) for value in values])
    numbers = np.array([float(value) for value in values if isinstance(value, int | float)])
    low, high = np.percentile(numbers, [1, 99])
    share = ((numbers - low) / max(high - low, 1e-300)).clip(0, 1) * (len(_RAMP) - 1)
    for channel in range(3):
        curve = np.interp(share, np.arange(len(_RAMP)), _RAMP[:, channel])
        colors[present, channel] = np.rint(curve)
    steps = np.linspace(low, high, len(_RAMP))
    legend = [
        (f"{value:.4g}", (int(red), int(green), int(blue)))
        for value, (red, green, blue) in zip(steps, _RAMP, strict=True)
    ]
    return colors, legend


def _draw_legend(
    draw: object, side: int, title: str, legend: Sequence[tuple[str, Color]], size: str, note: str
) -> None:
    from PIL import ImageDraw

    if not isinstance(draw, ImageDraw.ImageDraw):
        return
    left, top = side + 10, _MARGIN
    text, font = fitted(one_line(title), 16)
    draw.text((left, top), text, fill="black", font=font)
    for name, color in legend:
        top += _LINE
        draw.rectangle((left, top + 3, left + 14, top + 17), fill=color)
        text, font = fitted(name, 16)
        draw.text((left + 22, top), text, fill="black", font=font)
    top += 2 * _LINE
    for line in (size, *_wrapped(note, 32)):
        text, font = fitted(line, 13)
        draw.text((left, top), text, fill=(90, 90, 90), font=font)
        top += 18


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width)
