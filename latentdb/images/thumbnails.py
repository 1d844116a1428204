"""Image files as a strip of thumbnails in HTML, for notebooks."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from latentdb.base.errors import ImageError
from latentdb.images.decode import Preprocessing, probe, read_image, to_pil
from latentdb.images.pixel_range import Pixels

_SIDE = 96


def thumbnail(path: str, side: int, background: str = "white") -> Pixels:
    """An image file as pixels, its aspect kept, made smaller to fit a square; in RGB.

    Raises
    ------
    ImageError
        If it cannot be read.
    """
    shape = probe(path)
    scale = min(1.0, side / max(shape.height, shape.width))
    height, width = (max(1, round(scale * sides)) for sides in (shape.height, shape.width))
    return read_image(path, Preprocessing(height, width, 3, background=background, icc="srgb"))


def strip(cells: Sequence[tuple[str | None, str, str]]) -> str:
    """HTML of image files side by side, each with a caption of two lines.

    Parameters
    ----------
    cells
        Path, first line (plain) and second line (cut to the width) of each.  A file that
        cannot be read is an empty frame.
    """
    figures = "".join(
        f'<figure style="display:inline-block;margin:4px;width:{_SIDE}px;vertical-align:top">'
        f"{_image(path)}"
        f'<figcaption style="font-size:11px;overflow:hidden;text-overflow:ellipsis;'
        f'white-space:nowrap" title="{html.escape(name)}">{html.escape(line)}<br>'
        f"{html.escape(name)}</figcaption></figure>"
        for path, line, name in cells
    )
    return f"<div>{figures}</div>"


def _image(path: str | None) -> str:
    frame = f"width:{_SIDE}px;height:{_SIDE}px"
    data = None if path is None else _read(path)
    if data is None:
        return f'<div style="{frame};border:1px solid #ccc;box-sizing:border-box"></div>'
    return f'<img style="{frame}" alt="" src="data:image/png;base64,{data}">'


def _read(path: str) -> str | None:
    """An image file as PNG in base64; None if it cannot be read."""
    try:
        picture = to_pil(read_image(path, Preprocessing(_SIDE, _SIDE, 3, "0..1", "pad")))
    except ImageError:
        return None
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
