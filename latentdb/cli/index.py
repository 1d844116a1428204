"""The command that encodes images into a store, and makes the store the first time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from latentdb.cli.options import (
    db_argument,
    json_option,
    model_arguments,
    model_options,
    quiet_option,
    strict_option,
)

if TYPE_CHECKING:
    from latentdb.ingest.ingest import IndexReport
    from latentdb.ingest.table import Unmatched


@click.command()
@db_argument
@click.argument("images", nargs=-1, required=True, type=click.Path())
@model_options
@click.option(
    "--metadata",
    type=click.Path(),
    metavar="FILE",
    help="A table with a column that names the image: .csv, .tsv, .json, .jsonl or .parquet.",
)
@click.option(
    "--metadata-column",
    metavar="NAME",
    help="The column of FILE that names the image.  [default: id, path, filename and the like]",
)
@click.option(
    "--labels-from-folders",
    is_flag=True,
    help="Give images their topmost folder as label; below train, val, test, their nearest.",
)
@click.option(
    "--rehash", is_flag=True, help="Read every file again, even if its size and time are as stored."
)
@click.option("--recall", type=float, help="Target recall of a new store.  [default: 0.99]")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bf16"]),
    help="Precision of the encoder, for a new store.  [default: float32]",
)
@strict_option
@click.option(
    "--allow-bad",
    metavar="N|P%",
    default="50%",
    show_default=True,
    help="Exit with 1 if more files than this, or than this share, cannot be read.",
)
@json_option
@quiet_option
def index(
    db: str,
    images: tuple[str, ...],
    metadata: str | None,
    metadata_column: str | None,
    labels_from_folders: bool,
    rehash: bool,
    recall: float | None,
    precision: str | None,
    strict: bool,
    allow_bad: str,
    as_json: bool,
    quiet: bool,
    **model_values: Any,
) -> None:
    """Encode new and changed images into DB.

    IMAGES are folders and files.  The first run makes DB and needs --model or
    --encoder.  Later runs skip the images already in it; the same command
    resumes an interrupted run.
    """
    from latentdb.base.wording import counted
    from latentdb.cli.console import print_json, print_notes, print_verdict, progress
    from latentdb.database import LatentDB
    from latentdb.images.discover import require_images
    from latentdb.ingest.allowance import parse_allowance

    if metadata_column is not None and metadata is None:
        raise click.UsageError("--metadata-column: only with --metadata")
    require_images(images)
    parse_allowance(allow_bad)
    arguments = model_arguments(model_values)
    codec = None
    if LatentDB.exists(db):
        if recall is not None:
            raise click.UsageError(
                f"--recall is for a new store: run latentdb optimize {db} --recall {recall:g}"
            )
        store = LatentDB.open(db, trust_model=model_values["trust_model"])
        store.check_precision(precision)
        codec = store.read_model(**arguments)
    else:
        if arguments["model"] is None and arguments["encoder"] is None:
            raise click.UsageError(
                f"{db} does not exist: to make it give --model MODEL (latentdb train makes one), "
                "or --encoder and --decoder"
            )
        store = LatentDB.create(
            db,
            **arguments,
            images=images,
            recall=0.99 if recall is None else recall,
            precision=precision or "float32",
        )
        print_notes(store.codec)
        print_verdict(store.codec.config)
    with store:
        rows_before = len(store)
        try:
            with progress(quiet) as report:
                done = store.index_images(
                    images,
                    model=codec,
                    metadata=metadata,
                    metadata_column=metadata_column,
                    labels_from_folders=labels_from_folders,
                    rehash=rehash,
                    strict=strict,
                    allow_bad=allow_bad,
                    report=report,
                )
        except KeyboardInterrupt:
            click.echo(
                f"Interrupted: {counted(len(store), 'row')} committed, "
                f"{len(store) - rows_before:,} of them new; run the same command to resume.",
                err=True,
            )
            raise click.exceptions.Exit(130) from None
    if as_json:
        print_json(done)
    else:
        _print_report(done, metadata, allow_bad)
    if done.failed:
        raise click.exceptions.Exit(1)


def _print_report(done: IndexReport, metadata: str | None, allow_bad: str) -> None:
    """What a run did; a failure comes first."""
    from latentdb.base.wording import counted, printable
    from latentdb.cli.console import print_bad_files
    from latentdb.images.formats import passed_over_text

    files = done.added + done.updated + done.unchanged + len(done.bad)
    if done.failed:
        click.echo(
            f"Error: {len(done.bad):,} of {counted(files, 'file')} cannot be read, "
            f"more than --allow-bad {allow_bad}",
            err=True,
        )
        print_bad_files(done.bad)
    click.echo(
        f"{done.added:,} added, {done.updated:,} updated, {done.unchanged:,} unchanged "
        f"(skipped), {len(done.bad):,} bad; {counted(done.rows, 'row')}, {done.seconds:.1f} s"
    )
    if done.restamped:
        click.echo(
            f"{counted(done.restamped, 'unchanged file')} had been moved or touched: "
            "the new paths and times are stored"
        )
    if done.passed_over:
        click.echo(f"not images by their ending: {passed_over_text(done.passed_over)}")
    for note in done.notes:
        click.echo(f"note: {printable(note)}", err=True)
    _print_unmatched(done.unmatched, metadata or "")
    if done.vanished:
        some = ", ".join(done.vanished[:3]) + (", ..." if len(done.vanished) > 3 else "")
        images = counted(len(done.vanished), "transparent image")
        click.echo(
            f"note: {images} ({some}) {'is' if len(done.vanished) == 1 else 'are'} one colour over "
            "the background: --background of train and index chooses another for a new model",
            err=True,
        )
    if not done.failed:
        print_bad_files(done.bad)


def _print_unmatched(unmatched: Unmatched, metadata: str) -> None:
    """Rows of the metadata without an image, and images without a row, with examples."""
    from latentdb.base.wording import counted, printable

    for count, text, examples in (
        (
            unmatched.rows,
            f"{counted(unmatched.rows, 'row')} of {metadata} without an image in this run",
            unmatched.row_examples,
        ),
        (
            unmatched.images,
            f"{counted(unmatched.images, 'image')} without a row in {metadata}",
            unmatched.image_examples,
        ),
    ):
        if count:
            some = ", ".join(map(repr, examples)) + (", ..." if count > len(examples) else "")
            click.echo(f"{text}: {printable(some)}", err=True)
