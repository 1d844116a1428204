"""Keras models in memory, such as those that a function of their owner returns.

They are code, run because their owner named it.  What enters a store is not: a file that
is rebuilt as data (`as_files`), or an ONNX graph (`as_onnx`).
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError, LayerError, ModelError
from latentdb.base.wording import clipped, quoted
from latentdb.kerasfile.container import Content
from latentdb.kerasfile.runtime import load_keras, quiet_stderr, save
from latentdb.onnx.adopt import LatentOutputs, check_extra, choose_outputs
from latentdb.onnx.export import to_onnx

_KERAS = ("keras", "tf_keras")
_RETURN = "return (encoder, decoder), two Keras models with their weights loaded"
_TOLERANCE = 1e-4  # tensorflow's and ONNX Runtime's sums differ by some 1e-6
_UNKNOWN_SIDE = 32  # of the images that an encoder of any size is tried on

Floats = NDArray[np.float32]
Shape = tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class LiveModel:
    """An encoder and a decoder, or a whole VAE.

    Attributes
    ----------
    name
        Where it comes from, for messages.
    encoder
        A Keras model: an encoder, or a whole VAE.
    decoder
        Its decoder; None for none, or where it is in the whole VAE.
    """

    name: str
    encoder: Any
    decoder: Any | None


def is_live(model: object) -> bool:
    """Whether a model was given as Keras models, or as a function that makes them."""
    if isinstance(model, tuple | list):
        return any(_is_keras(part) for part in model)
    return callable(model) or _is_keras(model) or hasattr(model, "encoder")


def live_model(model: object) -> LiveModel:
    """The Keras models that were given, or that a function makes.

    Parameters
    ----------
    model
        ``(encoder, decoder)``, a whole VAE, an object with the attributes ``encoder`` and
        ``decoder``, or a function without arguments that returns one of these.

    Raises
    ------
    ModelError
        If the function raises, or there are no such models.
    """
    if _is_keras(model) or not callable(model):
        return _checked(model, "the model given")
    name = getattr(model, "__qualname__", type(model).__name__)
    return _made(model, f"{getattr(model, '__module__', '')}:{name}".lstrip(":"))


def made_by(builder: str) -> LiveModel:
    """The models that a function of the owner's makes: ``module:function`` runs it.

    Modules are looked for in the working directory, too.

    Raises
    ------
    InvalidInputError
        If it is no such name, or there is no such module or function.
    ModelError
        If it raises, or returns something else.
    """
    module, mark, function = builder.partition(":")
    names = (*module.split("."), function)
    if not mark or module.endswith(".py") or not all(name.isidentifier() for name in names):
        example = f"{os.path.basename(module).removesuffix('.py')}:{function or 'build'}"
        raise InvalidInputError(
            f"{quoted(builder)} is no builder: give module:function, such as {clipped(example)}"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        if importlib.util.find_spec(module) is not None:
            with quiet_stderr():  # of tensorflow, not of the owner's code
                load_keras().ops.zeros(1)
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if module != missing and not module.startswith(f"{missing}."):
            raise ModelError(f"builder {builder}: {_raised(error, 'importing it')}") from error
        raise InvalidInputError(
            f"builder {builder}: there is no module {missing} in {os.getcwd()} or on Python's path"
        ) from error
    except (Exception, SystemExit) as error:
        raise ModelError(f"builder {builder}: {_raised(error, 'importing it')}") from error
    make = getattr(found, function, None)
    if not callable(make):
        own = [
            name
            for name, value in vars(found).items()
            if isinstance(value, FunctionType) and value.__module__ == module
        ]
        listed = ", ".join(map(clipped, own[:8])) or "none"
        raise InvalidInputError(
            f"builder {builder}: {module} has no function {function}; its functions: {listed}"
        )
    return _made(make, builder)


def _made(make: Callable[[], object], name: str) -> LiveModel:
    try:
        model = make()
    except (Exception, SystemExit) as error:
        raise ModelError(f"builder {name}: {_raised(error, 'it')}") from error
    return _checked(model, f"builder {name}")


def _raised(error: BaseException, what: str) -> str:
    """What the owner's code raised, and where in it, in one line."""
    text = " ".join(str(error).split())[:300]
    place, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<") and os.path.dirname(__file__) != os.path.dirname(file):
            place = f" ({os.path.basename(file)}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return f"{what} raised {type(error).__name__}: {text}{place}"


