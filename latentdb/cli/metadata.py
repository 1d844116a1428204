"""The commands that show and change the metadata columns of a store."""

from __future__ import annotations

import click

from latentdb.base.wording import counted, printable
from latentdb.cli.console import print_json
from latentdb.cli.options import db_argument, json_option, where_option

_TYPES = ("str", "int", "float", "bool", "date", "datetime")


class ColumnGroup(click.Group):
    """A group whose own options may stand after DB, too, where no command follows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_interspersed_args = not set(args[1:2]) & set(self.commands)
        return super().parse_args(ctx, args)


@click.group(cls=ColumnGroup, invoke_without_command=True)
@db_argument
@json_option
@click.pass_context
def metadata(ctx: click.Context, db: str, as_json: bool) -> None:
    """Show or change the metadata columns of DB.

    Without a command it lists them.  Latents and row numbers stay as they are,
    and with them the search index.
    """
    ctx.obj = db
    if ctx.invoked_subcommand is not None:
        return
    from latentdb.reader import Reader
    from latentdb.store.columns import quoted

    with Reader.open(db) as store:
        columns = [
            {"key": key, "type": type_, "rows": store.count(f"{quoted(key)} is not None")}
            for key, type_ in store.info().columns.items()
        ]
        total = len(store)
    if as_json:
        print_json({"columns": columns, "rows": total})
        return
    width = max((len(str(column["key"])) for column in columns), default=0)
    for column in columns:
        key = printable(str(column["key"])).ljust(width)
        click.echo(f"{key}  {column['type']:<8}  {column['rows']:,} of {counted(total, 'row')}")
    if not columns:
        click.echo("no metadata columns")


@metadata.command("set")
@click.argument("key")
@click.argument("value", required=False)
@click.argument("ids", nargs=-1)
@where_option
@click.option("--missing", is_flag=True, help="Erase the value; all arguments after KEY are IDS.")
@json_option
@click.pass_obj
def set_values(
    db: str,
    key: str,
    value: str | None,
    ids: tuple[str, ...],
    where: str | None,
    missing: bool,
    as_json: bool,
) -> None:
    """Give rows another value in column KEY.

    The rows are IDS, or those of --where.  VALUE is read as a number, true or
    false, a date (2020-01-31), or else as text; as text in a column of text.
    """
    from latentdb.database import LatentDB
    from latentdb.store.cells import CellType, parse_cell

    if missing and value is not None:
        ids, value = (value, *ids), None
    if value is None and not missing:
        raise click.UsageError("give a VALUE, or --missing")
    if bool(ids) == (where is not None):
        raise click.UsageError("give IDS, or --where")
    with LatentDB.open(db) as store:
        made = None
        if value is not None:
            guess = CellType()
            guess.add(value)
            stored = store.info().columns.get(key)
            type_ = "str" if stored == "str" else guess.name
            made = parse_cell(type_, value)
        rows = store.update(list(ids) if where is None else where, {key: made})
    _print(as_json, {"rows": rows}, f"{counted(rows, 'row')} changed")


@metadata.command()
@click.argument("key")
@click.argument("type_", metavar="TYPE", type=click.Choice(_TYPES))
@click.option("--lossy", is_flag=True, help="Values that do not fit become missing.")
@json_option
@click.pass_obj
def retype(db: str, key: str, type_: str, lossy: bool, as_json: bool) -> None:
    """Convert the values of column KEY to TYPE."""
    from latentdb.database import LatentDB

    with LatentDB.open(db) as store:
        done = store.retype_column(key, type_, lossy=lossy)
    lost = f"; {counted(done.lost, 'value')} that did not fit: missing now" if done.lost else ""
    _print(as_json, done, f"{counted(done.rows, 'value')} of {printable(key)}: {type_}{lost}")


@metadata.command()
@click.argument("key")
@click.argument("new")
@json_option
@click.pass_obj
def rename(db: str, key: str, new: str, as_json: bool) -> None:
    """Rename column KEY to NEW."""
    from latentdb.database import LatentDB

    with LatentDB.open(db) as store:
        store.rename_column(key, new)
    _print(as_json, {"renamed": key, "to": new}, f"{printable(key)} is {printable(new)} now")


@metadata.command()
@click.argument("key")
@json_option
@click.pass_obj
def drop(db: str, key: str, as_json: bool) -> None:
    """Remove column KEY with all its values."""
    from latentdb.database import LatentDB

    with LatentDB.open(db) as store:
        store.drop_column(key)
    _print(as_json, {"dropped": key}, f"{printable(key)} is dropped")


def _print(as_json: bool, value: object, text: str) -> None:
    if as_json:
        print_json(value)
    else:
        click.echo(text)
