"""What the command line shows: progress and warnings, on stderr, and what a store is."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from latentdb.base.progress import Progress, Report
    from latentdb.search.results import Info

_RATED = ("indexing", "decoding")  # stages whose items are alike


@contextmanager
def progress(quiet: bool) -> Iterator[Report | None]:
    """Give a function that shows progress, or None where nobody would see it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    bar = Bar(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("starting", total=None, rate="")
        stage = ""

        def report(at: Progress) -> None:
            nonlocal stage, task
            kind = at.stage.split()[0]
            if kind != stage:
                # Another kind of work: the time left is that of the new one.
                bar.remove_task(task)
                stage, task = kind, bar.add_task(at.stage, total=at.total, rate="")
            text = at.stage + (f"  ({at.bad} bad)" if at.bad else "")
            elapsed = bar.tasks[0].elapsed or 0.0
            rate = f"{at.done / elapsed:,.0f}/s" if at.stage in _RATED and elapsed > 1 else ""
            bar.update(task, description=text, completed=at.done, total=at.total, rate=rate)

        yield report


def show_warnings_in_one_line() -> None:
    """Print warnings as a user would want to read them."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        del category, filename, lineno, file, line
        print(f"Warning: {message}", file=sys.stderr)  # noqa: T201

    warnings.showwarning = show
    warnings.filterwarnings("ignore", module="PIL")
    warnings.filterwarnings("ignore", module="keras")
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def print_info(told: Info) -> None:
    """Print what a store is and how it is searched."""
    lines = [
        ("store", f"{told.path}, version {told.version}"),
        ("rows", f"{told.rows} (and {told.deleted_rows} replaced or deleted ones on disk)"),
        ("size", f"{told.bytes / 1e6:.1f} MB in {told.segments} segments"),
        ("latents", f"{told.dim} dimensions, float32"),
        ("metadata", ", ".join(f"{key} ({kind})" for key, kind in told.columns.items()) or "none"),
    ]
    if told.model is None:
        lines.append(("model", "none: ready-made vectors"))
    else:
        spec = told.model.preprocessing
        lines += [
            ("encoder", f"fingerprint {told.model.encoder_fingerprint}"),
            ("decoder", f"fingerprint {told.model.decoder_fingerprint or 'none'}"),
            (
                "images",
                f"{spec.height}x{spec.width}x{spec.channels}, pixels {spec.pixel_range}, "
                f"resized by {spec.resize}",
            ),
            (
                "engine",
                f"{told.model.precision}, "
                + ("compiled" if told.compiled else "not compiled: tensorflow is loaded to encode"),
            ),
        ]
    if told.index is None:
        lines.append(("search", f"exact scan (recall 1; target {told.recall_target})"))
    else:
        entry = told.index
        lines.append(
            (
                "search",
                f"{entry.kind} of {entry.metric} over {entry.rows} rows, the rest scanned; "
                f"recall@{entry.recall_k} {entry.recall_measured:.4f} measured on "
                f"{entry.queries} rows, target {entry.recall_target}; "
                f"{entry.milliseconds:.2f} ms a query",
            )
        )
    if told.why:
        lines.append(("note", told.why))
    for key, value in lines:
        click.echo(f"{key:<9} {value}")
