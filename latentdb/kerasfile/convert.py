"""Models made elsewhere, taken in: what was found in them, built anew and saved clean.

What enters a store is never the stranger's file but what latentdb built of its
data: the encoder up to z_mean and z_log_var, and the decoder.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from latentdb.base.errors import ModelError, UntrustedModelError
from latentdb.kerasfile.builder import Builder, is_own, refusal
from latentdb.kerasfile.container import parse, read_file
from latentdb.kerasfile.graph import Architecture, Frame, Tensor, input_shape, is_keras, upstream
from latentdb.kerasfile.locate import ModelOutputs, decoder_of, find
from latentdb.kerasfile.runtime import load_keras, own_layers, run_and_load, save

Shape = tuple[int | None, ...]
_DIVISORS = (1 / 255, 1 / 256, 1 / 127.5, 1 / 128)  # of a Rescaling layer at the input


@dataclass(frozen=True, eq=False)
class ConvertedModel:
    """What was taken in.

    Attributes
    ----------
    encoder, decoder
        Clean .keras files; None for no decoder.
    image
        Height, width and channels of its images.
    latent_dim
        Dimensions of z_mean.
    has_z_log_var
        Whether the encoder's second output is z_log_var.
    divides
        Whether the encoder itself brings pixels of 0..255 into its range.
    notes
        What people should know of what was found, a sentence each.
    """

    encoder: bytes
    decoder: bytes | None
    image: tuple[int, int, int]
    latent_dim: int
    has_z_log_var: bool
    divides: bool
    notes: tuple[str, ...]


def convert(
    encoder: str | os.PathLike[str],
    decoder: str | os.PathLike[str] | None = None,
    *,
    z_mean: str | None = None,
    z_log_var: str | None = None,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    trust_model: bool = False,
) -> ConvertedModel:
    """Find the halves of a model in its files, and build them of listed layers.

    Parameters
    ----------
    encoder
        A .keras or .h5 file: an encoder, or a whole VAE.
    decoder
        The file of its decoder; by default the one in the first file, if any.
    z_mean, z_log_var
        Layers, where there is a doubt.
    image_size, channels
        Height and width, and 1 or 3, where the input does not say them.
    trust_model
        Run the code of the files where they cannot be used as data.

    Raises
    ------
    ModelError
        If no encoder is found, or something cannot be used.
    UntrustedModelError
        If it could be by running its code.
    """
    name = os.fspath(encoder)
    data = read_file(encoder, "a .keras or .h5 encoder")
    size = (image_size, channels)
    try:
        model = Architecture(parse(data, name))
        halves = find(model, z_mean=z_mean, z_log_var=z_log_var)
        taken = _plain(model, halves, size, with_decoder=decoder is None)
    except UntrustedModelError:
        if not trust_model:
            raise
        taken = _trusted(data, model, (z_mean, z_log_var), size, with_decoder=decoder is None)
    if decoder is None:
        return taken
    other, notes = _decoder_file(decoder, taken, trust_model=trust_model)
    return ConvertedModel(
        taken.encoder, other, taken.image, taken.latent_dim, taken.has_z_log_var, taken.divides,
        (*taken.notes, *notes),
    )  # fmt: skip


def _plain(
    model: Architecture,
    halves: ModelOutputs,
    size: tuple[tuple[int, int] | None, int | None],
    *,
    with_decoder: bool,
) -> ConvertedModel:
    """Both halves built of data."""
    keras, name = load_keras(), model.file.name
    notes = list(halves.notes)
    outputs = [halves.z_mean] + ([halves.z_log_var] if halves.z_log_var is not None else [])
    inputs, image = _image_inputs(outputs, size, name)
    builder = Builder(model.file, keras)
    built = builder.build(outputs, inputs, name="encoder")
    shape = built.shapes[0]
    if len(shape) != 1 or shape[0] is None:
        raise ModelError(
            f"{halves.z_mean.shown!r} of {name} gives {list(shape)} for an image: expected z_mean "
            "[d]; --z-mean LAYER names another layer"
        )
    if len(outputs) > 1 and built.shapes[1] != shape:
        notes.append(f"{outputs[1].shown!r} is left out: it has {list(built.shapes[1])} numbers")
        built = builder.build(outputs[:1], inputs, name="encoder")
    decoder = None
    if with_decoder and halves.decoder is not None and halves.latent is not None:
        try:
            decoder = _built_decoder(
                model, halves.decoder, halves.latent, int(shape[0]), math.prod(image)
            )
        except ModelError as error:
            notes.append(f"its decoder is left out: {error}")
    return ConvertedModel(
        save(built.model), decoder, image, int(shape[0]), len(built.shapes) > 1,
        _divides(outputs[0]), tuple(notes),
    )  # fmt: skip


def _image_inputs(
    outputs: Sequence[Tensor], size: tuple[tuple[int, int] | None, int | None], name: str
) -> tuple[dict[Tensor, Shape], tuple[int, int, int]]:
    """The input of an encoder with its shape, and the size of its images."""
    reached = [step.tensor for step in upstream(outputs) if step.action == "input"]
    if len(reached) != 1:
        told = ", ".join(tensor.shown for tensor in reached) or "none"
        raise ModelError(
            f"{name} is refused: z_mean depends on {len(reached)} inputs ({told}), "
            "expected one image"
        )
    shape = input_shape(reached[0].layer)
    image = image_shape(shape, size, name)
    if len(shape) == 3:
        shape = tuple(
            side if given is None else given for given, side in zip(shape, image, strict=True)
        )
    return {reached[0]: shape}, image


def image_shape(
    shape: Shape, size: tuple[tuple[int, int] | None, int | None], name: str
) -> tuple[int, int, int]:
    """Height, width and channels of an encoder's images from the shape of its input.

    Parameters
    ----------
    shape
        Without the batch axis: an image, or an image flattened.
    size
        Height and width, and channels, as far as they were given.
    name
        What an error calls the model.

    Raises
    ------
    ModelError
        If they do not follow.
    """
    image_size, channels = size
    if image_size is not None and channels is not None:
        return (*image_size, channels)
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) == 3:
        sides = (*(image_size or shape[:2]), channels or shape[2])
        if all(side is not None for side in sides):
            height, width, depth = (int(side or 0) for side in sides)
            return height, width, depth
    if len(shape) == 1 and shape[0] is not None:
        for depth in (channels,) if channels else (1, 3):
            if image_size is not None and math.prod(image_size) * depth == shape[0]:
                return (*image_size, depth)
            side = math.isqrt(shape[0] // depth)
            if image_size is None and side * side * depth == shape[0]:
                return side, side, depth
    raise ModelError(
        f"{name} takes input of shape {list(shape)}, from which no image size follows: "
        "give --image-size and --channels"
    )


def _divides(z_mean: Tensor) -> bool:
    """Whether the first that an encoder does is to divide pixels of 0..255."""
    for step in upstream([z_mean]):
        if step.action == "layer":
            layer = step.tensor.layer
            scale = layer.config.get("scale")
            if layer.kind == "Rescaling" and is_keras(layer):
                return isinstance(scale, float) and any(
                    math.isclose(scale, one, rel_tol=1e-3) for one in _DIVISORS
                )
            numbers = [*step.call.args, *step.call.kwargs.values()]
            divisors = [value for value in numbers if type(value) in (int, float)]
            return layer.kind in ("TrueDivide", "Divide", "TFOpLambda") and any(
                value in (255, 256, 127.5, 128) for value in divisors
            )
    return False


def _built_decoder(
    model: Architecture, image: Tensor, latent: Tensor, dim: int, numbers: int
) -> bytes:
    builder = Builder(model.file, load_keras())
    built = builder.build([image], {latent: (dim,)}, cut=[latent], name="decoder")
    shape = built.shapes[0]
    if None in shape or math.prod(side or 0 for side in shape) != numbers:
        raise ModelError(f"the decoder gives {list(shape)}, expected images of {numbers} numbers")
    return save(built.model)


def _decoder_file(
    path: str | os.PathLike[str], taken: ConvertedModel, *, trust_model: bool
) -> tuple[bytes, tuple[str, ...]]:
    name = os.fspath(path)
    data = read_file(path, "a .keras or .h5 decoder")
    model = Architecture(parse(data, name))
    numbers = math.prod(taken.image)
    try:
        image, latent = decoder_of(model)
        if latent.layer.is_input:
            shape = input_shape(latent.layer)
            if shape != (taken.latent_dim,):
                raise ModelError(
                    f"the decoder does not take latents of shape [{taken.latent_dim}]: "
                    f"{name} takes {list(shape)}"
                )
        return _built_decoder(model, image, latent, taken.latent_dim, numbers), ()
    except UntrustedModelError:
        if not trust_model:
            raise
    loaded = _run(data, model)
    decoder = _part(loaded, image.frame)
    return save(decoder), (_ran(name),)


# --- with trust ----------------------------------------------------------------------


def _run(data: bytes, model: Architecture) -> Any:
    try:
        return run_and_load(data, legacy=model.file.legacy)
    except Exception as error:  # whatever the code raises
        told = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise ModelError(
            f"{model.file.name} cannot be loaded by keras: {told.strip()[:200]}; a class of its "
            "own must be registered first (keras.saving.register_keras_serializable)"
        ) from error


def _ran(name: str) -> str:
    return f"the code in {name} was run, and is in the model that was made of it"


def _part(loaded: Any, frame: Frame) -> Any:
    """The model of a frame inside a loaded one."""
    for name in frame.path[1:]:
        own = getattr(loaded, name, None) if not hasattr(loaded, "layers") else None
        loaded = own if own is not None else _inside(loaded, name)
    return loaded


def _inside(loaded: Any, name: str) -> Any:
    names = [layer.name for layer in loaded.layers]
    return loaded.get_layer(name) if name in names else getattr(loaded, name)


def _trusted(
    data: bytes,
    model: Architecture,
    wanted: tuple[str | None, str | None],
    size: tuple[tuple[int, int] | None, int | None],
    *,
    with_decoder: bool,
) -> ConvertedModel:
    """Both halves cut out of the model that the file's code makes."""
    keras = load_keras()
    loaded = _run(data, model)
    if model.frames:
        halves = find(model, z_mean=wanted[0], z_log_var=wanted[1], trust_model=True)
        encoder = _part(loaded, halves.z_mean.frame)
        tensors = [halves.z_mean] + ([halves.z_log_var] if halves.z_log_var else [])
        outputs = [encoder.get_layer(tensor.ref.layer).output for tensor in tensors]
        notes = halves.notes
    else:
        halves, notes = None, ()
        encoder = getattr(loaded, "encoder", loaded)
        outputs = [encoder.get_layer(name).output for name in wanted if name]
        outputs = outputs or list(encoder.outputs)[:2]
    shape = tuple(outputs[0].shape[1:])
    if len(shape) != 1:
        raise ModelError(f"z_mean of {model.file.name} has shape {list(shape)}: expected [d]")
    outputs = outputs[:1] + [out for out in outputs[1:2] if tuple(out.shape[1:]) == shape]
    image = image_shape(tuple(encoder.inputs[0].shape[1:]), size, model.file.name)
    half = keras.Model(encoder.inputs, outputs, name="encoder")
    decoder = None
    if with_decoder and halves is None:
        decoder = getattr(loaded, "decoder", None)
    elif with_decoder and halves is not None and halves.decoder is not None:
        decoder = _part(loaded, halves.decoder.frame)
        if decoder is encoder or decoder is loaded:
            decoder = None
    return ConvertedModel(
        save(half), None if decoder is None else save(decoder), image, int(shape[0]),
        len(outputs) > 1, False, (*notes, _ran(model.file.name)),
    )  # fmt: skip