def _checked(model: object, name: str) -> LiveModel:
    """The parts of what a builder returned."""
    encoder: Any = model
    decoder: Any = None
    if isinstance(model, tuple | list) and len(model) == 2:
        encoder, decoder = model
    elif _is_keras(getattr(model, "encoder", None)):
        encoder, decoder = getattr(model, "encoder"), getattr(model, "decoder", None)  # noqa: B009
    if not _is_keras(encoder) or not (decoder is None or _is_keras(decoder)):
        shown = ", ".join(_kind(part) for part in model) if isinstance(model, tuple) else ""
        advice = _RETURN
        if any(_is_of(part, ("torch",)) for part in (model, encoder, decoder)):
            advice = "export a model of PyTorch as .onnx (latentdb/onnx/README.md shows how)"
        raise ModelError(f"{name} gives {f'({shown})' if shown else _kind(model)}: {advice}")
    for part, label in ((encoder, "encoder"), (decoder, "decoder")):
        if part is not None and not part.built:
            raise ModelError(
                f"{name}: its {label} has no weights yet: load them "
                "(model.load_weights), or call it once, before it is returned"
            )
    return LiveModel(name, encoder, decoder)


def _kind(value: object) -> str:
    return "None" if value is None else clipped(type(value).__name__)


def _is_of(value: object, packages: Sequence[str]) -> bool:
    return any(base.__module__.split(".")[0] in packages for base in type(value).__mro__)


def _is_keras(value: object) -> bool:
    """Whether it is a model of Keras; imports nothing."""
    return any(
        base.__name__ == "Model" and base.__module__.split(".")[0] in _KERAS
        for base in type(value).__mro__
    )


# --- as data -----------------------------------------------------------------------------


def as_files(model: LiveModel) -> tuple[Content, Content | None]:
    """The .keras files of encoder and decoder.

    Raises
    ------
    LayerError
        If keras cannot save them.
    """

    def saved(part: Any, label: str) -> Content:
        try:
            with warnings.catch_warnings(), quiet_stderr():
                warnings.simplefilter("ignore")
                return Content(f"{model.name}: its {label}", save(part))
        except Exception as error:  # whatever the owner's classes raise
            raise LayerError(f"{model.name}: {_raised(error, f'saving its {label}')}") from error

    decoder = model.decoder
    encoder = saved(model.encoder, "encoder")
    return encoder, None if decoder is None else saved(decoder, "decoder")


# --- as ONNX -----------------------------------------------------------------------------


