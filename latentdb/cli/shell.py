"""What all commands share: errors as one line, options, JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from latentdb.database import LatentDB
    from latentdb.reader import Reader
    from latentdb.search.results import Matches


class Group(click.Group):
    """Turns every error into one line and an exit code: 1 for an error, 2 for wrong usage."""

    def invoke(self, ctx: click.Context) -> Any:
        from latentdb.base.errors import LatentDBError

        try:
            return super().invoke(ctx)
        except LatentDBError as error:
            click.echo(f"Error: {error}", err=True)
        except MemoryError:
            click.echo("Error: out of memory: give fewer or smaller inputs", err=True)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            raise click.exceptions.Exit(130) from None
        raise click.exceptions.Exit(1)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
where_option = click.option("--where", metavar="EXPR", help="Only rows for which EXPR is true.")
strict_option = click.option("--strict", is_flag=True, help="Fail on the first bad file.")
TRUST_HELP = "Run the code that is in the model: only if you trust whoever made it."
_TRUSTED = "latentdb.trust_model"


def _keep_trust(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_TRUSTED] = value


# Of commands that open a store: `open_db` looks for it.
trust_option = click.option(
    "--trust-model", is_flag=True, expose_value=False, callback=_keep_trust, help=TRUST_HELP
)
db_argument = click.argument("db", type=click.Path())


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, default=_plain, indent=2))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "tolist"):
        return value.tolist()
    return dict(value)


def _trusted() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_TRUSTED))


@contextmanager
def open_db(db: str) -> Iterator[LatentDB]:
    """A store to read and to write."""
    from latentdb.database import LatentDB

    with LatentDB.open(db, trust_model=_trusted()) as opened:
        yield opened


@contextmanager
def open_reader(db: str) -> Iterator[Reader]:
    """A store to ask: without what only writes, which takes a while to import."""
    from latentdb.reader import Reader

    with Reader.open(db, trust_model=_trusted()) as opened:
        yield opened


def print_matches(matches: Matches) -> None:
    if not len(matches):
        click.echo("no matches")
        return
    width = max(len(match.id) for match in matches)
    for match in matches:
        told = "  ".join(f"{key}={value}" for key, value in match.metadata.items())
        click.echo(f"{match.rank:4d}  {match.distance:10.4f}  {match.id:<{width}}  {told}".rstrip())
