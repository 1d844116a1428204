"""The command that encodes images into a store, and makes the store the first time."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from typing import TYPE_CHECKING, Any

import click

from latentdb.cli.options import (
    db_argument,
    dtype_option,
    json_option,
    model_arguments,
    model_options,
    quiet_option,
    strict_option,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from latentdb.database import LatentDB
    from latentdb.model.codec import Codec


@click.command()
@db_argument
@click.argument("images", nargs=-1, required=True, type=click.Path())
@model_options
@click.option(
    "--condition",
    metavar="KEY[=VALUE]",
    help="Of a conditional VAE: the metadata that is its condition; =VALUE gives it to all "
    "IMAGES of this run.",
)
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
@click.option(
    "--include", multiple=True, metavar="GLOB", help="Only files like this: '*.png', 'cat/*'."
)
@click.option(
    "--exclude", multiple=True, metavar="GLOB", help="No files or folders like this; repeatable."
)
@click.option("--follow-links", is_flag=True, help="Follow links that lead out of the folder, too.")
@click.option(
    "--prune", is_flag=True, help="Delete rows whose files were in the folders and are gone."
)
@click.option("--restore", is_flag=True, help="Take images in that were deleted from DB.")
@click.option(
    "--with-errors",
    is_flag=True,
    help="Store the reconstruction error and the texture of each image, as the columns "
    "reconstruction_error and texture.",
)
@click.option("--recall", type=float, help="Target recall of a new store.  [default: 0.99]")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bf16"]),
    help="Precision of the encoder, for a new store.  [default: float32]",
)
@dtype_option
@strict_option
@click.option(
    "--ray",
    is_flag=False,
    flag_value="",
    metavar="[ADDRESS]",
    help="Encode on a Ray cluster: HOST:PORT, or auto; alone, on one that is started for this "
    "run. Give it after IMAGES.",
)
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
    with_errors: bool,
    recall: float | None,
    precision: str | None,
    condition: str | None,
    dtype: str | None,
    as_json: bool,
    quiet: bool,
    **values: Any,
) -> None:
    """Encode new and changed images into DB.

    IMAGES are folders and files; also .tar, .zip, .npz, .npy, .parquet or IDX files
    that hold images, and folders of these.  The first run makes DB and needs --model or
    --encoder.  Later runs skip the images already in it; the same command
    resumes an interrupted run.
    """
    from latentdb.base.wording import counted
    from latentdb.cli.console import print_json, progress
    from latentdb.cli.index_report import print_report
    from latentdb.images.selection import make_selection
    from latentdb.images.sources import require_images
    from latentdb.ingest.allowance import parse_allowance
    from latentdb.model.calibration import is_file

    how = {name: values.pop(name) for name in _HOW}
    if metadata_column is not None and metadata is None:
        raise click.UsageError("--metadata-column: only with --metadata")
    selection = make_selection(how["include"], how["exclude"], follow_links=how["follow_links"])
    files, _ = require_images(images, selection)
    parse_allowance(how["allow_bad"])
    key, equals, value = (condition or "").partition("=")
    if condition is not None and not (key and (value or not equals)):
        raise click.UsageError(f"--condition {condition!r}: give KEY, or KEY=VALUE")
    is_imported = values["encoder"] or values["builder"] or is_file(values["model"])
    model = {**values, "condition": (key or None) if is_imported else None}
    codec, opened = _open(db, files, recall, precision, dtype, model)
    with opened as store:
        _check_condition(store, key)
        rows_before = len(store)
        try:
            # Ray prints what happens to its workers on stdout, where the document of --json goes.
            talk = nullcontext() if how["ray"] is None else redirect_stdout(sys.stderr)
            with talk, progress(quiet) as report:
                done = store.index_images(
                    images,
                    model=codec,
                    metadata=metadata,
                    metadata_column=metadata_column,
                    labels_from_folders=labels_from_folders,
                    condition=value or None,
                    report=report,
                    **how,
                )
                if with_errors:
                    store.measure_errors(report=report)
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
        print_report(done, metadata, how["allow_bad"])
    if done.failed:
        raise click.exceptions.Exit(1)


def _check_condition(store: LatentDB, key: str) -> None:
    """Refuse another key than that of the store's condition."""
    model = store.info().model
    own = "" if model is None or model.condition is None else model.condition.key
    if key not in ("", own):
        raise click.UsageError(
            f"--condition {key}: "
            + (f"that of this store is {own}" if own else "the model of this store has none")
        )


_HOW = (
    *("rehash", "include", "exclude", "follow_links", "prune", "restore"),
    *("strict", "allow_bad", "ray"),
)  # options that are passed on as they are


def _open(
    db: str,
    images: Sequence[str],
    recall: float | None,
    precision: str | None,
    dtype: str | None,
    values: Mapping[str, Any],
) -> tuple[Codec | None, AbstractContextManager[LatentDB]]:
    """The model that was given, and the store; one that is made now and gets no row is removed."""
    from latentdb.cli.console import print_notes, print_verdict
    from latentdb.database import LatentDB

    arguments = model_arguments(values)
    if LatentDB.exists(db):
        if recall is not None:
            raise click.UsageError(
                f"--recall is for a new store: run latentdb optimize {db} --recall {recall:g}"
            )
        store = LatentDB.open(db, trust_model=values["trust_model"])
        codec = store.read_model(**arguments)
        if codec is None or len(store) or store.has_model(codec):
            store.check_precision(precision)
            store.check_dtype(dtype)
            return codec, store
        store.close()
        LatentDB.remove_empty(db)
        click.echo(f"note: {db} had no rows and another model: it is made anew", err=True)
    elif arguments["model"] is None and arguments["encoder"] is None:
        raise click.UsageError(
            f"{db} does not exist: to make it give --model MODEL (latentdb train makes one), "
            "--encoder and --decoder, or --builder"
        )
    existed = os.path.exists(db)
    store = LatentDB.create(
        db,
        **arguments,
        images=images or None,
        recall=0.99 if recall is None else recall,
        precision=precision or "float32",
        dtype=dtype or "float32",
    )
    print_notes(store.codec)
    print_verdict(store.codec.config)
    return None, store.kept_if_filled(existed=existed)