def as_onnx(
    model: LiveModel,
    *,
    z_mean: str | None = None,
    z_log_var: str | None = None,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> tuple[Content, Content | None]:
    """The .onnx files of encoder and decoder: their computation, without their classes.

    Parameters
    ----------
    model
        An encoder, and its decoder if there is one.
    z_mean, z_log_var
        Names of the encoder's outputs: keys of its dict, or the layers of a functional model.
    image_size, channels
        Of the encoder's input where it takes any size.

    Raises
    ------
    MissingExtraError
        Without the extra ``fast``.
    ModelError
        If z_mean differs from run to run, or ONNX has no counterpart of an operation.
    """
    check_extra()
    name = f"{model.name}: its encoder"
    shape = _image_shape(_input_shape(model.encoder, name), image_size, channels)
    trial = np.random.default_rng(0).random(
        (2, *(_UNKNOWN_SIDE if side is None else side for side in shape)), np.float32
    )
    found = _outputs(model.encoder, trial, name)
    chosen = choose_outputs(list(found), name, z_mean, z_log_var)
    again = _outputs(model.encoder, trial, name)
    if not np.array_equal(found[chosen.z_mean], again[chosen.z_mean]):
        raise ModelError(
            f"{name}: the output {quoted(chosen.z_mean)} differs from run to run: it is a sampled "
            "z, return an encoder that gives z_mean and z_log_var"
        )
    encoder = Content(name, _export_encoder(model.encoder, shape, chosen, name))
    if model.decoder is None:
        return encoder, None
    name = f"{model.name}: its decoder"
    own = found[chosen.z_mean].shape[1:]
    stated = _input_shape(model.decoder, name, default=own)
    latent = tuple(
        side if side is not None else size for side, size in zip(stated, own, strict=False)
    )
    decoder = model.decoder

    def decode(values: Any) -> list[Any]:
        return list(_named(decoder(values, training=False), decoder).values())[:1]

    return encoder, Content(name, _exported(decode, latent, ("image",), name))


def _export_encoder(encoder: Any, shape: Shape, chosen: LatentOutputs, name: str) -> bytes:
    """z_mean and z_log_var alone, under names that `adopt` knows."""
    wanted = [chosen.z_mean] + ([chosen.second] if chosen.second else [])
    names = ("z_mean", "sigma" if chosen.is_sigma else "z_log_var")[: len(wanted)]

    def encode(values: Any) -> list[Any]:
        outputs = _named(encoder(values, training=False), encoder)
        return [outputs[one] for one in wanted]

    return _exported(encode, shape, names, name)


def _exported(run: Callable[[Any], Any], shape: Shape, names: Sequence[str], name: str) -> bytes:
    try:
        with quiet_stderr():
            return to_onnx(run, shape, None, names)
    except ModelError as error:
        raise ModelError(f"{name} cannot be stored: {error}") from error


def _input_shape(model: Any, name: str, default: Shape | None = None) -> Shape:
    """Shape of a model's one input, without the batch axis."""
    inputs = getattr(model, "inputs", None)
    if inputs:
        shapes = [tuple(one.shape) for one in inputs]
    else:  # a subclass, which knows the shape that it was built with
        config = model.get_build_config() or {}
        shape = config.get("input_shape") or list(config.get("shapes_dict", {}).values())
        single = bool(shape) and not isinstance(shape[0], list | tuple)
        shapes = [tuple(shape)] if single else [tuple(one) for one in shape or ()]
    if not shapes and default is not None:
        return default
    if len(shapes) != 1:
        raise ModelError(f"{name} has {len(shapes) or 'no known'} inputs: expected one")
    return shapes[0][1:]


def _image_shape(shape: Shape, size: tuple[int, int] | None, channels: int | None) -> Shape:
    """The shape with what was given in place of what is open."""
    given = (*(size or (None, None)), channels)
    if len(shape) != len(given):
        return shape
    return tuple(one if side is None else side for side, one in zip(shape, given, strict=True))


def _outputs(model: Any, values: Floats, name: str) -> dict[str, Floats]:
    """The outputs of a model by name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a list of one input may be given as the input
            outputs = _named(model(values, training=False), model)
        return {key: np.asarray(value, np.float32) for key, value in outputs.items()}
    except Exception as error:  # whatever the owner's layers raise
        shape = list(values.shape[1:])
        raise ModelError(f"{name}: {_raised(error, f'calling it with {shape}')}") from error


def _named(outputs: Any, model: Any) -> dict[str, Any]:
    if isinstance(outputs, Mapping):
        return {str(key): value for key, value in outputs.items()}
    if hasattr(outputs, "_asdict"):
        return dict(outputs._asdict())
    if not isinstance(outputs, list | tuple):
        outputs = [outputs]
    names = list(getattr(model, "output_names", None) or ())
    if len(set(names)) != len(outputs):
        names = [f"output_{number}" for number in range(len(outputs))]
    return dict(zip(names, outputs, strict=True))


# --- compared ----------------------------------------------------------------------------


def agrees(
    model: LiveModel,
    encode: Callable[[Floats], list[Floats]],
    decode: Callable[[Floats], Floats] | None,
    image: tuple[int, int, int],
) -> bool:
    """Whether networks made of a model compute what it computes itself, to float32.

    A z_mean that is no output of the encoder, and a VAE without parts, cannot be compared.

    Parameters
    ----------
    model
        The model.
    encode, decode
        Images ``[n, h, w, c]`` to z_mean ``[n, d]`` (and more), and that to images.
    image
        Shape of an image.
    """
    if len(getattr(model.encoder, "inputs", None) or [None]) > 1:
        return True  # a condition beside the image
    values = np.random.default_rng(1).random((4, *image), np.float32)
    given = tuple(
        size if side is None else side
        for side, size in zip(_input_shape(model.encoder, model.name), image, strict=False)
    )
    runs = [
        _outputs(model.encoder, values.reshape(len(values), *given), model.name) for _ in range(2)
    ]
    z_mean = encode(values)[0]
    stable = [
        output
        for key, output in runs[0].items()
        if output.size == z_mean.size and np.array_equal(output, runs[1][key])
    ]
    if stable and not any(_close(output, z_mean) for output in stable):
        return False
    if model.decoder is None or decode is None:
        return True
    shape = _input_shape(model.decoder, model.name, default=z_mean.shape[1:])
    own = stable[0].shape[1:] if stable else (z_mean.shape[1],)
    sides = [size if side is None else side for side, size in zip(shape, own, strict=False)]
    latents = z_mean.reshape(len(z_mean), *sides)
    images = next(iter(_outputs(model.decoder, latents, model.name).values()))
    return _close(images, decode(z_mean))


def _close(expected: Floats, found: Floats) -> bool:
    if expected.size != found.size:
        return False
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    return bool(np.abs(expected.ravel() - found.ravel()).max(initial=0) <= _TOLERANCE * scale)
