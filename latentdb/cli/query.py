"""Commands that search: query, and optimize, which makes searching fast."""

from __future__ import annotations

import re
from typing import Any

import click

from latentdb.ann.metrics import METRICS
from latentdb.ann.plan import PREFERENCES
from latentdb.cli.shell import (
    db_argument,
    json_option,
    open_db,
    open_reader,
    print_json,
    print_matches,
    quiet_option,
    trust_option,
    where_option,
)

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class _Memory(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A number of bytes: 4G, 500M, 4GiB; 0 for no limit."""

    name = "memory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        from fractions import Fraction

        text = str(value).strip().lower()
        found = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([kmgt]?)(i?)b?", text)
        if found is None or (found[3] and not found[2]):
            self.fail(f"{value!r} is no size: give bytes, such as 4G or 500M", param, ctx)
        return int(Fraction(found[1]) * (1024 if found[3] else 1000) ** _POWERS[found[2]])


@click.command()
@db_argument
@click.argument("target", required=False)
@click.option("-k", type=int, help="How many neighbours.  [default: 10, or all within --radius]")
@where_option
@click.option(
    "--metric",
    type=click.Choice(METRICS),
    default=METRICS[0],
    show_default=True,
    help="l2 and cosine compare z_mean, wasserstein and kl whole posteriors.",
)
@click.option("--radius", type=float, metavar="R", help="Only what lies within this distance.")
@click.option("--exact", is_flag=True, help="Compare every row, whatever index there is.")
@click.option("--exclude-self", is_flag=True, help="Leave TARGET and the examples out.")
@click.option("--like", multiple=True, metavar="TARGET", help="Near to this too; repeatable.")
@click.option("--unlike", multiple=True, metavar="TARGET", help="Far from this; repeatable.")
@click.option(
    "--targets",
    type=click.Path(),
    metavar="FILE",
    help="Many at once: a text file with a TARGET a line, or .npy of shape [n, d].",
)
@click.option("--sheet", type=click.Path(), metavar="PNG", help="Draw the query and its matches.")
@trust_option
@json_option
def query(
    db: str,
    target: str | None,
    like: tuple[str, ...],
    unlike: tuple[str, ...],
    targets: str | None,
    sheet: str | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Find the images nearest to TARGET, or to each of many."""
    if targets is not None:
        if target is not None or like or unlike or sheet is not None:
            raise click.UsageError("--targets stands alone: no TARGET, --like, --unlike, --sheet")
        with open_reader(db) as opened:
            found = opened.query_file(targets, **how)
        if as_json:
            print_json({"queries": [{"target": name, **vars(own)} for name, own in found]})
            return
        for name, own in found:
            click.echo(f"{name}:")
            print_matches(own)
        return
    if target is None and not like:
        raise click.UsageError("give a TARGET, --like TARGET, or --targets FILE")
    if sheet is not None and target is None:
        raise click.UsageError("--sheet draws TARGET: give one")
    with open_reader(db) as opened:
        matches = opened.query(target, like=like, unlike=unlike, **how)
        if sheet is not None and target is not None:
            opened.sheet(target, matches, sheet)
    if as_json:
        print_json(matches)
    else:
        print_matches(matches)


@click.command()
@db_argument
@click.option("--recall", type=float, help="Share of true neighbours.  [default: as it is]")
@click.option("--memory", type=_Memory(), help="Bytes the index may take, such as 4G; 0 for any.")
@click.option(
    "--prefer",
    type=click.Choice(PREFERENCES),
    help="A short build, or short queries.  [default: as it is]",
)
@click.option(
    "--metric",
    type=click.Choice(METRICS[:3]),
    help="What the index is for; others scan.  [default: as it is]",
)
@json_option
@quiet_option
def optimize(db: str, as_json: bool, quiet: bool, **how: Any) -> None:
    """Build the search index of DB anew and tune it to a recall."""
    from latentdb.cli.console import print_info, progress

    with open_db(db) as opened, progress(quiet) as report:
        told = opened.optimize(report=report, **how)
    if as_json:
        print_json(told)
    else:
        print_info(told)
