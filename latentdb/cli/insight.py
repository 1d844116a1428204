"""Commands that describe a latent space: which dimensions carry something, what they do."""

from __future__ import annotations

import click

from latentdb.ann.metrics import INDEXED_METRICS, METRICS
from latentdb.base.wording import printable
from latentdb.cli.console import (
    print_clusters,
    print_comparison,
    print_diagnosis,
    print_duplicates,
    print_evaluation,
    print_json,
    print_outliers,
    progress,
)
from latentdb.cli.options import (
    PicturePath,
    Range,
    condition_option,
    db_argument,
    force_option,
    json_option,
    quiet_option,
    seed_option,
    trust_option,
    where_option,
)


@click.command()
@db_argument
@where_option
@click.option(
    "--out", type=PicturePath(), help="A picture: histograms and walks of the first 12 dimensions."
)
@seed_option
@force_option
@condition_option
@trust_option
@json_option
def diagnose(
    db: str,
    where: str | None,
    out: str | None,
    overwrite: bool,
    seed: int,
    condition: str | None,
    trust_model: bool,
    as_json: bool,
) -> None:
    """Show which dimensions carry something, and whether the posterior collapsed."""
    from latentdb.reader import Reader

    with Reader.open(db, trust_model=trust_model).with_condition(condition) as store:
        found = store.diagnose(where=where, out=out, overwrite=overwrite, seed=seed)
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
@click.option("--out", required=True, type=PicturePath(), help="A picture; .gif for an animation.")
@seed_option
@condition_option
@force_option
@trust_option
@json_option
def traverse(
    db: str,
    target: str | None,
    dims: str,
    span: tuple[float, float],
    steps: int,
    out: str,
    overwrite: bool,
    seed: int,
    condition: str | None,
    trust_model: bool,
    as_json: bool,
) -> None:
    """Decode walks along single dimensions, from TARGET or the mean latent."""
    from latentdb.base.wording import counted
    from latentdb.reader import Reader

    low, high = span
    with Reader.open(db, trust_model=trust_model).with_condition(condition) as store:
        walk = store.traverse(
            target,
            dims=dims,
            low=low,
            high=high,
            steps=steps,
            out=out,
            overwrite=overwrite,
            seed=seed,
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
@click.option(
    "--out", required=True, type=PicturePath(), help="A picture, or .npy for the vectors."
)
@seed_option
@condition_option
@force_option
@trust_option
@json_option
def sample(
    db: str,
    count: int,
    source: str,
    where: str | None,
    out: str,
    overwrite: bool,
    seed: int,
    condition: str | None,
    trust_model: bool,
    as_json: bool,
) -> None:
    """Decode random latents."""
    from latentdb.base.wording import counted
    from latentdb.reader import Reader

    with Reader.open(db, trust_model=trust_model).with_condition(condition) as store:
        drawn = store.sample(
            count, source=source, where=where, out=out, overwrite=overwrite, seed=seed
        )
    if as_json:
        print_json({"source": drawn.source, "latents": drawn.latents, "out": out})
    else:
        click.echo(f"{out}: {counted(count, 'sample')} of {drawn.source}")


label_option = click.option(
    "--label", metavar="KEY", help="Metadata column with labels.  [default: label, if there is one]"
)
metric_option = click.option(
    "--metric", type=click.Choice(METRICS), default=METRICS[0], show_default=True
)
indexed_metric_option = click.option(
    "--metric", type=click.Choice(INDEXED_METRICS), default=METRICS[0], show_default=True
)


@click.command()
@db_argument
@click.option("-n", "count", type=int, default=20, show_default=True, help="Number of clusters.")
@where_option
@metric_option
@label_option
@click.option("--save", metavar="KEY", help="Keep the cluster of each row as a metadata column.")
@click.option(
    "--out", type=PicturePath(), help="A picture: decoded mean, medoid and nearest rows of each."
)
@seed_option
@force_option
@condition_option
@trust_option
@json_option
def cluster(
    db: str,
    count: int,
    where: str | None,
    metric: str,
    label: str | None,
    save: str | None,
    out: str | None,
    overwrite: bool,
    seed: int,
    condition: str | None,
    trust_model: bool,
    as_json: bool,
) -> None:
    """Group rows into clusters by k-means."""
    from latentdb.base.wording import counted
    from latentdb.database import LatentDB

    with LatentDB.open(db, trust_model=trust_model) as store:
        found = store.with_condition(condition).cluster(
            count, where=where, metric=metric, label=label, out=out, overwrite=overwrite, seed=seed
        )
        if save is not None:
            store.save_clusters(found, save, overwrite=overwrite)
    if as_json:
        print_json({"purity": found.purity, "clusters": found.clusters, "saved": save, "out": out})
        return
    print_clusters(found)
    if save is not None:
        click.echo(f"saved as {printable(save)}, of {counted(len(found.rows), 'row')}")
    if out is not None:
        click.echo(out)


@click.command("map")
@db_argument
@where_option
@metric_option
@click.option("--color", metavar="KEY", help="Metadata column.  [default: label, if there is one]")
@click.option("--out", required=True, type=PicturePath(), help="A picture.")
@click.option("--renew", is_flag=True, help="Make the layout anew: all points move.")
@seed_option
@force_option
@trust_option
@json_option
@quiet_option
def map_rows(
    db: str,
    where: str | None,
    metric: str,
    color: str | None,
    out: str,
    overwrite: bool,
    renew: bool,
    seed: int,
    trust_model: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw rows as a map, similar images near to each other.

    The layout is made once and kept in the store; rows that are added later are
    placed in it and move no other.
    """
    from latentdb.base.wording import counted
    from latentdb.reader import Reader

    with Reader.open(db, trust_model=trust_model) as store, progress(quiet) as report:
        found = store.map(
            where=where,
            metric=metric,
            color=color,
            out=out,
            overwrite=overwrite,
            renew=renew,
            seed=seed,
            report=report,
        )
        if as_json:
            points = zip(store.ids(found.rows), found.points.tolist(), strict=True)
            print_json(
                {
                    "out": out,
                    "metric": found.metric,
                    "neighbours_kept": found.kept,
                    "landmarks": found.landmarks,
                    "points": [{"id": name, "x": x, "y": y} for name, (x, y) in points],
                }
            )
            return
    click.echo(
        f"{out}: {counted(len(found.rows), 'row')}, {found.landmarks:,} of them laid out; the map "
        f"keeps {found.kept:.1%} of the 10 nearest neighbours by {found.metric}"
    )


@click.command("eval")
@db_argument
@where_option
@label_option
@click.option("--metric", type=click.Choice(INDEXED_METRICS), help="Only this one.  [default: all]")
@click.option("-k", type=int, default=10, show_default=True, help="Neighbours of each query.")
@click.option("--queries", type=int, default=2_000, show_default=True, help="Most queries.")
@click.option("--out", type=PicturePath(), help="A picture: the scores as bars.")
@seed_option
@force_option
@trust_option
@json_option
def evaluate(
    db: str,
    where: str | None,
    label: str | None,
    metric: str | None,
    k: int,
    queries: int,
    out: str | None,
    overwrite: bool,
    seed: int,
    trust_model: bool,
    as_json: bool,
) -> None:
    """Measure neighbours and reconstructions, beside raw pixels and PCA."""
    from latentdb.reader import Reader

    with Reader.open(db, trust_model=trust_model) as store:
        found = store.eval(
            where=where,
            label=label,
            metric=metric,
            k=k,
            queries=queries,
            out=out,
            overwrite=overwrite,
            seed=seed,
        )
    if as_json:
        print_json(found)
        return
    print_evaluation(found)
    if out is not None:
        click.echo(out)


@click.command()
@db_argument
@click.option(
    "--threshold",
    type=float,
    help="Rows nearer than this are copies; 0 for equal images.  [default: calibrated]",
)
@indexed_metric_option
@click.option(
    "--keep",
    type=click.Choice(["medoid", "largest"]),
    default="medoid",
    show_default=True,
    help="Of each group: the one nearest to all others, or the largest file.",
)
@click.option("--delete", "delete_rows", is_flag=True, help="Delete all rows but those to keep.")
@click.option("--yes", is_flag=True, help="With --delete: do it.")
@click.option("--sheet", type=PicturePath(), help="A picture: up to 40 groups, the farthest first.")
@seed_option
@force_option
@trust_option
@json_option
@quiet_option
def duplicates(
    db: str,
    threshold: float | None,
    metric: str,
    keep: str,
    delete_rows: bool,
    yes: bool,
    sheet: str | None,
    overwrite: bool,
    seed: int,
    trust_model: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find images that DB has more than once: equal files and near copies.

    Rows are deleted, image files never.
    """
    from latentdb.base.wording import counted
    from latentdb.database import LatentDB

    if delete_rows != yes:
        raise click.UsageError(
            "--delete and --yes go together: look at the groups first, as --sheet shows them"
        )
    with LatentDB.open(db, trust_model=trust_model) as store, progress(quiet) as report:
        found = store.duplicates(
            threshold=threshold,
            metric=metric,
            keep=keep,
            sheet=sheet,
            overwrite=overwrite,
            seed=seed,
            report=report,
        )
        deleted = store.delete(found.surplus) if yes and found.surplus else 0
    if as_json:
        print_json(
            {
                "rows": found.rows,
                "metric": found.metric,
                "threshold": found.threshold,
                "groups": found.groups,
                "notes": found.notes,
                "deleted": deleted,
                "sheet": sheet if found.groups else None,
            }
        )
        return
    print_duplicates(found)
    if yes:
        click.echo(f"{counted(deleted, 'row')} deleted")
    if sheet is not None and found.groups:
        click.echo(sheet)


@click.command()
@db_argument
@click.option("-n", "count", type=int, default=20, show_default=True, help="Rows to name.")
@click.option(
    "--by",
    type=click.Choice(["error", "kl", "distance"]),
    help="What to order them by.  [default: the first that can be computed]",
)
@where_option
@click.option(
    "-k",
    type=int,
    default=10,
    show_default=True,
    help="Neighbours of the distance: a group of more similar images is no outlier by it.",
)
@indexed_metric_option
@click.option("--sheet", type=PicturePath(), help="A picture: images beside their reconstructions.")
@force_option
@trust_option
@json_option
@quiet_option
def outliers(
    db: str,
    count: int,
    by: str | None,
    where: str | None,
    k: int,
    metric: str,
    sheet: str | None,
    overwrite: bool,
    trust_model: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find the rows that are most unlike the others.

    error: reconstruction error that is unusual for the texture of the image.  kl:
    divergence of the posterior from the prior.  distance: mean distance of the
    k nearest.
    """
    from latentdb.reader import Reader

    with Reader.open(db, trust_model=trust_model) as store, progress(quiet) as report:
        found = store.outliers(
            count,
            by=by,
            where=where,
            k=k,
            metric=metric,
            sheet=sheet,
            overwrite=overwrite,
            report=report,
        )
    if as_json:
        print_json(
            {
                "by": found.by,
                "rows": len(found.rows),
                "outliers": found.top,
                "notes": found.notes,
                "sheet": sheet,
            }
        )
        return
    print_outliers(found)
    if sheet is not None:
        click.echo(sheet)


@click.command()
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@where_option
@label_option
@click.option("-k", type=int, default=10, show_default=True, help="Neighbours of each row.")
@indexed_metric_option
@click.option("--rows", type=int, default=5_000, show_default=True, help="Most rows to compare.")
@click.option(
    "--out", type=PicturePath(), help="A picture: both maps, the second laid on the first."
)
@seed_option
@force_option
@json_option
def compare(
    a: str,
    b: str,
    where: str | None,
    label: str | None,
    k: int,
    metric: str,
    rows: int,
    out: str | None,
    overwrite: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Compare the neighbours of the same ids in the stores A and B.

    They may be of two models, or of two epochs of a training.
    """
    from latentdb.reader import Reader

    with Reader.open(a) as store:
        found = store.compare(
            b,
            where=where,
            label=label,
            k=k,
            metric=metric,
            rows=rows,
            out=out,
            overwrite=overwrite,
            seed=seed,
        )
    if as_json:
        print_json({**vars(found), "out": out})
        return
    print_comparison(found)
    if out is not None:
        click.echo(out)
