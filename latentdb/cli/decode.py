"""Commands that turn latents into images: as stored, blended, averaged, interpolated."""

from __future__ import annotations

from typing import Any

import click

from latentdb.base.wording import counted
from latentdb.cli.console import print_json, print_matches, print_paths, print_position, progress
from latentdb.cli.options import (
    PicturePath,
    Weights,
    condition_option,
    db_argument,
    force_option,
    json_option,
    method_option,
    quiet_option,
    scale_option,
    trust_option,
    where_option,
)


@click.command()
@db_argument
@click.argument("targets", nargs=-1)
@where_option
@click.option("--all", "everything", is_flag=True, help="Every row.")
@click.option(
    "--recipe",
    metavar="RECIPE",
    help='A latent written as arithmetic: \'mean(label == "7") - mean(label == "3") + id:42\'.',
)
@click.option("--save", metavar="NAME", help="With --recipe: save it as @NAME for other recipes.")
@click.option(
    "--out",
    type=PicturePath(),
    help="A folder for one file per image, a .npy file of all pixels, or one picture.",
)
@click.option(
    "--format",
    type=click.Choice(["png", "jpeg", "webp", "npy"]),
    help="Format of the files in a folder.  [default: png]",
)
@click.option(
    "--sheet",
    type=PicturePath(),
    metavar="PNG",
    help="Contact sheet with ids; several are numbered.",
)
@click.option("--compare", is_flag=True, help="Draw the original beside each image on --sheet.")
@scale_option
@click.option(
    "--model", type=click.Path(), help="Fail if the store was made with another model than this."
)
@condition_option
@force_option
@trust_option
@json_option
@quiet_option
def decode(
    db: str,
    targets: tuple[str, ...],
    where: str | None,
    everything: bool,
    recipe: str | None,
    save: str | None,
    condition: str | None,
    trust_model: bool,
    as_json: bool,
    quiet: bool,
    **output: Any,
) -> None:
    """Decode latents into images: TARGETS, rows, a RECIPE, or all.

    Of a recipe it prints where the latent lies beside the data: its length, how much
    of it the picture loses (drift), and the three nearest rows.
    """
    from latentdb.reader import Reader

    if bool(targets) + (where is not None) + everything + (recipe is not None) != 1:
        raise click.UsageError("give one of TARGETS, --where EXPR, --recipe RECIPE, --all")
    if recipe is not None:
        _decode_recipe(db, recipe, save, as_json, condition, trust_model=trust_model, **output)
        return
    if save is not None:
        raise click.UsageError("--save NAME saves a --recipe")
    if output["out"] is None and output["sheet"] is None:
        raise click.UsageError("give --out, --sheet, or both")
    with Reader.open(db, trust_model=trust_model) as opened, progress(quiet) as report:
        store = opened.with_condition(condition)
        written = store.decode_to(targets or None, where=where, report=report, **output)
    if as_json:
        print_json(written)
    else:
        print_paths(written.written)


def _decode_recipe(
    db: str,
    recipe: str,
    save: str | None,
    as_json: bool,
    condition: str | None,
    *,
    trust_model: bool,
    overwrite: bool,
    **output: Any,
) -> None:
    from latentdb.database import LatentDB

    if output["out"] is None and output["sheet"] is None and save is None:
        raise click.UsageError("give --out, --sheet, --save, or several of them")
    with LatentDB.open(db, trust_model=trust_model) as store:
        reader = store.with_condition(condition)
        latent = reader.recipe(recipe)
        if save is not None:
            store.save_recipe(save, recipe, overwrite=overwrite)
        written = None
        if output["out"] is not None or output["sheet"] is not None:
            written = reader.decode_to([latent.vector], overwrite=overwrite, **output)
    if as_json:
        files = [] if written is None else list(written.written)
        print_json({**vars(latent), "saved": save, "written": files})
        return
    print_paths([] if written is None else written.written)
    if save is not None:
        click.echo(f"saved as @{save}, of {counted(latent.rows, 'row')}")
    print_position(latent.position)
    for note in latent.notes:
        click.echo(f"note: {note}")


