"""Commands on a store itself: info, delete, compact, backup, history, verify, optimize."""

from __future__ import annotations

import time
from typing import Any

import click

from latentdb.ann.metrics import INDEXED_METRICS
from latentdb.ann.plan import PREFERENCES
from latentdb.base.wording import counted
from latentdb.cli.console import print_info, print_json, progress
from latentdb.cli.options import Memory, db_argument, json_option, quiet_option, where_option


@click.command()
@db_argument
@json_option
def info(db: str, as_json: bool) -> None:
    """Print what is in DB and how it is searched."""
    from latentdb.reader import Reader

    with Reader.open(db) as store:
        print_info(store.info(), as_json)


@click.command()
@db_argument
@click.argument("ids", nargs=-1)
@where_option
@json_option
def delete(db: str, ids: tuple[str, ...], where: str | None, as_json: bool) -> None:
    """Delete rows of DB: those of IDS, or those of --where.

    Image files stay.  The next index leaves their images out, unless it is given --restore.
    """
    from latentdb.database import LatentDB

    if bool(ids) == (where is not None):
        raise click.UsageError("give either IDS or --where EXPR")
    with LatentDB.open(db) as store:
        names = [name.removeprefix("id:") for name in ids]
        rows = store.delete(names or None, where=where)
    if as_json:
        print_json({"deleted": rows})
    else:
        click.echo(f"{counted(rows, 'row')} deleted")


@click.command()
@db_argument
@json_option
def compact(db: str, as_json: bool) -> None:
    """Merge small segments and free deleted rows.  Queries go on meanwhile."""
    from latentdb.database import LatentDB

    with LatentDB.open(db) as store:
        done = store.compact()
    if as_json:
        print_json(done)
        return
    if done.merged:
        click.echo(
            f"merged {counted(done.merged, 'segment')} into {done.written:,}, "
            f"removed {counted(done.dropped, 'deleted row')} from disk"
        )
    else:
        click.echo("nothing to merge")
    click.echo(f"{counted(done.segments, 'segment')} now")


@click.command()
@db_argument
@click.argument("old", type=click.Path())
@click.argument("new", type=click.Path())
@json_option
def relocate(db: str, old: str, new: str, as_json: bool) -> None:
    """Say that the folder OLD of images is NEW now.  No image is read."""
    from latentdb.database import LatentDB

    with LatentDB.open(db) as store:
        done = store.relocate(old, new)
    if as_json:
        print_json(done)
    else:
        lost = f"; {done.missing:,} are not at their new path" if done.missing else ""
        click.echo(f"{counted(done.rows, 'path')} changed{lost}")


@click.command()
@db_argument
@click.argument("out", type=click.Path())
@click.option("--version", type=int, help="Copy this version of DB (see history), not the current.")
@json_option
def backup(db: str, out: str, version: int | None, as_json: bool) -> None:
    """Copy DB to the new folder OUT, by hard links where possible.

    OUT is a store that opens by itself.  A writer may go on meanwhile.
    """
    from latentdb.database import LatentDB

    with LatentDB.open(db, version=version) as store:
        store.backup(out)
    if as_json:
        print_json({"written": out})
    else:
        click.echo(f"{db} was copied to {out}")


@click.command()
@click.argument("backup", type=click.Path())
@db_argument
@click.option("--overwrite", is_flag=True, help="Replace the version that is in DB.")
@json_option
def restore(backup: str, db: str, overwrite: bool, as_json: bool) -> None:
    """Put the version of BACKUP, a copy that backup made, back into DB.

    DB may be whole, damaged or missing.  Every file of BACKUP is verified before DB is changed;
    the version that is replaced is kept for a while (see history).
    """
    from latentdb.database import LatentDB

    made = LatentDB.restore(backup, db, overwrite=overwrite)
    if as_json:
        print_json(made)
    else:
        click.echo(f"{db} is as in {backup}: {counted(made.rows, 'row')}, version {made.version}")


@click.command()
@db_argument
@json_option
def history(db: str, as_json: bool) -> None:
    """List the versions of DB that can still be opened, newest first.

    Each commit makes a version.  Its files are kept for ten minutes after it was replaced, those
    of the version before the current one for longer.  To go back: backup --version, restore.
    """
    from latentdb.reader import Reader

    found = Reader.versions(db)
    if as_json:
        print_json(found)
        return
    click.echo(f"{'version':>7}  {'committed':19}  {'rows':>11}  {'segments':>8}  {'indexed':>11}")
    for item in found:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(item.committed))
        click.echo(
            f"{item.version:>7}  {when:19}  {item.rows:>11,}  {item.segments:>8,}  "
            f"{item.indexed:>11,}"
        )


@click.command()
@db_argument
@click.option(
    "--repair",
    is_flag=True,
    help="Rebuild what can be rebuilt; move other damaged files into DB/quarantine.",
)
@json_option
def verify(db: str, repair: bool, as_json: bool) -> None:
    """Check every file of DB.

    Exits with 1 if there is a problem.  With --repair, exits with 0 only if every problem was
    repaired and nothing was lost.  A file that the system cannot read (no permission, too many
    open files, a failing disk) is no damage: the repair ends, and nothing is changed.
    """
    from latentdb.database import LatentDB
    from latentdb.verify import REBUILT

    report = LatentDB.verify(db, repair=repair)
    if as_json:
        print_json(report)
    else:
        for problem in report.problems:
            click.echo(f"{problem.file}: {problem.what} -> {problem.repair}")
        lost = f", {counted(report.lost_rows, 'row')} lost" if report.lost_rows else ""
        click.echo(
            f"checked {counted(report.files, 'file')} and {counted(report.rows, 'row')}: "
            f"{counted(len(report.problems), 'problem')}{lost}"
        )
    if not all(repair and problem.kind == REBUILT for problem in report.problems):
        raise click.exceptions.Exit(1)


@click.command()
@db_argument
@click.option("--recall", type=float, help="Target recall.  [default: unchanged]")
@click.option(
    "--memory",
    type=Memory(),
    help="Most bytes for the index: 4G is 4 x 10^9, 4GiB is 4 x 2^30; 0: no limit.  "
    "[default: unchanged]",
)
@click.option(
    "--prefer",
    type=click.Choice(PREFERENCES),
    help="build: an index built in seconds.  latency: the faster of two kinds of index, "
    "which takes longer to build.  [default: unchanged]",
)
@click.option(
    "--metric",
    type=click.Choice(INDEXED_METRICS),
    help="Metric of the index; queries by another metric scan.  All but wasserstein become the "
    "metric of queries without --metric, too.  [default: unchanged]",
)
@json_option
@quiet_option
def optimize(db: str, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Rebuild the search index and tune it to a target recall."""
    from latentdb.database import LatentDB

    with LatentDB.open(db) as store, progress(quiet) as report:
        done = store.optimize(report=report, **settings)
    print_info(done, as_json)