# --- what latentdb saved ---------------------------------------------------------------


def load_model(data: bytes, name: str, *, trust_model: bool = False) -> Any:
    """Build the model of a file that latentdb saved, as data.

    Parameters
    ----------
    data
        A .keras file.
    name
        What an error calls it.
    trust_model
        Run its code where it cannot be built as data.

    Returns
    -------
    keras.Model
        With all outputs that can be built; the first can.

    Raises
    ------
    ModelError
        If it cannot be used.
    """
    model = Architecture(parse(data, name))
    if model.top is None:
        if trust_model:
            return _run(data, model)
        raise UntrustedModelError(f"{name} is the class {model.kind!r}, which is code in the file")
    keras, own = load_keras(), own_layers()
    outputs: list[Tensor] = []
    for ref in model.top.graph.outputs:
        tensor = Tensor(model.top, ref)
        layers = [step.tensor.layer for step in upstream([tensor]) if step.action == "layer"]
        if outputs and any(refusal(one) is not None and not is_own(one, own) for one in layers):
            break
        outputs.append(tensor)
    inputs = {
        step.tensor: input_shape(step.tensor.layer)
        for step in upstream(outputs)
        if step.action == "input"
    }
    try:
        built = Builder(model.file, keras, own).build(
            outputs, inputs, name=re.sub(r"[^\w.-]+", "_", model.top.graph.name)
        )
    except UntrustedModelError:
        if not trust_model:
            raise
        return _run(data, model)
    return built.model
