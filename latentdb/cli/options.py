"""Options and arguments that several commands share, and the types of their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_STDOUT_OF = "latentdb.stdout"  # the option whose output goes there
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Height and width of an image: 64, or HEIGHTxWIDTH."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        sides = str(value).lower().split("x")
        if len(sides) > 2 or not all(side.isdigit() for side in sides):
            self.fail(f"{value!r} is not a size: give 64, or HEIGHTxWIDTH", param, ctx)
        return int(sides[0]), int(sides[-1])


class PicturePath(click.Path):  # type: ignore[type-arg,unused-ignore]
    """A picture to write; ``-`` is stdout, as PNG, and text goes to stderr then."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from latentdb.base.outputs import STDOUT, text_beside_stdout

        if value == STDOUT and ctx is not None:
            if ctx.meta.setdefault(_STDOUT_OF, param) is not param:
                self.fail("another output is -, too: give one of them a file", param, ctx)
            ctx.with_resource(text_beside_stdout())
        return super().convert(value, param, ctx)


class Memory(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A number of bytes: 4G or 4GB is 4 x 10^9, 4GiB is 4 x 2^30; 0 for no limit."""

    name = "memory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        from fractions import Fraction

        text = str(value).strip().lower()
        found = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([kmgt]?)(i?)b?", text)
        if found is None or (found[3] and not found[2]):
            self.fail(
                f"{value!r} is not a size: give bytes, such as 4G (10^9) or 4GiB (2^30)", param, ctx
            )
        return int(Fraction(found[1]) * (1024 if found[3] else 1000) ** _POWERS[found[2]])


class Weights(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Numbers with commas between them."""

    name = "weights"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[float]:
        if isinstance(value, list):
            return value
        try:
            return [float(part) for part in str(value).split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers: give W,W,...", param, ctx)


class Categories(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Texts with commas between them."""

    name = "categories"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        del param, ctx
        return value if isinstance(value, tuple) else tuple(str(value).split(","))


class Range(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Two numbers: LOW..HIGH."""

    name = "range"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        try:
            low, high = map(float, str(value).split(".."))
        except ValueError:
            self.fail(f"{value!r} is not a range: give LOW..HIGH, such as -3..3", param, ctx)
        return low, high


class Channels(click.Choice):  # type: ignore[type-arg,unused-ignore]
    """1 for grey, 3 for colour, as an int."""

    def __init__(self) -> None:
        super().__init__(["1", "3"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return int(super().convert(str(value), param, ctx))


db_argument = click.argument("db", type=click.Path())
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
seed_option = click.option("--seed", type=int, default=0, show_default=True, help="Of the samples.")
where_option = click.option("--where", metavar="EXPR", help="Only rows for which EXPR is true.")
force_option = click.option(
    "--force", "overwrite", is_flag=True, help="Replace files that exist; never an image of DB."
)
collection_option = click.option(
    "--collection",
    metavar="NAME",
    help="Table or collection of the engine.  [default: the name of DB]",
)
scale_option = click.option(
    "--scale",
    type=int,
    default=1,
    metavar="N",
    help="Enlarge each image of --out by this whole factor, without interpolation.",
)
strict_option = click.option("--strict", is_flag=True, help="Stop at the first unreadable file.")
trust_option = click.option(
    "--trust-model",
    is_flag=True,
    help="Run the code inside the model: only if you trust its author.",
)
condition_option = click.option(
    "--condition",
    metavar="VALUE",
    help="Of a conditional model: under which condition images and latents are encoded and "
    "decoded.  [default: that of each row]",
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    help="Of the latents on disk, for a new store.  [default: float32]",
)
method_option = click.option(
    "--method",
    type=click.Choice(["linear", "slerp", "norm"]),
    default="linear",
    show_default=True,
    help="linear: straight line.  slerp: great circle.  norm: straight line, with the norm "
    "interpolated too.",
)


# For commands that make a model or a store.
background_option = click.option(
    "--background",
    metavar="COLOUR",
    help="What shows through transparent pixels: white, black, checker or R,G,B.  [default: white]",
)


_MODEL_OPTIONS = (
    click.option(
        "--model",
        type=click.Path(),
        help="Model of a new store: a model folder, or a .keras or .h5 file with a whole VAE.",
    ),
    click.option(
        "--encoder", type=click.Path(), help="Instead of --model: a .keras, .h5 or .onnx encoder."
    ),
    click.option("--decoder", type=click.Path(), help="The decoder that belongs to --encoder."),
    click.option(
        "--builder",
        metavar="MODULE:FUNCTION",
        help="Instead of --model: your own function, which returns the encoder and the decoder as "
        "Keras models with their weights loaded.  It is run.",
    ),
    click.option(
        "--architecture",
        "architectures",
        type=click.Path(),
        multiple=True,
        metavar="JSON",
        help="model.to_json() of an --encoder, and again of a --decoder, of weights only.",
    ),
    click.option(
        "--z-mean",
        metavar="LAYER",
        help="Encoder's z_mean layer; LAYER[:8] is its first 8 numbers.  [default: by its name]",
    ),
    click.option(
        "--z-log-var", metavar="LAYER", help="Encoder's z_log_var layer.  [default: by its name]"
    ),
    click.option(
        "--image-size",
        type=Size(),
        help="Encoder's image size: 64, or HEIGHTxWIDTH.  [default: that of its input]",
    ),
    click.option(
        "--channels",
        type=Channels(),
        help="1: grey.  3: colour.  [default: as the encoder's input]",
    ),
    click.option(
        "--pixel-range",
        metavar="RANGE",
        help="Pixel values the encoder was trained on: 0..1, -1..1, 0..255 or MEAN/STD (one "
        "number, or one per channel); after a colon those of the decoder, if they differ.  "
        "[default: the range that reconstructs IMAGES best; 0..1 without a decoder]",
    ),
    click.option(
        "--decoder-activation",
        type=click.Choice(["sigmoid", "none"]),
        help="sigmoid: the decoder gives logits.  [default: what reconstructs IMAGES best]",
    ),
    click.option(
        "--resize",
        type=click.Choice(["stretch", "crop", "pad"]),
        help="How images of another shape are fitted.  [default: stretch]",
    ),
    background_option,
    click.option(
        "--categories",
        type=Categories(),
        metavar="A,B..",
        help="Classes of a conditional model in its order.  [default: 0,1,2..]",
    ),
    trust_option,
)


def model_options(command: Command) -> Command:
    """Add the options that say which model, and what its file does not say."""
    for option in reversed(_MODEL_OPTIONS):
        command = option(command)
    return command


def model_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the values of `model_options` into arguments: model, encoder, decoder, options.

    Raises
    ------
    click.UsageError
        If options do not go together; names them.
    """
    from latentdb.model.calibration import is_file
    from latentdb.model.config import ModelOptions
    from latentdb.model.live import made_by

    details = dict(values)
    model, encoder, decoder = (details.pop(name) for name in ("model", "encoder", "decoder"))
    builder = details.pop("builder")
    if sum(one is not None for one in (model, encoder or decoder, builder)) > 1:
        raise click.UsageError(
            "give one of --model, --encoder (with --decoder) and --builder, not two"
        )
    given = {"decoder": decoder, **details, "trust_model": None}
    given["architecture"] = given.pop("architectures") or None
    names = ["--" + name.replace("_", "-") for name, value in given.items() if value is not None]
    if names and encoder is None and builder is None and not is_file(model):
        raise click.UsageError(
            f"{', '.join(names)}: only with --encoder or --builder, or with a .keras or .h5 file "
            "as --model"
        )
    return {
        "model": model if builder is None else made_by(builder),
        "encoder": encoder,
        "decoder": decoder,
        "options": ModelOptions(**details),
    }
