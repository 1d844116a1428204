"""Commands that move rows between a store and one file: export, import."""

from __future__ import annotations

from pathlib import Path

import click

from latentdb.base.wording import counted
from latentdb.cli.console import print_json, progress
from latentdb.cli.options import db_argument, force_option, json_option, quiet_option, where_option


@click.command()
@db_argument
@click.argument("out", type=click.Path())
@where_option
@click.option(
    "--excel-safe",
    is_flag=True,
    help="For .csv: put ' before a text that a spreadsheet would run as a formula.",
)
@force_option
@json_option
def export(
    db: str, out: str, where: str | None, excel_safe: bool, overwrite: bool, as_json: bool
) -> None:
    """Write rows to a file.

    OUT ends in .h5, .parquet or .csv (ids, vectors and metadata), or in .npy
    (z_mean only); - is CSV on stdout.
    """
    from latentdb.reader import Reader

    to_stdout = out == "-"
    if to_stdout and as_json:
        raise click.UsageError("--json cannot be combined with -, which is stdout, too")
    with Reader.open(db) as store:
        rows = store.export(out, where=where, excel_safe=excel_safe, overwrite=overwrite)
    if as_json:
        print_json({"out": out, "rows": rows, "bytes": Path(out).stat().st_size})
    elif not to_stdout:
        click.echo(f"{out}: {counted(rows, 'row')}")


@click.command("import")
@db_argument
@click.argument("file", type=click.Path())
@click.option(
    "--on-conflict",
    type=click.Choice(["error", "skip", "replace"]),
    default="error",
    show_default=True,
    help="What to do with an id that is in DB already.",
)
@click.option(
    "--ids",
    type=click.Path(),
    metavar="FILE",
    help="For .npy: a text file with one id per line.  [default: row numbers]",
)
@json_option
@quiet_option
def import_file(
    db: str, file: str, on_conflict: str, ids: str | None, as_json: bool, quiet: bool
) -> None:
    """Add ready-made vectors from a file.

    FILE ends in .h5, .npy, .parquet or .csv.  DB is made if there is none;
    the whole file is added, or nothing of it.
    """
    from latentdb.database import LatentDB

    with progress(quiet) as report:
        done = LatentDB.import_into(db, file, on_conflict=on_conflict, ids=ids, report=report)
    if as_json:
        print_json(done)
    else:
        click.echo(
            f"{done.added:,} added, {done.replaced:,} replaced, {done.skipped:,} skipped; "
            f"{counted(done.rows, 'row')}, {done.seconds:.1f} s"
        )
