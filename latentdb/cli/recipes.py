"""Commands of saved recipes."""

from __future__ import annotations

import click

from latentdb.cli.console import print_json, print_recipes
from latentdb.cli.options import db_argument, json_option


@click.command("recipes")
@db_argument
@click.option("--delete", "name", metavar="NAME", help="Delete this one.")
@json_option
def list_recipes(db: str, name: str | None, as_json: bool) -> None:
    """List the recipes and directions that are saved in DB."""
    from latentdb.database import LatentDB

    with LatentDB.open(db) as store:
        if name is not None:
            store.delete_recipe(name.removeprefix("@"))
        found = store.recipes()
    if as_json:
        print_json({"recipes": found})
    else:
        print_recipes(found)
