"""The command that finds similar images."""

from __future__ import annotations

from typing import Any

import click

from latentdb.ann.metrics import METRICS
from latentdb.cli.console import print_answers, print_json, print_matches
from latentdb.cli.options import (
    PicturePath,
    collection_option,
    condition_option,
    db_argument,
    force_option,
    json_option,
    trust_option,
    where_option,
)


@click.command()
@db_argument
@click.argument("target", required=False)
@click.option("-k", type=int, help="Number of matches.  [default: 10; with --radius, all]")
@where_option
@click.option(
    "--metric",
    type=click.Choice(METRICS),
    help="wasserstein and kl compare z_mean and z_log_var, the others z_mean; centered_cosine "
    "needs a centre: see latentdb optimize --metric.  [default: the store's, which info prints]",
)
@click.option("--radius", type=float, metavar="R", help="Only matches within this distance.")
@click.option(
    "--exact",
    is_flag=True,
    help="Compare every row instead of using the index.",
)
@click.option(
    "--exclude-self", is_flag=True, help="Leave out TARGET and the --like and --unlike targets."
)
@click.option("--like", multiple=True, metavar="TARGET", help="Also near this; repeatable.")
@click.option("--unlike", multiple=True, metavar="TARGET", help="Far from this; repeatable.")
@click.option(
    "--targets",
    type=click.Path(),
    metavar="FILE",
    help="Run a query per target: a text file with one TARGET per line, or .npy of shape [n, d].",
)
@click.option(
    "--sheet",
    type=PicturePath(),
    metavar="PNG",
    help="Draw the query and its matches; with --targets, ten queries to a sheet.",
)
@click.option("--on", "uri", metavar="URI", help="Search in the engine that DB was pushed to.")
@collection_option
@condition_option
@force_option
@trust_option
@json_option
def query(
    db: str,
    target: str | None,
    like: tuple[str, ...],
    unlike: tuple[str, ...],
    targets: str | None,
    sheet: str | None,
    uri: str | None,
    collection: str | None,
    overwrite: bool,
    condition: str | None,
    trust_model: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Find the images nearest to TARGET."""
    from latentdb.serving import Serving

    if targets is not None:
        if target is not None or like or unlike or uri is not None:
            raise click.UsageError(
                "--targets cannot be combined with TARGET, --like, --unlike or --on"
            )
        with Serving.open(db, trust_model=trust_model).with_condition(condition) as store:
            answers = store.query_file(targets, **how)
            print_answers(answers, as_json=as_json)
            if sheet is not None:  # last: if it fails, the answers are printed
                store.sheet_file(targets, answers, sheet, overwrite=overwrite)
        return
    if target is None and not like:
        raise click.UsageError("give a TARGET, --like TARGET, or --targets FILE")
    if uri is None and collection is not None:
        raise click.UsageError("--collection is of --on URI")
    with Serving.open(db, trust_model=trust_model).with_condition(condition) as store:
        if uri is None:
            matches = store.query(target, like=like, unlike=unlike, **how)
        else:
            own = _engine_options(how)
            matches = store.query_on(
                uri, target, like=like, unlike=unlike, collection=collection, **own
            )
        if as_json:
            print_json(matches)
        else:
            print_matches(matches)
        if sheet is not None:  # last: if it fails, the answer is printed
            store.sheet(target, matches, sheet, like=like, overwrite=overwrite)


def _engine_options(how: dict[str, Any]) -> dict[str, Any]:
    """Options of a query that an engine takes; wrong usage if another was given."""
    for name in ("metric", "radius", "exact"):
        if how.pop(name):
            raise click.UsageError(f"--{name} cannot be combined with --on: push decides it")
    return {key: value for key, value in how.items() if value is not None}
