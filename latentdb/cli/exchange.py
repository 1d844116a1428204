"""Commands that move rows between a store and one file: export, import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from latentdb.base.wording import counted, printable
from latentdb.cli.console import print_json, print_site, progress
from latentdb.cli.options import (
    db_argument,
    dtype_option,
    force_option,
    json_option,
    quiet_option,
    where_option,
)


@click.command()
@db_argument
@click.argument("out", required=False, type=click.Path())
@click.option(
    "--site",
    metavar="DIR",
    type=click.Path(),
    help="Instead of OUT: the explorer as static files, with thumbnails of all rows.",
)
@where_option
@click.option(
    "--excel-safe",
    is_flag=True,
    help="For .csv: put ' before a text that a spreadsheet would run as a formula.",
)
@click.option(
    "--ort",
    metavar="PATH",
    type=click.Path(),
    help="For --site: onnxruntime-web as npm pack gives it.  [default: downloaded once]",
)
@force_option
@json_option
@quiet_option
def export(
    db: str,
    out: str | None,
    site: str | None,
    where: str | None,
    excel_safe: bool,
    ort: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write rows to a file, or the explorer to a folder.

    OUT ends in .h5, .parquet or .csv (ids, vectors and metadata), or in .npy
    (z_mean only); - is CSV on stdout.
    """
    from latentdb.reader import Reader

    if (out is None) == (site is None):
        raise click.UsageError("give OUT, or --site DIR")
    if (site is not None and excel_safe) or (site is None and ort is not None):
        raise click.UsageError("--excel-safe goes with OUT, --ort with --site")
    to_stdout = out == "-"
    if to_stdout and as_json:
        raise click.UsageError("--json cannot be combined with -, which is stdout, too")
    with Reader.open(db) as store, progress(quiet) as report:
        if site is not None:
            made = store.export_site(site, where=where, ort=ort, overwrite=overwrite, report=report)
        elif out is not None:
            rows = store.export(out, where=where, excel_safe=excel_safe, overwrite=overwrite)
    if site is not None:
        print_json(made) if as_json else print_site(made)
    elif as_json:
        print_json({"out": out, "rows": rows, "bytes": Path(str(out)).stat().st_size})
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
@click.option(
    "--id-column",
    metavar="NAME",
    help="Column of the ids.  [default: id, path, filename, ... by name]",
)
@click.option(
    "--vector-column",
    metavar="NAME",
    help="Column of the vectors; of a .csv, NAME_0, NAME_1 and so on.  "
    "[default: z_mean, embedding(s), features or vector(s) by name]",
)
@click.option(
    "--model",
    metavar="MODEL",
    type=click.Path(),
    help="The model whose latents these are: a new DB decodes with it.",
)
@dtype_option
@json_option
@quiet_option
def import_file(db: str, file: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Add ready-made vectors from a file.

    FILE ends in .h5, .npy, .npz, .parquet or .csv.  DB is made if there is
    none; the whole file is added, or nothing of it.
    """
    from latentdb.database import LatentDB

    with progress(quiet) as report:
        done = LatentDB.import_into(db, file, **options, report=report)
    if done.left_out and not as_json:
        names = ", ".join(map(printable, done.left_out))
        click.echo(f"note: left out, as a store cannot hold it: {names}", err=True)
    if as_json:
        print_json(done)
    else:
        click.echo(
            f"{done.added:,} added, {done.replaced:,} replaced, {done.skipped:,} skipped; "
            f"{counted(done.rows, 'row')}, {done.seconds:.1f} s"
        )
