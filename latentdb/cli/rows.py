"""Commands that read rows back."""

from __future__ import annotations

import click

from latentdb.cli.console import print_details, print_json, print_rows
from latentdb.cli.options import (
    PicturePath,
    db_argument,
    force_option,
    json_option,
    trust_option,
    where_option,
)


@click.command("list")
@db_argument
@where_option
@click.option(
    "--sort",
    metavar="KEY",
    help="A metadata column, id or path; -KEY for the greatest first.  [default: as inserted]",
)
@click.option("--offset", type=int, default=0, help="Leave out so many rows.")
@click.option("--limit", type=int, default=20, show_default=True, help="Most rows to print.")
@click.option("--sample", type=int, metavar="N", help="Of the selected rows, N drawn at random.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of --sample.")
@click.option(
    "--columns", metavar="KEY,KEY..", help="Columns to print.  [default: id and metadata]"
)
@json_option
def list_rows(
    db: str,
    where: str | None,
    sort: str | None,
    offset: int,
    limit: int,
    sample: int | None,
    seed: int,
    columns: str | None,
    as_json: bool,
) -> None:
    """List rows: ids, paths and metadata."""
    from latentdb.reader import Reader

    with Reader.open(db) as store:
        view = store.rows(where=where, order_by=sort, sample=sample, seed=seed)
        shown = view[max(offset, 0) :][: max(limit, 0)]
        names = None if columns is None else columns.split(",")
        records = shown.records(names)
    if as_json:
        print_json({"rows": len(view), "offset": offset, "records": records})
    else:
        print_rows(records, len(view))


@click.command()
@db_argument
@click.argument("name", metavar="ID")
@click.option("--out", type=PicturePath(), help="A picture: the image beside its reconstruction.")
@force_option
@trust_option
@json_option
def show(
    db: str, name: str, out: str | None, overwrite: bool, trust_model: bool, as_json: bool
) -> None:
    """Show what there is to know of one row."""
    from latentdb.reader import Reader

    with Reader.open(db, trust_model=trust_model) as store:
        details = store.show(name, out=out, overwrite=overwrite)
    if as_json:
        print_json(details)
        return
    print_details(details)
    if out is not None:
        click.echo(out)
