"""The command that copies rows to a search engine."""

from __future__ import annotations

import click

from latentdb.ann.metrics import INDEXED_METRICS
from latentdb.cli.console import print_json, progress
from latentdb.cli.options import collection_option, db_argument, json_option, quiet_option


@click.command()
@db_argument
@click.option(
    "--to",
    "uri",
    required=True,
    metavar="URI",
    help="postgresql://USER@HOST/DATABASE, milvus:http://HOST:PORT or milvus:FILE.db.",
)
@collection_option
@click.option(
    "--metric",
    type=click.Choice(INDEXED_METRICS),
    help="Metric of all searches in the engine.  [default: the store's]",
)
@json_option
@quiet_option
def push(
    db: str, uri: str, collection: str | None, metric: str | None, as_json: bool, quiet: bool
) -> None:
    """Copy the rows of DB to PostgreSQL or Milvus, for latentdb query DB TARGET --on URI.

    Only what is new or changed is sent; a push that was cut off is finished by the next.
    """
    from latentdb.serving import Serving

    with Serving.open(db) as store, progress(quiet, lines=True) as report:
        done = store.push(uri, collection=collection, metric=metric, report=report)
    if as_json:
        print_json(done)
        return
    click.echo(
        f"{done.pushed:,} pushed, {done.deleted:,} deleted, {done.unchanged:,} unchanged; "
        f"{done.rows:,} rows, recall {done.recall:.3f} at effort {done.effort}"
    )
