"""What the command line takes as text, as values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from latentdb.cli.shell import TRUST_HELP

Command = TypeVar("Command", bound=Callable[..., Any])


class Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """64, or HEIGHTxWIDTH."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) > 2 or not all(part.isdigit() for part in parts):
            self.fail(f"{value!r} is no size: give 64, or HEIGHTxWIDTH", param, ctx)
        return int(parts[0]), int(parts[-1])


def as_floats(text: str | None) -> list[float] | None:
    """W,W,... as numbers; None for None."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no list of numbers: give W,W,...") from error


_FOREIGN = (
    click.option(
        "--model",
        type=click.Path(),
        help="To make the store with: a model folder, or a .keras or .h5 file with a whole VAE.",
    ),
    click.option("--encoder", type=click.Path(), help="A .keras or .h5 encoder, instead."),
    click.option("--decoder", type=click.Path(), help="The decoder of that encoder."),
    click.option("--z-mean", metavar="LAYER", help="Of that encoder.  [default: by its name]"),
    click.option("--z-log-var", metavar="LAYER", help="Of that encoder.  [default: by its name]"),
    click.option("--image-size", type=Size(), help="Of that encoder.  [default: its input's]"),
    click.option("--channels", type=click.Choice(["1", "3"]), help="[default: its input's]"),
    click.option(
        "--pixel-range",
        metavar="RANGE",
        help="What that encoder was trained on: 0..1, -1..1, 0..255, or MEAN/STD (one number or "
        "one a channel), and the decoder's after a colon if it differs.  [default: found out by "
        "reconstructing images; without a decoder 0..1]",
    ),
    click.option(
        "--resize",
        type=click.Choice(["stretch", "crop", "pad"]),
        help="How images are made to fit that encoder.  [default: stretch]",
    ),
    click.option("--trust-model", is_flag=True, help=TRUST_HELP),
)


def foreign_model(command: Command) -> Command:
    """Add the options that name a model, and what a file of it does not say."""
    for option in reversed(_FOREIGN):
        command = option(command)
    return command


def check_model_options(given: Mapping[str, Any]) -> None:
    """Refuse options that do not go with each other.

    Raises
    ------
    click.UsageError
        Names them.
    """
    from latentdb.model.calibration import is_file

    model, encoder = given["model"], given["encoder"]
    if model is not None and (encoder is not None or given["decoder"] is not None):
        raise click.UsageError("give --model, or --encoder and --decoder, not both")
    told = [
        "--" + name.replace("_", "-")
        for name, value in given.items()
        if value is not None and name not in ("model", "encoder", "trust_model")
    ]
    if told and encoder is None and not is_file(model):
        raise click.UsageError(f"{', '.join(told)}: goes with --encoder, or a file as --model")
