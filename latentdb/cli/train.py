"""Commands on models: train one, and print what one is."""

from __future__ import annotations

from typing import Any

import click

from latentdb.cli.options import (
    Channels,
    Size,
    background_option,
    json_option,
    quiet_option,
    strict_option,
)

_STOPPED = {  # reasons to end a training, as options
    "epochs": "stopped by --epochs",
    "minutes": "stopped by --minutes",
    "converged": "stopped by --patience",
}


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="The model folder to make.")
@click.option(
    "--from",
    "start",
    metavar="MODEL",
    type=click.Path(),
    help="Go on from this model folder, with its settings, on IMAGES: those it was trained on, or "
    "others.  The new model is never worse on held-out ones.",
)
@click.option(
    "--arch",
    type=click.Choice(["conv", "mlp"]),
    help="conv: principal components and convolutional layers.  mlp: two dense layers.  "
    "[default: conv]",
)
@click.option(
    "--preset",
    type=click.Choice(["balanced", "reconstruction", "retrieval", "fast"]),
    help="What conv aims at; fast takes seconds.  [default: balanced]",
)
@click.option(
    "--image-size",
    type=Size(),
    help="Size to train at: 64, or HEIGHTxWIDTH.  [default: the size of IMAGES]",
)
@click.option("--channels", type=Channels(), help="1: grey.  3: colour.  [default: as in IMAGES]")
@click.option(
    "--resize",
    type=click.Choice(["stretch", "crop", "pad"]),
    help="How images of another shape are fitted.  [default: stretch]",
)
@background_option
@click.option("--latent-dim", type=int, help="Dimensions of the latents.  [default: 64]")
@click.option("--beta", type=float, help="Weight of the KL loss.  [default: 0.005; 0.3 for mlp]")
@click.option(
    "--epochs", type=int, help="Most epochs.  [default: 200; no limit with --minutes; 100 for mlp]"
)
@click.option(
    "--minutes", type=float, help="Most minutes.  [default: 10; no limit with --epochs or for mlp]"
)
@click.option(
    "--patience",
    type=int,
    default=10,
    show_default=True,
    help="Stop after this many epochs without progress on held-out images.",
)
@click.option(
    "--validation",
    type=float,
    default=0.1,
    show_default=True,
    help="Share of the images held out for validation.",
)
@click.option(
    "--batch",
    type=int,
    help="Images per step.  [default: 64; for mlp 128, or 32 below 10,000 images]",
)
@click.option("--seed", type=int, help="Seed of all random numbers.  [default: 0]")
@strict_option
@json_option
@quiet_option
def train(images: tuple[str, ...], as_json: bool, quiet: bool, **settings: Any) -> None:
    """Train a VAE on images and write a model folder.

    IMAGES are folders, files and archives, as `index` takes.  Ctrl-C ends the training early and
    keeps the best weights so far.
    """
    from latentdb.base.wording import counted
    from latentdb.cli.console import print_bad_files, print_json, print_model_warnings, progress
    from latentdb.model.training import train_model

    with progress(quiet, lines=True) as report:
        done = train_model(images, deterministic=True, report=report, **settings)
    for note in done.notes:
        click.echo(f"note: {note}", err=True)
    print_model_warnings(done.config)
    if as_json:
        print_json(done)
        return
    spec = done.config.preprocessing
    click.echo(
        f"trained on {done.images:,} of {counted(done.found, 'image')} at "
        f"{spec.height}x{spec.width}x{spec.channels}, {done.validation_images:,} held out"
    )
    stopped = _STOPPED.get(done.stopped, done.stopped)
    if done.stopped == "closed form":
        how = f"principal components in {done.seconds:.0f} s"
    else:
        how = (
            f"{counted(done.epochs, 'epoch')} in {done.seconds:.0f} s ({stopped}), "
            f"best epoch {done.best_epoch}"
        )
    click.echo(how)
    click.echo(done.verdict.line)
    click.echo(f"{done.path}: encoder, decoder, history.csv, pictures.png")
    print_bad_files(done.bad)


@click.command()
@click.argument("model", type=click.Path())
@click.option("--plot", type=click.Path(), metavar="PNG", help="Draw the layers into PNG.")
@click.option("--force", "overwrite", is_flag=True, help="Replace PNG if it exists.")
@json_option
def model(model: str, plot: str | None, overwrite: bool, as_json: bool) -> None:
    """Print the layers of a model.  MODEL is a model folder, or a .keras or .h5 file."""
    from latentdb.cli.console import print_json, print_notes
    from latentdb.stored_model import load_model

    codec = load_model(model)
    print_notes(codec)
    if plot is not None:
        codec.plot(plot, overwrite=overwrite)
    if as_json:
        print_json({**vars(codec.config), "plot": plot})
    else:
        click.echo(codec.summaries())