@click.command()
@db_argument
@click.argument("targets", nargs=-1, required=True)
@click.option(
    "--weights",
    type=Weights(),
    metavar="W,W..",
    help="One per target; a negative weight leads away from its target.  They are scaled to a "
    "sum of 1, but for those that sum to 0, a difference.",
)
@method_option
@click.option("--out", type=PicturePath(), help="A picture, or .npy for the vector.")
@click.option("--query", "k", type=int, metavar="K", help="Find the K images nearest to the blend.")
@click.option(
    "--sheet",
    type=PicturePath(),
    metavar="PNG",
    help="Draw TARGETS, the blend, and what --query finds.",
)
@scale_option
@condition_option
@force_option
@trust_option
@json_option
def blend(
    db: str,
    targets: tuple[str, ...],
    weights: list[float] | None,
    method: str,
    out: str | None,
    sheet: str | None,
    scale: int,
    overwrite: bool,
    k: int | None,
    condition: str | None,
    trust_model: bool,
    as_json: bool,
) -> None:
    """Blend TARGETS into one latent.  --out decodes it, --query finds images near it."""
    from latentdb.reader import Reader

    if out is None and k is None and sheet is None:
        raise click.UsageError("give --out PNG, --query K, --sheet PNG, or several of them")
    with Reader.open(db, trust_model=trust_model).with_condition(condition) as store:
        vector = store.blend(targets, weights=weights, method=method)
        if out is not None:
            store.write(vector, out, scale=scale, overwrite=overwrite)
        matches = None if k is None else store.query(vector, k=k)
        position = store.position(vector)
        if as_json:
            print_json(
                {
                    "vector": vector,
                    "out": out,
                    "matches": matches,
                    "position": position,
                    "sheet": sheet,
                }
            )
        else:
            if out is not None:
                click.echo(out)
            print_position(position)
            if matches is not None:
                print_matches(matches)
        if sheet is not None:  # last: if it fails, the answer is printed
            store.blend_sheet(
                targets, vector, sheet, weights=weights, matches=matches, overwrite=overwrite
            )


@click.command()
@db_argument
@where_option
@click.option("--out", type=PicturePath(), help="A picture, or .npy for the vector.")
@click.option(
    "--sheet", type=PicturePath(), metavar="PNG", help="Draw the average beside ten of its rows."
)
@scale_option
@condition_option
@force_option
@trust_option
@json_option
def average(
    db: str,
    where: str | None,
    out: str | None,
    sheet: str | None,
    scale: int,
    overwrite: bool,
    condition: str | None,
    trust_model: bool,
    as_json: bool,
) -> None:
    """Decode the mean latent.  It is that of all rows, or of those of --where."""
    from latentdb.reader import Reader

    if out is None and sheet is None:
        raise click.UsageError("give --out PNG, --sheet PNG, or both")
    with Reader.open(db, trust_model=trust_model).with_condition(condition) as store:
        mean = store.average(where=where)
        if out is not None:
            store.write(mean.vector, out, scale=scale, overwrite=overwrite)
        if sheet is not None:
            store.average_sheet(mean, sheet, where=where, overwrite=overwrite)
    if as_json:
        print_json({"vector": mean.vector, "rows": mean.rows, "out": out, "sheet": sheet})
        return
    for path in filter(None, (out, sheet)):
        click.echo(f"{path}: average of {counted(mean.rows, 'row')}")


@click.command()
@db_argument
@click.argument("a")
@click.argument("b")
@click.option(
    "--steps", type=int, default=10, show_default=True, help="Number of images, A and B included."
)
@method_option
@click.option("--out", type=PicturePath(), help="A strip (.png), an animation (.gif), or .npy.")
@click.option(
    "--sheet",
    type=PicturePath(),
    metavar="PNG",
    help="Draw the path between the images of A and B, with the position of each step.",
)
@scale_option
@condition_option
@force_option
@trust_option
@json_option
def interpolate(
    db: str,
    a: str,
    b: str,
    steps: int,
    method: str,
    out: str | None,
    sheet: str | None,
    scale: int,
    overwrite: bool,
    condition: str | None,
    trust_model: bool,
    as_json: bool,
) -> None:
    """Decode a path through latent space from A to B.  Both are a TARGET."""
    from latentdb.reader import Reader

    if out is None and sheet is None:
        raise click.UsageError("give --out PNG, --sheet PNG, or both")
    with Reader.open(db, trust_model=trust_model).with_condition(condition) as store:
        path = store.interpolate(a, b, steps=steps, method=method)
        if out is not None:
            store.write(path, out, scale=scale, overwrite=overwrite)
        if sheet is not None:
            store.path_sheet(a, b, path, sheet, overwrite=overwrite)
    if as_json:
        print_json({"steps": steps, "out": out, "sheet": sheet})
        return
    for name in filter(None, (out, sheet)):
        click.echo(f"{name}: {counted(steps, 'step')}")
