"""Progress and warnings on stderr; results, as text or as JSON, on stdout."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any, TextIO

import click

from latentdb.base.wording import counted, megabytes, printable

if TYPE_CHECKING:
    from latentdb.base.progress import Progress, Report
    from latentdb.explorer.site import Site
    from latentdb.images.discover import BadFile
    from latentdb.insight.clusters import Clustering
    from latentdb.insight.comparison import Comparison
    from latentdb.insight.diagnosis import Diagnosis
    from latentdb.insight.directions import Axis, Direction
    from latentdb.insight.duplicates import Duplicates
    from latentdb.insight.evaluation import Evaluation
    from latentdb.insight.outliers import Outliers
    from latentdb.insight.position import Position
    from latentdb.model.codec import Codec
    from latentdb.model.config import ModelConfig
    from latentdb.row_access import RowDetails
    from latentdb.search.results import Info, Matches
    from latentdb.store.recipes import SavedRecipe

MAX_LISTED = 20  # files that are printed; --json lists all
_EXAMPLES = 5  # files that are printed of those with the same reason
_LINE_SECONDS = 10.0
_NUMBER = re.compile(r"[0-9][0-9,]*")
_RATED = ("indexing", "decoding")  # stages whose items take about the same time each


@contextmanager
def progress(quiet: bool, *, lines: bool = False) -> Iterator[Report | None]:
    """A function that shows progress; None with --quiet.

    If stderr is not a terminal, it prints a line every ten seconds with `lines`, and is
    None without.
    """
    if quiet or not sys.stderr.isatty():
        yield _print_lines() if lines and not quiet else None
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

        def report(now: Progress) -> None:
            nonlocal stage, task
            first_word = now.stage.split()[0]
            if first_word != stage:
                # A new stage has a new task, whose remaining time starts from zero.
                bar.remove_task(task)
                stage, task = first_word, bar.add_task(now.stage, total=now.total, rate="")
            text = now.stage + (f"  ({now.bad:,} bad)" if now.bad else "")
            elapsed = bar.tasks[0].elapsed or 0.0
            rate = f"{now.done / elapsed:,.0f}/s" if now.stage in _RATED and elapsed > 1 else ""
            bar.update(task, description=text, completed=now.done, total=now.total, rate=rate)

        yield report


def _print_lines(clock: Callable[[], float] = time.monotonic) -> Report:
    """A function that prints progress as a line on stderr, at most every ten seconds."""
    last = clock()

    def report(now: Progress) -> None:
        nonlocal last
        if clock() - last < _LINE_SECONDS:
            return
        last = clock()
        total = "" if now.total is None else f" of {now.total:,}"
        click.echo(f"{now.stage}: {now.done:,}{total}", err=True)

    return report


def show_warnings_in_one_line() -> None:
    """Print a warning as one line on stderr, without the code it comes from."""

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


def print_json(value: Any) -> None:
    """Print one JSON document: dataclasses as objects, arrays as lists, no number as null."""
    try:
        text = json.dumps(value, default=_jsonable, indent=2, allow_nan=False)
    except ValueError:  # JSON has neither infinities nor NaN
        values = json.loads(json.dumps(value, default=_jsonable), parse_constant=lambda _: None)
        text = json.dumps(values, indent=2)
    click.echo(text)


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, date):
        return value.isoformat()
    return dict(value)


def print_notes(codec: Codec) -> None:
    """Print on stderr what was assumed about a model, such as its pixel range."""
    for note in codec.notes:
        click.echo(f"note: {note}", err=True)


def print_verdict(config: ModelConfig) -> None:
    """Print on stderr what a model was measured to be worth, where training recorded it."""
    from latentdb.model.verdict import verdict_of

    verdict = verdict_of(config)
    if verdict is not None:
        click.echo(f"note: {verdict.line}", err=True)
    print_model_warnings(config)


def print_model_warnings(config: ModelConfig) -> None:
    """Print on stderr what is wrong with a model, and what to change."""
    from latentdb.model.verdict import verdict_of

    verdict = verdict_of(config)
    for warning in () if verdict is None else verdict.warnings:
        click.echo(f"Warning: {warning}", err=True)


def print_bad_files(bad: Sequence[BadFile]) -> None:
    """Print on stderr which files were skipped, by their reasons."""
    if not bad:
        return
    click.echo(
        f"{counted(len(bad), 'bad file')} {'was' if len(bad) == 1 else 'were'} skipped:", err=True
    )
    groups: dict[str, list[BadFile]] = {}
    for file in bad:
        groups.setdefault(_NUMBER.sub("#", file.reason), []).append(file)
    for files in sorted(groups.values(), key=len, reverse=True)[:MAX_LISTED]:
        if len(files) == 1:
            click.echo(f"  {printable(files[0].path)}: {printable(files[0].reason)}", err=True)
            continue
        click.echo(f"  {len(files):,} files: {printable(files[0].reason)}", err=True)
        for file in files[:_EXAMPLES]:
            click.echo(f"    {printable(file.path)}", err=True)
        if len(files) > _EXAMPLES:
            click.echo(f"    and {len(files) - _EXAMPLES:,} more; --json lists all", err=True)
    if len(groups) > MAX_LISTED:
        more = counted(len(groups) - MAX_LISTED, "more reason")
        click.echo(f"  and {more}; --json lists all", err=True)


def print_paths(paths: Sequence[str]) -> None:
    """Print the files that were written, a line each."""
    for path in paths[:MAX_LISTED]:
        click.echo(printable(path))
    _print_rest(len(paths))


def _print_rest(count: int) -> None:
    """Say how many of a list were not printed, if any."""
    if count > MAX_LISTED:
        click.echo(f"and {count - MAX_LISTED:,} more; --json lists all")


def print_answers(answers: Sequence[tuple[str, Matches]], *, as_json: bool) -> None:
    """Print the matches of many targets, each below its name."""
    if as_json:
        print_json({"queries": [{"target": name, **vars(found)} for name, found in answers]})
        return
    for name, found in answers:
        click.echo(f"{printable(name)}:")
        print_matches(found)


def print_matches(matches: Matches) -> None:
    """Print matches, a line each: rank, distance, id, metadata."""
    from latentdb.search.summary import match_lines

    for line in match_lines(matches) or ["no matches"]:
        click.echo(line)


def print_rows(records: Sequence[Mapping[str, Any]], total: int) -> None:
    """Print rows as a table, and how many there are."""
    if not records:
        click.echo("no rows" if not total else f"none of {counted(total, 'row')}")
        return
    names = list(records[0])
    cells = [[_text(record[name]) for name in names] for record in records]
    widths = [max(len(line[number]) for line in [names, *cells]) for number in range(len(names))]
    for line in [names, *cells]:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo(text.rstrip())
    if total > len(records):
        click.echo(f"{len(records):,} of {counted(total, 'row')}; --limit and --offset show others")


def _text(value: Any) -> str:
    """A value in one line of printable characters."""
    text = "" if value is None else str(value)
    return printable(text)


def print_details(details: RowDetails) -> None:
    """Print what there is to know of one row."""
    lines = [("id", _text(details.id))]
    if details.path is not None:
        there = "" if details.file_exists else "  (not there any more)"
        lines.append(("path", _text(details.path) + there))
        if details.bytes is not None:
            lines.append(("size", counted(details.bytes, "byte")))
    lines += [(_text(key), _text(value)) for key, value in details.metadata.items()]
    lines.append(("|z_mean|", f"{details.norm:.4g}"))
    lines.append(
        ("distance", f"{details.centre_distance:.2f} of the usual one from the mean of the store")
    )
    if details.kl is not None and details.sigma is not None:
        lines.append(("KL", f"{details.kl:.2f} nats"))
        lines.append(("sigma", f"{details.sigma:.4g}"))
    width = max(len(key) for key, _ in lines)
    for key, value in lines:
        click.echo(f"{key:<{width}}  {value}")


def print_position(position: Position) -> None:
    """Print where a latent lies beside the data, in two lines."""
    text = f"|z| {position.norm:.4g}"
    if position.percentile is not None:
        text += f", longer than {position.percentile:.1%} of rows"
    if position.drift is not None:
        text += f"; drift |encode(decode(z)) - z| {position.drift:.4g}"
        if position.usual_drift is not None:
            text += f" (median of rows: {position.usual_drift:.4g})"
    click.echo(text)
    if position.nearest:
        near = (f"{_text(match.id)} {match.distance:.4g}" for match in position.nearest)
        click.echo(f"nearest: {', '.join(near)}")


def print_recipes(found: Sequence[SavedRecipe]) -> None:
    """Print a line per saved recipe."""
    for recipe in found:
        kind = "" if recipe.auc is None else f"  {recipe.method}, held-out AUC {recipe.auc:.3f}"
        click.echo(f"@{recipe.name}  {_text(recipe.text)}  ({counted(recipe.rows, 'row')}){kind}")
    if not found:
        click.echo("no recipes: save one with latentdb decode --recipe RECIPE --save NAME")


def print_axes(found: Sequence[Axis]) -> None:
    """Print a line per principal axis."""
    click.echo("direction  variance  effect/255")
    for axis in found[:MAX_LISTED]:
        effect = "-" if axis.effect is None else f"{255 * axis.effect:.2f}"
        click.echo(f"{f'pc({axis.number})':<9} {axis.variance:9.1%} {effect:>11}")
    _print_rest(len(found))


def print_direction(found: Direction) -> None:
    """Print how well a direction separates, beside the other methods, and how long it is."""
    others = ", ".join(
        f"{method} {score:.3f}" for method, score in found.auc.items() if method != found.method
    )
    click.echo(
        f"{found.method}: held-out AUC {found.auc[found.method]:.3f} over "
        f"{counted(found.held_out, 'row')}" + (f" ({others})" if others else "")
    )
    length = math.hypot(*found.vector.tolist())
    click.echo(f"made of {counted(found.rows, 'row')}, |v| {length:.4g}")


def print_diagnosis(found: Diagnosis) -> None:
    """Print the verdict, the sums, and a line per dimension."""
    from latentdb.insight.diagnosis import DEFINITION

    click.echo(found.verdict)
    counts = ", ".join(f"{count} above {limit:g}" for limit, count in found.active.items())
    click.echo(f"active units: {counts} ({DEFINITION})")
    if found.kl is not None:
        click.echo(f"KL: {found.kl:.1f} nats over all dimensions")
    click.echo(
        f"aggregate posterior against the prior: {found.prior_gap:.3f} nats a dimension, "
        f"over {counted(found.rows, 'row')}"
    )
    click.echo(" dim      KL  Var(z_mean)  mean sigma2  effect/255")
    for row in found.dimensions[:MAX_LISTED]:
        cells = [
            f"{row.number:4d}",
            "      -" if row.kl is None else f"{row.kl:7.3f}",
            f"{row.variance:12.4g}",
            "           -" if row.sigma2 is None else f"{row.sigma2:12.4g}",
            "          -" if row.effect is None else f"{255 * row.effect:11.2f}",
        ]
        click.echo(" ".join(cells) + (f"  {row.note}" if row.note else ""))
    _print_rest(len(found.dimensions))


def print_clusters(found: Clustering) -> None:
    """Print a line per cluster, and how far labels agree."""
    click.echo("   #    rows   spread  label          medoid")
    for cluster in found.clusters[:MAX_LISTED]:
        label = (
            ""
            if cluster.purity is None
            else f"{cluster.purity:4.0%} {printable(str(cluster.label))}"
        )
        click.echo(
            f"{cluster.number:4d} {cluster.size:7,} {cluster.spread:8.3f}  {label:<14} "
            f"{printable(cluster.medoid)}"
        )
    _print_rest(len(found.clusters))
    if found.purity is not None:
        click.echo(f"purity: {found.purity:.1%} of rows have the label of their cluster")


def print_evaluation(found: Evaluation) -> None:
    """Print the verdict, and a table of all scores with their definitions."""
    from latentdb.insight.evaluation import DEFINITIONS

    click.echo(found.verdict)
    index, k = found.index, found.k
    click.echo(
        f"{found.queries:,} queries among {found.gallery:,} rows; {index.search} by "
        f"{index.metric}: recall@{k} {index.recall:.4f}"
    )
    if found.spaces:
        names = [f"{k}-NN accuracy", f"precision@{k}", f"mAP@{k}"]
        click.echo(f"{found.label:<16}" + "".join(f"{name:<23}" for name in names).rstrip())
    for space in found.spaces:
        one = space.agreement
        cells = [
            f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"
            for score in (one.accuracy, one.precision, one.mean_average_precision)
        ]
        click.echo(f"{space.name:<16}" + "".join(f"{cell:<23}" for cell in cells).rstrip())
    if found.spaces:
        click.echo(f"({DEFINITIONS}; in brackets 95 % bootstrap intervals)")
    for fidelity in found.reconstructions:
        click.echo(
            f"reconstructions by {fidelity.name:<6} PSNR {fidelity.psnr:6.2f} dB  "
            f"SSIM {fidelity.ssim:.3f}  (means over {counted(fidelity.images, 'image')})"
        )
    for note in found.notes:
        click.echo(f"note: {note}")


def print_duplicates(found: Duplicates) -> None:
    """Print the threshold, and a line per row of each group."""
    one = found.threshold
    text = f"threshold {one.value:.4g} by {found.metric}"
    if one.recall is not None and one.false_rate is not None:
        text += (
            f": {one.recall:.1%} of mild copies of {counted(one.sample, 'image')} are within it, "
            f"and an estimated {one.false_rate:.2g} images of a row that are no copies"
        )
    click.echo(text)
    surplus = len(found.surplus)
    if not found.groups:
        click.echo(f"no duplicates among {counted(found.rows, 'row')}")
    else:
        exact = sum(group.exact for group in found.groups)
        click.echo(
            f"{counted(len(found.groups), 'group')} ({exact:,} of equal files), "
            f"{counted(surplus, 'row')} more than one each, of {found.rows:,}"
        )
    for group in found.groups[:MAX_LISTED]:
        click.echo(f"keep {_text(group.keep)}")
        for member in group.members[1 : _EXAMPLES + 1]:
            same = "equal file" if group.exact else f"{member.distance:.4g}"
            click.echo(f"     {_text(member.id)}  {same}")
        if len(group.members) > _EXAMPLES + 1:
            click.echo(f"     and {len(group.members) - 1 - _EXAMPLES:,} more; --json lists all")
    if len(found.groups) > MAX_LISTED:
        click.echo(f"and {len(found.groups) - MAX_LISTED:,} more groups; --json lists all")
    for note in found.notes:
        click.echo(f"note: {note}")


def print_outliers(found: Outliers) -> None:
    """Print a line per row: each measure, and its rank among all rows."""
    from latentdb.insight.outliers import COLUMNS, DEFINITIONS

    click.echo(
        f"by {found.by}, of {counted(len(found.rows), 'row')} (each measure with its rank; "
        f"{DEFINITIONS})"
    )
    click.echo("".join(f"{name:>10}{'rank':>9}" for name in COLUMNS) + "  id")
    for row in found.top[:MAX_LISTED]:
        cells = []
        for value, rank in (
            (row.error, row.error_rank),
            (row.kl, row.kl_rank),
            (row.distance, row.distance_rank),
        ):
            cells.append(f"{'-':>10}{'':>9}" if value is None else f"{value:10.3f}{rank:9,}")
        click.echo("".join(cells) + f"  {_text(row.id)}")
    _print_rest(len(found.top))
    for note in found.notes:
        click.echo(f"note: {note}")


def print_site(site: Site) -> None:
    """Print where a site is, what its size is made of, and how to look at it."""
    largest = sorted(site.parts.items(), key=lambda part: -part[1])
    parts = ", ".join(f"{name} {megabytes(size)}" for name, size in largest[:4])
    click.echo(
        f"{site.path}: {counted(site.rows, 'row')}, {counted(site.files, 'file')}, ", nl=False
    )
    click.echo(f"{megabytes(site.bytes)} ({parts})")
    click.echo(f"To look at it: python3 -m http.server --directory {shlex.quote(site.path)}")


def print_comparison(found: Comparison) -> None:
    """Print how far two stores agree, and the rows whose neighbours agree least."""
    click.echo(
        f"{found.overlap:.1%} of the {found.k} nearest by {found.metric} are the same in both "
        f"({found.chance:.1%} by chance), over {counted(len(found.ids), 'row')}"
    )
    click.echo(
        f"rank correlation of distances: {found.rank_correlation:.3f}; the maps differ by "
        f"{found.map_disparity:.3f} (0: equal, 1: unrelated)"
    )
    if found.only_a or found.only_b:
        click.echo(
            f"{found.common:,} ids are in both, {found.only_a:,} and {found.only_b:,} in one"
        )
    changed = [row for row in found.changed if row.overlap < 1]
    if changed:
        click.echo("least agreed on:")
    for row in changed:
        click.echo(f"  {row.overlap:6.1%}  {_text(row.id)}")


def print_info(info: Info, as_json: bool) -> None:
    """Print what a store holds and how it is searched."""
    from latentdb.search.summary import info_lines

    if as_json:
        print_json(info)
        return
    for key, value in info_lines(info):
        click.echo(f"{key:<9} {value}")
