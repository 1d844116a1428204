"""What a run of `latentdb index` did, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from latentdb.base.wording import counted, printable
from latentdb.cli.console import MAX_LISTED, print_bad_files
from latentdb.images.formats import passed_over_text

if TYPE_CHECKING:
    from latentdb.images.discover import BadFile
    from latentdb.ingest.report import IndexReport
    from latentdb.ingest.table import Unmatched

_SHOWN = 5  # names in one line


def print_report(done: IndexReport, metadata: str | None, allow_bad: str) -> None:
    """What a run did; a failure comes first."""
    too_many = done.failed and not done.conflicts
    if done.conflicts:
        _print_conflicts(done.conflicts)
    if too_many:
        files = done.added + done.updated + done.unchanged + done.deleted + len(done.bad)
        click.echo(
            f"Error: {len(done.bad):,} of {counted(files, 'file')} cannot be read, "
            f"more than --allow-bad {allow_bad}",
            err=True,
        )
        print_bad_files(done.bad)
    click.echo(
        f"{done.added:,} added, {done.updated:,} updated, {done.unchanged:,} unchanged "
        f"(skipped), {len(done.bad):,} bad; {counted(done.rows, 'row')}, {done.seconds:.1f} s"
    )
    _print_lives(done)
    if done.passed_over:
        click.echo(f"not images by their ending: {passed_over_text(done.passed_over)}")
    if done.excluded:
        click.echo(f"{counted(done.excluded, 'file or folder', 'files and folders')} excluded")
    if done.links:
        click.echo(
            f"{counted(len(done.links), 'link')} out of the folder passed over, which "
            f"--follow-links follows: {_some(done.links)}"
        )
    for note in done.notes:
        click.echo(f"note: {printable(note)}", err=True)
    _print_unmatched(done.unmatched, metadata or "")
    if done.vanished:
        some = _some(done.vanished, 3)
        images = counted(len(done.vanished), "transparent image")
        click.echo(
            f"note: {images} ({some}) {'is' if len(done.vanished) == 1 else 'are'} one colour over "
            "the background: --background of train and index chooses another for a new model",
            err=True,
        )
    if not too_many:
        print_bad_files(done.bad)


def _some(names: Sequence[str], most: int = _SHOWN) -> str:
    return printable(", ".join(names[:most]) + (", ..." if len(names) > most else ""))


def _print_conflicts(conflicts: Sequence[BadFile]) -> None:
    click.echo(
        f"Error: {counted(len(conflicts), 'file')} left out, with the ids of other files:", err=True
    )
    for file in conflicts[:MAX_LISTED]:
        click.echo(f"  {printable(file.path)}: {printable(file.reason)}", err=True)
    if len(conflicts) > MAX_LISTED:
        click.echo(f"  and {len(conflicts) - MAX_LISTED:,} more; --json lists all", err=True)


def _print_lives(done: IndexReport) -> None:
    """What became of files that were moved, renamed, or deleted."""
    moved = done.restamped - done.renamed
    if moved > 0:
        click.echo(
            f"{counted(moved, 'unchanged file')} had been moved or touched: "
            "the new paths and times are stored"
        )
    if done.renamed:
        click.echo(f"{counted(done.renamed, 'file')} had been renamed: the ids are the new ones")
    if done.deleted:
        click.echo(
            f"{counted(done.deleted, 'image')} left out, deleted from the store before: --restore "
            "takes them in"
        )
    if done.missing:
        count = counted(len(done.missing), "image")
        gone = "whose file is gone" if len(done.missing) == 1 else "whose files are gone"
        what = "deleted from the store" if done.pruned else "kept unless --prune is given"
        click.echo(f"{count} {gone}, {what}: {_some(done.missing)}")


def _print_unmatched(unmatched: Unmatched, metadata: str) -> None:
    """Rows of the metadata without an image, and images without a row, with examples."""
    for count, text, examples in (
        (
            unmatched.rows,
            f"{counted(unmatched.rows, 'row')} of {metadata} without an image in this run",
            unmatched.row_examples,
        ),
        (
            unmatched.images,
            f"{counted(unmatched.images, 'image')} without a row in {metadata}",
            unmatched.image_examples,
        ),
    ):
        if count:
            some = ", ".join(map(repr, examples)) + (", ..." if count > len(examples) else "")
            click.echo(f"{text}: {printable(some)}", err=True)
