"""The command line: every command parses, makes a call of the facade, and prints."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from latentdb.cli.options import Size, as_floats, check_model_options, foreign_model
from latentdb.cli.query import optimize, query
from latentdb.cli.shell import (
    Group,
    db_argument,
    json_option,
    open_db,
    open_reader,
    print_json,
    print_matches,
    quiet_option,
    strict_option,
    trust_option,
    where_option,
)

if TYPE_CHECKING:
    from latentdb.images.discover import BadFile

_LISTED = 100  # bad files that are printed; --json has them all
Command = TypeVar("Command", bound=Callable[..., Any])


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="latentdb")
def main() -> None:
    """Index images into the latents of a variational autoencoder, query and decode them.

    TARGET is an id in the store, an image file, or a .npy vector; id:, file:
    and npy: before it settle a doubt.  EXPR is a metadata expression such as
    'label == "cat" and year > 2000'.
    """
    from latentdb.cli.console import show_warnings_in_one_line

    show_warnings_in_one_line()


main.add_command(query)
main.add_command(optimize)

_method = click.option(
    "--method",
    type=click.Choice(["linear", "slerp", "norm"]),
    default="linear",
    show_default=True,
    help="Straight, on the sphere, or straight with the norm kept.",
)
_model_check = click.option(
    "--model", type=click.Path(), help="Refuse any store but one of this model."
)


def _list_bad(bad: tuple[BadFile, ...]) -> None:
    if not bad:
        return
    click.echo(f"{len(bad)} bad files were skipped:", err=True)
    for file in bad[:_LISTED]:
        click.echo(f"  {file.path}: {file.reason}", err=True)
    if len(bad) > _LISTED:
        click.echo(f"  and {len(bad) - _LISTED} more; --json lists them all", err=True)


@main.command()
@click.argument("images", nargs=-1, required=True, type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="The model folder to make.")
@click.option("--arch", type=click.Choice(["conv", "mlp"]), default="conv", show_default=True)
@click.option("--image-size", type=Size(), help="64, or HEIGHTxWIDTH.  [default: the images']")
@click.option("--channels", type=click.Choice(["1", "3"]), help="[default: the images']")
@click.option(
    "--resize",
    type=click.Choice(["stretch", "crop", "pad"]),
    default="stretch",
    show_default=True,
    help="How an image of another shape is made to fit.",
)
@click.option("--latent-dim", type=int, default=64, show_default=True)
@click.option("--beta", type=float, default=0.3, show_default=True, help="Weight of the KL loss.")
@click.option("--epochs", type=int, default=100, show_default=True, help="Stop after so many.")
@click.option("--minutes", type=float, help="Stop after so long.")
@click.option(
    "--patience",
    type=int,
    default=5,
    show_default=True,
    help="Stop after so many epochs without a better validation loss.",
)
@click.option("--validation", type=float, default=0.1, show_default=True, help="Share held out.")
@click.option("--batch", type=int, help="Images a step.  [default: 128; 32 below 10,000 images]")
@click.option("--seed", type=int, default=0, show_default=True)
@strict_option
@json_option
@quiet_option
def train(
    images: tuple[str, ...], channels: str | None, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Train a VAE on IMAGES (folders and files) and write it as a model folder.

    Ctrl-C ends the training early and keeps the best weights so far.
    """
    from latentdb.cli.console import progress
    from latentdb.model.training import train_model

    with progress(quiet) as report:
        done = train_model(
            images, channels=None if channels is None else int(channels), report=report, **options
        )
    if as_json:
        print_json(done)
        return
    spec = done.config.preprocessing
    click.echo(
        f"trained on {done.images} of {done.found} images at "
        f"{spec.height}x{spec.width}x{spec.channels}, {done.validation_images} held out"
    )
    click.echo(
        f"{done.epochs} epochs in {done.seconds:.0f} s ({done.stopped}), best: {done.best_epoch}; "
        f"reconstructions of held-out images: {done.psnr:.1f} dB"
    )
    click.echo(f"{done.path}: encoder, decoder, history.csv, reconstructions.png")
    _list_bad(done.bad)


@main.command()
@click.argument("model", type=click.Path())
@click.option("--plot", type=click.Path(), metavar="PNG", help="Draw the graph.")
@json_option
def model(model: str, plot: str | None, as_json: bool) -> None:
    """Print the encoder and the decoder of MODEL: a model folder, or a .keras or .h5 file."""
    from latentdb.stored_model import load_model

    codec = load_model(model)
    for note in codec.notes:
        click.echo(f"note: {note}", err=True)
    if plot is not None:
        codec.plot(plot)
    if as_json:
        print_json({**vars(codec.config), "plot": plot})
    else:
        click.echo(codec.summaries())


