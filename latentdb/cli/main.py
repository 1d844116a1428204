"""The group of commands: errors are one line on stderr, and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from latentdb.cli import (
    decode,
    engines,
    exchange,
    index,
    insight,
    maintenance,
    metadata,
    query,
    recipes,
    rows,
    serve,
    train,
)

_ARGUMENTS = "latentdb.arguments"  # of the command that is invoked


def _other_store(arguments: Sequence[str]) -> str:
    """A hint for arguments in the wrong order: the first of them that is a store."""
    from latentdb.base.wording import printable
    from latentdb.reader import Reader

    for argument in arguments[1:]:
        if "\0" not in argument and Reader.exists(argument):
            return f"; {printable(argument)} is a store: give it first"
    return ""


class Group(click.Group):
    """Exits with 1 after an error, with 2 after wrong usage, with 130 after Ctrl-C."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; a full disk under stdout or stderr is an error of one line, too."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if error.filename is not None:  # not of a write to an open file
                raise
            from latentdb.base.files import os_reason

            with suppress(OSError):
                # What is still buffered would fail again when Python exits.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                click.echo(f"Error: the output cannot be written: {os_reason(error)}", err=True)
            sys.exit(1)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As `click.Group` does; the arguments are kept for `invoke`."""
        ctx.meta[_ARGUMENTS] = list(args)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        from latentdb.base.errors import LatentDBError, StoreNotFoundError

        try:
            return super().invoke(ctx)
        except StoreNotFoundError as error:
            click.echo(f"Error: {error}{_other_store(ctx.meta.get(_ARGUMENTS, ()))}", err=True)
        except LatentDBError as error:
            click.echo(f"Error: {error}", err=True)
        except MemoryError:
            click.echo("Error: out of memory: give fewer or smaller inputs", err=True)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            raise click.exceptions.Exit(130) from None
        raise click.exceptions.Exit(1)

    def list_commands(self, _: click.Context) -> list[str]:
        """The commands in the order of a first session, not of the alphabet."""
        return list(self.commands)


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="latentdb")
def main() -> None:
    """Index images into the latents of a variational autoencoder, query and decode them.

    DB is the folder of a store.  TARGET is an id in the store, an image file
    or a .npy vector; a prefix id:, file: or npy: says which.  recipe:RECIPE is a
    TARGET too, such as 'recipe:mean(label == "cat") - mean() + id:42'.  EXPR is a
    metadata expression such as 'label == "cat" and year > 2000'.
    """
    from latentdb.cli.console import show_warnings_in_one_line

    show_warnings_in_one_line()


for command in (
    train.train,
    train.model,
    index.index,
    query.query,
    rows.list_rows,
    rows.show,
    metadata.metadata,
    decode.decode,
    decode.blend,
    decode.average,
    decode.interpolate,
    recipes.list_recipes,
    recipes.directions,
    recipes.direction,
    insight.diagnose,
    insight.traverse,
    insight.sample,
    insight.cluster,
    insight.map_rows,
    insight.evaluate,
    insight.duplicates,
    insight.outliers,
    insight.compare,
    serve.serve,
    maintenance.info,
    maintenance.delete,
    maintenance.relocate,
    maintenance.compact,
    maintenance.backup,
    maintenance.restore,
    maintenance.history,
    maintenance.verify,
    maintenance.optimize,
    exchange.export,
    exchange.import_file,
    engines.push,
):
    main.add_command(command)
