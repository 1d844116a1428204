"""The command that serves the explorer."""

from __future__ import annotations

import click

from latentdb.cli.console import progress
from latentdb.cli.options import condition_option, db_argument, quiet_option, trust_option


@click.command()
@db_argument
@click.option("--port", type=int, default=8417, show_default=True, help="0 takes a free one.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at.  With any but the default, whoever has the URL sees all images.",
)
@click.option("--no-browser", is_flag=True, help="Print the URL without opening it.")
@condition_option
@trust_option
@quiet_option
def serve(
    db: str,
    port: int,
    host: str,
    no_browser: bool,
    condition: str | None,
    trust_model: bool,
    quiet: bool,
) -> None:
    """Look at a store in the browser: map, neighbours, live blends."""
    from latentdb.explorer.guard import is_loopback
    from latentdb.explorer.serving import serve as serve_store
    from latentdb.reader import Reader

    if not is_loopback(host):
        click.echo(f"Warning: {host} is reachable from the network, unencrypted.", err=True)

    with Reader.open(db, trust_model=trust_model) as opened, progress(quiet) as report:
        model = opened.info().model
        if model is not None and model.condition is not None and condition is None:
            note = "note: blends have no condition, and are not drawn: give --condition VALUE"
            click.echo(note, err=True)
        serve_store(
            opened.with_condition(condition),
            host=host,
            port=port,
            browser=not no_browser,
            announce=_announce,
            report=report,
        )


def _announce(url: str) -> None:
    click.echo(f"{url}\nEnd with Ctrl-C.")
