"""Bar charts of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from latentdb.insight.evaluation import Evaluation

if TYPE_CHECKING:
    from PIL import Image as PILImage

Color: TypeAlias = tuple[int, int, int]

_LEFT, _BAR_LENGTH, _RIGHT = 170, 520, 150
_BAR, _GAP, _TITLE = 20, 6, 36
_OWN, _BEST, _OTHER = (76, 114, 176), (44, 130, 80), (170, 170, 170)


@dataclass(frozen=True)
class _Bar:
    name: str
    value: float
    text: str
    color: Color
    low: float | None = None
    high: float | None = None


def draw_evaluation(found: Evaluation) -> PILImage.Image:
    """The scores as horizontal bars with their intervals; the best metric is green."""
    from PIL import Image, ImageDraw, ImageFont

    charts = _charts(found)
    height = sum(_TITLE + len(bars) * (_BAR + _GAP) + _GAP for _, bars in charts) + _TITLE
    canvas = Image.new("RGB", (_LEFT + _BAR_LENGTH + _RIGHT, height), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=14)
    top = _GAP
    for title, bars in charts:
        draw.text((_GAP, top + 8), title, fill="black", font=font)
        top += _TITLE
        values = [bar.high or bar.value for bar in bars]
        scale = max((value for value in values if np.isfinite(value)), default=1.0) or 1.0
        for bar in bars:
            _draw_bar(draw, font, bar, top, scale)
            top += _BAR + _GAP
        top += _GAP
    note = f"{found.queries:,} queries among {found.gallery:,} rows"
    draw.text((_GAP, top + 8), note, fill=(90, 90, 90), font=font)
    return canvas


def _charts(found: Evaluation) -> list[tuple[str, Sequence[_Bar]]]:
    charts: list[tuple[str, Sequence[_Bar]]] = []
    for title, name in (
        (f"{found.k}-NN accuracy of {found.label}", "accuracy"),
        (f"precision@{found.k}", "precision"),
        (f"mAP@{found.k}", "mean_average_precision"),
    ):
        bars = []
        for space in found.spaces:
            score = getattr(space.agreement, name)
            color = _BEST if space.name == found.best else _OWN
            color = _OTHER if space.name in ("pixels", "pca") else color
            text = f"{score.value:.3f}"
            bars.append(_Bar(space.name, score.value, text, color, score.low, score.high))
        if bars:
            charts.append((title, bars))
    recons = found.reconstructions
    if recons:
        colors = [_OWN if one.name == "model" else _OTHER for one in recons]
        pairs = list(zip(recons, colors, strict=True))
        bars = [_Bar(one.name, one.psnr, f"{one.psnr:.2f} dB", color) for one, color in pairs]
        charts.append(("reconstructions: PSNR", bars))
        bars = [_Bar(one.name, one.ssim, f"{one.ssim:.3f}", color) for one, color in pairs]
        charts.append(("reconstructions: SSIM", bars))
    index = found.index
    text = f"{index.recall:.4f}"
    charts.append(
        (f"recall@{found.k} of {index.search}", [_Bar(index.metric, index.recall, text, _OWN)])
    )
    return charts


def _draw_bar(draw: Any, font: Any, bar: _Bar, top: int, scale: float) -> None:
    def place(value: float) -> int:
        share = value / scale if np.isfinite(value) else float(value > 0)
        return _LEFT + round(_BAR_LENGTH * min(max(share, 0), 1))

    draw.text((_LEFT - 8, top + 1), bar.name, fill="black", font=font, anchor="ra")
    draw.rectangle((_LEFT, top, place(bar.value), top + _BAR), fill=bar.color)
    end = place(bar.value)
    if bar.low is not None and bar.high is not None and np.isfinite(bar.low + bar.high):
        middle, end = top + _BAR // 2, place(bar.high)
        draw.line((place(bar.low), middle, end, middle), fill="black", width=1)
        for value in (bar.low, bar.high):
            draw.line((place(value), middle - 4, place(value), middle + 4), fill="black", width=1)
    draw.text((end + 8, top + 1), bar.text, fill="black", font=font)
