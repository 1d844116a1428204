"""Commands that describe a latent space: which dimensions carry something, what they do."""

from __future__ import annotations

import click

from latentdb.cli.console import print_diagnosis, print_json
from latentdb.cli.options import (
    Range,
    db_argument,
    json_option,
    trust_option,
    where_option,
)

seed_option = click.option("--seed", type=int, default=0, show_default=True, help="Of the samples.")


@click.command()
@db_argument
@where_option
@click.option(
    "--out", type=click.Path(), help="A picture: histograms and walks of the first 12 dimensions."
)
@seed_option
@trust_option
@json_option
def diagnose(
    db: str, where: str | None, out: str | None, seed: int, trust_model: bool, as_json: bool
) -> None:
    """Show which dimensions carry something, and whether the posterior collapsed."""
    from latentdb.reader import Reader

    with Reader.open(db, trust_model=trust_model) as store:
        found = store.diagnose(where=where, out=out, seed=seed)
    if as_json:
        print_json(found)
        return
    print_diagnosis(found)
    if out is not None:
        click.echo(out)


@click.command()
@db_argument
@click.argument("target", required=False)
@click.option(
    "--dims",
    default="top:8",
    show_default=True,
    metavar="DIMS",
    help="top:N: those that change the picture most.  1,5,9: these, numbered from 0.",
)
@click.option(
    "--range",
    "span",
    type=Range(),
    default="-3..3",
    show_default=True,
    metavar="LOW..HIGH",
    help="In standard deviations of the aggregate posterior.",
)
@click.option("--steps", type=int, default=9, show_default=True, help="Images per dimension.")
@click.option("--out", required=True, type=click.Path(), help="A picture; .gif for an animation.")
@seed_option
@trust_option
@json_option
def traverse(
    db: str,
    target: str | None,
    dims: str,
    span: tuple[float, float],
    steps: int,
    out: str,
    seed: int,
    trust_model: bool,
    as_json: bool,
) -> None:
    """Decode walks along single dimensions, from TARGET or the mean latent."""
    from latentdb.base.wording import counted
    from latentdb.reader import Reader

    low, high = span
    with Reader.open(db, trust_model=trust_model) as store:
        walk = store.traverse(
            target, dims=dims, low=low, high=high, steps=steps, out=out, seed=seed
        )
    if as_json:
        print_json({"dims": walk.dims, "offsets": walk.offsets, "out": out})
    else:
        click.echo(
            f"{out}: {counted(len(walk.dims), 'dimension')}: {', '.join(map(str, walk.dims))}"
        )


@click.command()
@db_argument
@click.option("-n", "count", type=int, default=64, show_default=True, help="Number of samples.")
@click.option(
    "--from",
    "source",
    type=click.Choice(["prior", "aggregate"]),
    default="prior",
    show_default=True,
    help="prior: N(0, 1).  aggregate: a Gaussian fitted to the posteriors in the store.",
)
@where_option
@click.option("--out", required=True, type=click.Path(), help="A picture, or .npy for the vectors.")
@seed_option
@trust_option
@json_option
def sample(
    db: str,
    count: int,
    source: str,
    where: str | None,
    out: str,
    seed: int,
    trust_model: bool,
    as_json: bool,
) -> None:
    """Decode random latents."""
    from latentdb.base.wording import counted
    from latentdb.reader import Reader

    with Reader.open(db, trust_model=trust_model) as store:
        drawn = store.sample(count, source=source, where=where, out=out, seed=seed)
    if as_json:
        print_json({"source": drawn.source, "latents": drawn.latents, "out": out})
    else:
        click.echo(f"{out}: {counted(count, 'sample')} of {drawn.source}")
