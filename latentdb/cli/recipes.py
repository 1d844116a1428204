"""Commands of directions and saved recipes."""

from __future__ import annotations

import click

from latentdb.cli.console import print_axes, print_direction, print_json, print_recipes
from latentdb.cli.options import (
    PicturePath,
    condition_option,
    db_argument,
    force_option,
    json_option,
    seed_option,
    trust_option,
)


@click.command("recipes")
@db_argument
@click.option("--delete", "name", metavar="NAME", help="Delete the recipe @NAME.")
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


@click.command()
@db_argument
@click.option(
    "-n", "count", type=int, default=20, show_default=True, help="Most directions to list."
)
@click.option("--out", type=PicturePath(), help="A picture: walks along the first 12.")
@seed_option
@force_option
@condition_option
@trust_option
@json_option
def directions(
    db: str,
    count: int,
    out: str | None,
    seed: int,
    overwrite: bool,
    condition: str | None,
    trust_model: bool,
    as_json: bool,
) -> None:
    """Find directions that change the picture, without labels.

    They are the principal axes of z_mean, and pc(N) in recipes.
    """
    from latentdb.reader import Reader

    with Reader.open(db, trust_model=trust_model).with_condition(condition) as store:
        found = store.directions(count, out=out, overwrite=overwrite, seed=seed)
    if as_json:
        print_json({"directions": found, "out": out})
        return
    print_axes(found)
    if out is not None:
        click.echo(out)


@click.command()
@db_argument
@click.option(
    "--from", "source", required=True, metavar="EXPR", help="Rows the direction leads from."
)
@click.option("--to", "target", required=True, metavar="EXPR", help="Rows it leads to.")
@click.option(
    "--method",
    type=click.Choice(["difference", "whitened", "logistic"]),
    default="difference",
    show_default=True,
    help="difference: of the means, which mixes in what is correlated.  whitened: that, times "
    "the inverse covariance within both.  logistic: regression.",
)
@click.option("--save", metavar="NAME", help="Save it as @NAME for recipes.")
@click.option("--out", type=PicturePath(), help="A picture: four rows of --from, walked along it.")
@seed_option
@force_option
@condition_option
@trust_option
@json_option
def direction(
    db: str,
    source: str,
    target: str,
    method: str,
    save: str | None,
    out: str | None,
    seed: int,
    overwrite: bool,
    condition: str | None,
    trust_model: bool,
    as_json: bool,
) -> None:
    """Find the direction from some rows to others, by their metadata.

    The AUC printed is that of a fifth of the rows, which were held out.
    """
    from latentdb.database import LatentDB

    with LatentDB.open(db, trust_model=trust_model) as store:
        found = store.with_condition(condition).direction(
            source, target, method=method, out=out, overwrite=overwrite, seed=seed
        )
        if save is not None:
            store.save_recipe(save, found, overwrite=overwrite)
    if as_json:
        print_json({**vars(found), "saved": save, "out": out})
        return
    print_direction(found)
    if save is not None:
        click.echo(f"saved as @{save}")
    if out is not None:
        click.echo(out)
