"""Matches, and the state of a store, in words: for the terminal, and for notebooks."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from latentdb.ann.metrics import L2
from latentdb.base.wording import counted, megabytes, printable
from latentdb.model.verdict import verdict_of

if TYPE_CHECKING:
    from latentdb.model.config import ModelConfig
    from latentdb.search.results import Info, Matches

_ROOTS = 100  # folders of images that are named; others are counted


def match_lines(matches: Matches) -> list[str]:
    """A line for each match: rank, distance, id, metadata."""
    names = [printable(match.id) for match in matches]
    width = max(map(len, names), default=0)
    lines = []
    for match, name in zip(matches, names, strict=True):
        metadata = "  ".join(printable(f"{key}={value}") for key, value in match.metadata.items())
        distance = round(match.distance, 4) + 0.0  # never -0.0000
        line = f"{match.rank:4d}  {distance:10.4f}  {name:<{width}}  {metadata}"
        lines.append(line.rstrip())
    return lines


def info_table(info: Info) -> str:
    """What a store holds and how it is searched, as a table in HTML."""
    lines = "".join(
        f'<tr><th>{html.escape(key)}</th><td style="text-align:left">{html.escape(value)}</td></tr>'
        for key, value in info_lines(info)
    )
    return f"<table>{lines}</table>"


def info_lines(info: Info) -> list[tuple[str, str]]:
    """What a store holds and how it is searched, as names and texts."""
    columns = ", ".join(f"{printable(key)} ({kind})" for key, kind in info.columns.items())
    deleted = counted(info.deleted_rows, "deleted or replaced row")
    lines = [
        ("store", f"{printable(info.path)}, version {info.version}"),
        ("rows", f"{info.rows:,}" + (f" ({deleted} still on disk)" if info.deleted_rows else "")),
        ("size", f"{megabytes(info.bytes)} in {counted(info.segments, 'segment')}"),
        ("latents", f"{counted(info.dim, 'dimension')}, {info.dtype}"),
        *_root_lines(info),
        ("metadata", columns or "none"),
        *_model_lines(info),
        ("search", _search_line(info)),
    ]
    if info.why:
        lines.append(("note", info.why))
    return lines


def _root_lines(info: Info) -> list[tuple[str, str]]:
    """Where images come from; those of a store with very many roots are counted."""
    lines = []
    for root in info.roots[:_ROOTS]:
        note = f" (ids begin with {printable(root.prefix)})" if root.prefix else ""
        lines.append(("root", printable(root.path) + note))
    if len(info.roots) > _ROOTS:
        lines.append(("root", f"and {len(info.roots) - _ROOTS:,} more folders"))
    if info.buried:
        lines.append(("deleted", f"{counted(info.buried, 'image')} that index leaves out"))
    return lines


def _model_lines(info: Info) -> list[tuple[str, str]]:
    if info.model is None:
        return [("model", "none: ready-made vectors")]
    spec = info.model.preprocessing
    engine = "compiled" if info.compiled else "not compiled, so tensorflow is loaded to encode"
    return [
        ("encoder", f"fingerprint {info.model.encoder_fingerprint}"),
        ("decoder", f"fingerprint {info.model.decoder_fingerprint or 'none'}"),
        (
            "images",
            f"{spec.height}x{spec.width}x{spec.channels}, pixels {spec.pixel_range}, "
            f"resized by {spec.resize}"
            + ("" if spec.background == "white" else f", transparency over {spec.background}"),
        ),
        ("engine", f"{info.model.precision}, {engine}"),
        *_condition_lines(info.model),
        *_verdict_lines(info.model),
    ]


def _condition_lines(config: ModelConfig) -> list[tuple[str, str]]:
    """What a conditional model is conditioned on."""
    condition = config.condition
    if condition is None:
        return []
    networks = [name for name in ("encoder", "decoder") if condition.form(name)]
    return [("condition", f"{condition.key} of {' and '.join(networks)}: {condition.accepted}")]


def _verdict_lines(config: ModelConfig) -> list[tuple[str, str]]:
    """What the model was measured to be worth, where training recorded it."""
    verdict = verdict_of(config)
    if verdict is None:
        return []
    return [("verdict", verdict.line), *(("warning", text) for text in verdict.warnings)]


def _search_line(info: Info) -> str:
    index = info.index
    by = "" if info.default_metric == L2 else f"; by {info.default_metric} unless --metric is given"
    if index is None:
        return f"exact scan (recall 1; target {info.recall_target}){by}"
    return (
        f"{index.kind} index by {index.metric} over {counted(index.rows, 'row')}, "
        "newer rows are scanned; "
        f"recall@{index.recall_k} {index.recall_measured:.4f} measured on "
        f"{counted(index.queries, 'row')}, target {index.recall_target}; "
        f"{index.milliseconds:.2f} ms per query{by}"
    )