@main.command()
@db_argument
@click.argument("images", nargs=-1, required=True, type=click.Path())
@foreign_model
@click.option("--metadata", type=click.Path(), metavar="FILE", help="A .csv or .jsonl file.")
@click.option("--labels-from-folders", is_flag=True, help="Topmost folder of an image as label.")
@click.option("--recall", type=float, help="For a new store.  [default: 0.99]")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bf16"]),
    help="To encode in, for a new store.  [default: float32]",
)
@strict_option
@json_option
@quiet_option
def index(
    db: str,
    images: tuple[str, ...],
    metadata: str | None,
    labels_from_folders: bool,
    recall: float | None,
    precision: str | None,
    strict: bool,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Encode the new and changed IMAGES (folders and files) into DB.

    The first time it makes the store, with --model or --encoder.  Later runs
    skip what is in it; a run that was killed goes on where it stopped.
    """
    from latentdb.cli.console import progress
    from latentdb.database import LatentDB
    from latentdb.images.discover import require_images

    require_images(images)
    check_model_options(given)
    given["channels"] = None if given["channels"] is None else int(given["channels"])
    codec = None
    if LatentDB.exists(db):
        if recall is not None:
            raise click.UsageError(f"--recall is for a new store: latentdb optimize {db} --recall")
        opened = LatentDB.open(db, trust_model=given["trust_model"])
        opened.check_precision(precision)
        codec = opened.read_model(**given)
    else:
        if given["model"] is None and given["encoder"] is None:
            raise click.UsageError(
                f"{db} does not exist: to make it give --model MODEL (latentdb train makes one), "
                "or --encoder and --decoder"
            )
        opened = LatentDB.create(
            db,
            images=images,
            recall=0.99 if recall is None else recall,
            precision=precision or "float32",
            **given,
        )
        for note in opened.codec.notes:
            click.echo(f"note: {note}", err=True)
    with opened:
        before = len(opened)
        try:
            with progress(quiet) as report:
                done = opened.index_images(
                    images,
                    model=codec,
                    metadata=metadata,
                    labels_from_folders=labels_from_folders,
                    strict=strict,
                    report=report,
                )
        except KeyboardInterrupt:
            click.echo(
                f"Interrupted: {len(opened)} rows are committed ({len(opened) - before} of them "
                "new); the same command goes on from there.",
                err=True,
            )
            raise click.exceptions.Exit(130) from None
    if as_json:
        print_json(done)
    else:
        click.echo(
            f"{done.added} added, {done.updated} updated, {done.unchanged} unchanged (skipped), "
            f"{len(done.bad)} bad; {done.rows} rows, {done.seconds:.1f} s"
        )
        if done.unmatched:
            click.echo(f"{done.unmatched} rows of {metadata} fit none of the images", err=True)
        _list_bad(done.bad)
    if done.bad and not done.rows:
        raise click.exceptions.Exit(1)


@main.command()
@db_argument
@click.argument("targets", nargs=-1)
@where_option
@click.option("--all", "everything", is_flag=True, help="Every row.")
@click.option(
    "--out", type=click.Path(), help="A folder for one file each, a .npy file, or one picture."
)
@click.option(
    "--format",
    type=click.Choice(["png", "jpeg", "webp", "npy"]),
    help="Of the files in a folder.  [default: png]",
)
@click.option(
    "--sheet", type=click.Path(), metavar="PNG", help="Contact sheets: numbered if several."
)
@_model_check
@trust_option
@json_option
@quiet_option
def decode(
    db: str,
    targets: tuple[str, ...],
    where: str | None,
    everything: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Decode the latents of TARGETS, of the rows EXPR keeps, or of all back into images."""
    from latentdb.cli.console import progress

    if bool(targets) + (where is not None) + everything != 1:
        raise click.UsageError("give TARGETS, --where EXPR, or --all")
    if options["out"] is None and options["sheet"] is None:
        raise click.UsageError("give --out, --sheet, or both")
    with open_reader(db) as opened, progress(quiet) as report:
        written = opened.decode_to(targets or None, where=where, report=report, **options)
    if as_json:
        print_json({"written": written})
        return
    for path in written[:_LISTED]:
        click.echo(path)
    if len(written) > _LISTED:
        click.echo(f"and {len(written) - _LISTED} more; --json lists them all")


@main.command()
@db_argument
@click.argument("targets", nargs=-1, required=True)
@click.option("--weights", metavar="W,W..", help="One a target; negative ones lead away from it.")
@_method
@click.option("--out", type=click.Path(), help="A picture, or .npy for the vector.")
@click.option("--query", "k", type=int, metavar="K", help="Find the K images nearest to the blend.")
@trust_option
@json_option
def blend(
    db: str,
    targets: tuple[str, ...],
    weights: str | None,
    method: str,
    out: str | None,
    k: int | None,
    as_json: bool,
) -> None:
    """Blend TARGETS into one latent; decode it, or find what is nearest to it."""
    if out is None and k is None:
        raise click.UsageError("give --out PNG, --query K, or both")
    with open_reader(db) as opened:
        vector = opened.blend(targets, weights=as_floats(weights), method=method)
        if out is not None:
            opened.write(vector, out)
        matches = None if k is None else opened.query(vector, k=k)
    if as_json:
        print_json({"vector": vector, "out": out, "matches": matches})
        return
    if out is not None:
        click.echo(out)
    if matches is not None:
        print_matches(matches)


@main.command()
@db_argument
@where_option
@click.option("--out", required=True, type=click.Path(), help="A picture, or .npy for the vector.")
@trust_option
@json_option
def average(db: str, where: str | None, out: str, as_json: bool) -> None:
    """Average the latents of all rows, or of those EXPR keeps, and decode the mean."""
    with open_reader(db) as opened:
        mean = opened.average(where=where)
        opened.write(mean.vector, out)
    if as_json:
        print_json({"vector": mean.vector, "rows": mean.rows, "out": out})
    else:
        click.echo(f"{out}: the average of {mean.rows} rows")


@main.command()
@db_argument
@click.argument("a")
@click.argument("b")
@click.option(
    "--steps", type=int, default=10, show_default=True, help="Points, both ends included."
)
@_method
@click.option(
    "--out", required=True, type=click.Path(), help="A strip (.png), an animation (.gif), or .npy."
)
@trust_option
@json_option
def interpolate(db: str, a: str, b: str, steps: int, method: str, out: str, as_json: bool) -> None:
    """Decode a path through the latent space from target A to target B."""
    with open_reader(db) as opened:
        path = opened.interpolate(a, b, steps=steps, method=method)
        opened.write(path, out)
    if as_json:
        print_json({"steps": steps, "out": out})
    else:
        click.echo(f"{out}: {steps} steps")


@main.command()
@db_argument
@json_option
def info(db: str, as_json: bool) -> None:
    """Tell what is in DB and how it is searched."""
    from latentdb.cli.console import print_info

    with open_reader(db) as opened:
        told = opened.info()
    if as_json:
        print_json(told)
    else:
        print_info(told)


@main.command()
@db_argument
@click.argument("ids", nargs=-1)
@where_option
@json_option
def delete(db: str, ids: tuple[str, ...], where: str | None, as_json: bool) -> None:
    """Delete rows of DB: those of IDS, or those EXPR keeps."""
    if bool(ids) == (where is not None):
        raise click.UsageError("give ids, or --where EXPR")
    with open_db(db) as opened:
        rows = opened.delete(ids or None, where=where)
    if as_json:
        print_json({"deleted": rows})
    else:
        click.echo(f"{rows} rows deleted")


@main.command()
@db_argument
@json_option
def compact(db: str, as_json: bool) -> None:
    """Merge small segments of DB and drop deleted rows; readers keep reading."""
    with open_db(db) as opened:
        done = opened.compact()
    if as_json:
        print_json(done)
    else:
        click.echo(
            f"{done.merged} segments became {done.written}, {done.dropped} deleted rows dropped; "
            f"{done.segments} segments"
        )


@main.command()
@db_argument
@click.option("--repair", is_flag=True, help="Mend what can be made again, set aside the rest.")
@json_option
def verify(db: str, repair: bool, as_json: bool) -> None:
    """Check every file of DB, and everything they say; exit 1 if something is wrong."""
    from latentdb.database import LatentDB

    report = LatentDB.verify(db, repair=repair)
    if as_json:
        print_json(report)
    else:
        for problem in report.problems:
            click.echo(f"{problem.file}: {problem.what} -> {problem.repair}")
        click.echo(
            f"{report.files} files, {report.rows} rows: {len(report.problems)} problems"
            + (f", {report.lost_rows} rows lost" if report.lost_rows else "")
        )
    if report.problems and not repair:
        raise click.exceptions.Exit(1)


@main.command()
@db_argument
@click.argument("out", type=click.Path())
@where_option
@json_option
def export(db: str, out: str, where: str | None, as_json: bool) -> None:
    """Write rows to OUT: .h5, .parquet or .csv (everything), or .npy (z_mean alone)."""
    with open_reader(db) as opened:
        rows = opened.export(out, where=where)
    if as_json:
        print_json({"out": out, "rows": rows, "bytes": Path(out).stat().st_size})
    else:
        click.echo(f"{out}: {rows} rows")


@main.command("import")
@db_argument
@click.argument("file", type=click.Path())
@click.option(
    "--on-conflict",
    type=click.Choice(["error", "skip", "replace"]),
    default="error",
    show_default=True,
    help="What to do with an id that is in DB.",
)
@click.option("--ids", type=click.Path(), metavar="FILE", help="Of .npy: one a line.")
@json_option
@quiet_option
def import_file(
    db: str, file: str, on_conflict: str, ids: str | None, as_json: bool, quiet: bool
) -> None:
    """Add the ready-made vectors in FILE (.h5, .npy, .parquet, .csv) to DB, or make it of them."""
    from latentdb.cli.console import progress
    from latentdb.database import LatentDB

    with progress(quiet) as report:
        done = LatentDB.import_into(db, file, on_conflict=on_conflict, ids=ids, report=report)
    if as_json:
        print_json(done)
    else:
        click.echo(
            f"{done.added} added, {done.replaced} replaced, {done.skipped} skipped; "
            f"{done.rows} rows, {done.seconds:.1f} s"
        )


if __name__ == "__main__":
    sys.exit(main())
