"""Convert a Keras model file to an encoder and a decoder that hold no code.

The file itself never enters a store: the encoder up to z_mean and z_log_var,
and the decoder, are built from its data and saved.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latentdb.base.condition import CONDITION_HINT, INDEX, NUMBER, ONE_HOT, ConditionInput
from latentdb.base.errors import ModelError, UntrustedModelError
from latentdb.base.wording import clipped, quoted
from latentdb.kerasfile.builder import Builder, Built, check
from latentdb.kerasfile.container import Content, ModelFile, parse, read_file
from latentdb.kerasfile.graph import Architecture, Submodel, Tensor, input_shape, is_keras, upstream
from latentdb.kerasfile.locate import (
    ModelOutputs,
    decoder_of,
    find,
    is_mean,
    split_inputs,
    training_notes,
)
from latentdb.kerasfile.operations import operation_of
from latentdb.kerasfile.runtime import latentdb_layers, load_keras, run_and_load, save
from latentdb.kerasfile.savedmodel import is_saved_model, read_saved_model

Shape = tuple[int | None, ...]
Source = str | os.PathLike[str] | Content
Size = tuple[tuple[int, int] | None, int | None]  # height and width, channels, if given
_MAX_LATENT = 1 << 20  # numbers of a latent
# Layers and operations that leave a class what it is.
_MOVES = frozenset(("Flatten", "Reshape", "get_item", "reshape", "squeeze", "expand_dims"))
_DIVISORS = (255, 256, 127.5, 128)  # bring pixels of 0..255 into 0..1 or 0..2


@dataclass(frozen=True, eq=False)
class ConvertedModel:
    """An encoder and a decoder as latentdb saves them.

    Attributes
    ----------
    encoder, decoder
        .keras files; None for no decoder.
    image
        Height, width and channels of an image.
    latent_dim
        Dimensions of z_mean.
    latent_shape
        Shape of z_mean where the model's own is no vector; it is flattened.
    encoder_condition, decoder_condition
        What the second input of each took.  As latentdb saves it, a network with a condition
        takes one vector: the image, flattened, or the latent, and the condition after it.
    has_z_log_var
        Whether the encoder's second output is z_log_var.
    divides
        Whether the encoder scales pixels of 0..255 itself.
    notes
        One sentence for each choice that a person may want to override.
    """

    encoder: bytes
    decoder: bytes | None
    image: tuple[int, int, int]
    latent_dim: int
    has_z_log_var: bool
    divides: bool
    notes: tuple[str, ...]
    latent_shape: tuple[int, ...] = ()
    encoder_condition: ConditionInput | None = None
    decoder_condition: ConditionInput | None = None


def convert(
    encoder: Source,
    decoder: Source | None = None,
    *,
    z_mean: str | None = None,
    z_log_var: str | None = None,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    trust_model: bool = False,
    architectures: Sequence[str | os.PathLike[str]] = (),
    conditional: bool = False,
) -> ConvertedModel:
    """Find the encoder and the decoder in model files, and build them from allow-listed layers.

    Parameters
    ----------
    encoder
        A .keras or .h5 file, on disk or in memory, or a SavedModel folder: an encoder, or a
        whole VAE.
    decoder
        The file of its decoder; by default the one in the first file, if any.
    z_mean, z_log_var
        Names of their layers; found if not given.
    image_size, channels
        Height and width, and 1 or 3; from the model's input if not given.
    trust_model
        Run the code in the files if they cannot be used as data.
    architectures
        Of an encoder and of a decoder that are files of weights: .json files.
    conditional
        Whether encoder and decoder may have a second input, the condition.

    Raises
    ------
    ModelError
        If there is no encoder, or a file cannot be used.
    UntrustedModelError
        If it can be used only with `trust_model`.
    """
    size = (image_size, channels)
    listed = [read_file(path, "the architecture of a model, .json") for path in architectures]
    if len(listed) > 1 + (decoder is not None):
        raise ModelError(f"{len(listed)} architectures were given: expected one for each file")
    shapes = (*listed, None, None)
    try:
        file, data = _open(encoder, "a .keras or .h5 encoder", shapes[0])
        model = Architecture(file)
        outputs = find(model, z_mean=z_mean, z_log_var=z_log_var, conditional=conditional)
        converted = _convert_as_data(
            model, outputs, size, with_decoder=decoder is None, conditional=conditional
        )
    except UntrustedModelError:
        if not trust_model or conditional:
            raise
        layers = (z_mean, z_log_var)
        converted = _convert_by_running(data, model, layers, size, with_decoder=decoder is None)
    if decoder is None:
        return converted
    label = outputs.z_mean.label if model.submodels else "its layer"
    saved, taken, notes = _convert_decoder(
        decoder, converted, label, shapes[1], trust_model=trust_model, conditional=conditional
    )
    return replace(
        converted, decoder=saved, decoder_condition=taken, notes=(*converted.notes, *notes)
    )


def _open(source: Source, expected: str, architecture: bytes | None) -> tuple[ModelFile, bytes]:
    """A model file, and its bytes; none of a SavedModel folder."""
    if isinstance(source, Content):
        return parse(source.data, source.name, architecture), source.data
    if is_saved_model(source):
        return read_saved_model(Path(source)), b""
    data = read_file(source, expected)
    return parse(data, os.fspath(source), architecture), data


def _convert_as_data(
    model: Architecture,
    found: ModelOutputs,
    size: Size,
    *,
    with_decoder: bool,
    conditional: bool,
) -> ConvertedModel:
    """Build encoder and decoder without running code."""
    keras, name = load_keras(), model.file.name
    notes = list(found.notes)
    outputs = [found.z_mean] + ([found.z_log_var] if found.z_log_var is not None else [])
    inputs, image = _image_inputs(outputs, size, name, conditional=conditional)
    taken = _condition_input(tuple(inputs)[1:], outputs, notes)
    flat = taken is not None
    builder = Builder(model.file, keras)
    built = _take_parts(builder.build(outputs, inputs, name="encoder", flat_inputs=flat), found)
    shape = tuple(side or 0 for side in built.shapes[0])
    dim = math.prod(shape)
    if not 0 < dim <= _MAX_LATENT or (len(shape) > 1 and dim >= math.prod(image)):
        raise ModelError(
            f"{found.z_mean.quoted} of {name} gives {list(built.shapes[0])} for an image of "
            f"{list(image)}: expected z_mean, which is smaller; --z-mean LAYER names another layer"
        )
    if len(outputs) > 1 and built.shapes[1] != shape:
        notes.append(
            f"{outputs[1].quoted} is not used as z_log_var: its shape is "
            f"{list(built.shapes[1])}, that of z_mean is {list(shape)}"
        )
        built = _take_parts(
            builder.build(outputs[:1], inputs, name="encoder", flat_inputs=flat), found
        )
    notes += _notes_on_pairs(found, dim, has_log_var=len(built.shapes) > 1)
    if len(shape) > 1:
        built = _flattened(built)
        notes.append(f"latents of shape {list(shape)} are stored as {dim:,} numbers each")
    decoder = of_decoder = None
    if with_decoder and found.decoder is not None and found.latent is not None:
        _check_halves(found.latent, dim, name, found.z_mean.label)
        try:
            latent = (found.latent, *([found.condition] if found.condition is not None else []))
            decoder, of_decoder = _build_decoder(
                model, found.decoder, latent, shape, math.prod(image), notes
            )
        except ModelError as error:
            notes.append(f"the decoder is not used: {error}")
    return ConvertedModel(
        save(built.model), decoder, image, dim, len(built.shapes) > 1,
        _divides(outputs[0], next(iter(inputs))), tuple(notes), shape if len(shape) > 1 else (),
        taken, of_decoder,
    )  # fmt: skip


def _take_parts(built: Built, found: ModelOutputs) -> Built:
    """The model with those numbers of its outputs that were asked for."""
    if found.parts == (None, None):
        return built
    outputs = []
    for tensor, part in zip(built.model.outputs, found.parts, strict=False):
        if part is not None and not len(range(tensor.shape[-1] or 0)[part]):
            raise ModelError(
                f"{found.z_mean.quoted} gives {list(tensor.shape[1:])}, which has no numbers "
                f"[{part.start or ''}:{part.stop or ''}]"
            )
        outputs.append(tensor if part is None else tensor[..., part])
    return _with_outputs(built, outputs)


def _flattened(built: Built) -> Built:
    """The model with its outputs as vectors."""
    keras = load_keras()
    return _with_outputs(built, [keras.layers.Flatten()(out) for out in built.model.outputs])


def _with_outputs(built: Built, outputs: Sequence[Any]) -> Built:
    """The model with other outputs of the same inputs."""
    return Built(load_keras().Model(built.model.inputs, outputs, name=built.model.name))


def _halves(label: str, dim: int) -> str:
    """How z_mean and z_log_var are named where one layer gives both."""
    half = dim // 2
    return f"--z-mean '{clipped(label)}[:{half}]' --z-log-var '{clipped(label)}[{half}:]'"


def _notes_on_pairs(found: ModelOutputs, dim: int, *, has_log_var: bool) -> list[str]:
    """A note where z_mean may be z_mean and z_log_var in one, as in tensorflow's CVAE."""
    layer = found.z_mean.layer
    if has_log_var or dim % 2 or layer.kind != "Dense" or is_mean(layer.name):
        return []
    if found.parts[0] is not None or layer.config.get("activation") not in (None, "linear"):
        return []
    return [
        f"z_mean is all {dim} numbers of {found.z_mean.quoted}; if half of them are z_log_var, "
        f"give {_halves(found.z_mean.label, dim)}"
    ]


def _check_halves(latent: Tensor, dim: int, name: str, label: str) -> None:
    """Refuse an encoder of twice as many numbers as the decoder takes."""
    if (
        latent.layer.is_input
        and (2 * math.prod(side or 0 for side in input_shape(latent.layer))) == dim
    ):
        raise ModelError(
            f"{name} gives {dim} numbers, and its decoder takes {dim // 2}: they are z_mean and "
            f"z_log_var in one, give {_halves(label, dim)}"
        )


def _image_inputs(
    outputs: Sequence[Tensor], size: Size, name: str, *, conditional: bool
) -> tuple[dict[Tensor, Shape], tuple[int, int, int]]:
    """The encoder's inputs with their shapes, the image first, and the shape of an image."""
    inputs = [step.tensor for step in upstream(outputs) if step.action == "input"]
    if len(inputs) == 2 and conditional:
        inputs = list(split_inputs(inputs))
    elif len(inputs) != 1:
        labels = ", ".join(clipped(tensor.label) for tensor in inputs[:8]) or "none"
        hint = f"; {CONDITION_HINT}" if len(inputs) == 2 else ""
        raise ModelError(
            f"{name} is refused: z_mean depends on {len(inputs)} inputs ({labels}), expected one "
            f"image{hint}"
        )
    shape = input_shape(inputs[0].layer)
    image = image_shape(shape, size, name)
    if len(shape) == 3:
        shape = tuple(
            default if side is None else side for side, default in zip(shape, image, strict=True)
        )
    return {inputs[0]: shape, **{other: input_shape(other.layer) for other in inputs[1:]}}, image


def _condition_input(
    conditions: Sequence[Tensor], outputs: Sequence[Tensor], notes: list[str]
) -> ConditionInput | None:
    """What a second input takes, if there is one; notes which it is."""
    if not conditions:
        return None
    (condition,) = conditions
    shape = input_shape(condition.layer)
    if len(shape) > 1 or None in shape:
        raise ModelError(
            f"the input {condition.quoted} has shape {list(shape)}: expected a condition, which "
            "is [k], one-hot, or one number"
        )
    classes, same = None, {condition}
    for step in upstream(outputs):
        if not same.intersection(step.needs):
            continue
        layer = step.tensor.layer
        if step.action == "same" or layer.kind in _MOVES or operation_of(layer) in _MOVES:
            same.add(step.tensor)
        elif layer.kind == "Embedding" and is_keras(layer):
            classes = layer.config.get("input_dim")
    width = math.prod(side or 0 for side in shape)
    found = ConditionInput(NUMBER) if width == 1 else ConditionInput(ONE_HOT, width)
    if classes is not None:
        if type(classes) is not int or classes < 1 or width != 1:
            raise ModelError(f"the input {condition.quoted} of an embedding is not one class")
        found = ConditionInput(INDEX, classes)
    if (note := found.note(condition.quoted)) not in notes:
        notes.append(note)
    return found


def image_shape(shape: Shape, size: Size, name: str) -> tuple[int, int, int]:
    """Height, width and channels of an encoder's images from the shape of its input.

    Parameters
    ----------
    shape
        Without the batch axis: an image, or a flattened image.
    size
        Height and width, and channels, if given.
    name
        The model, for the error.

    Raises
    ------
    ModelError
        If the input's shape leaves them open.
    """
    image_size, channels = size
    if image_size is not None and channels is not None:
        return (*image_size, channels)
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3):
        raise ModelError(
            f"{name} takes images of {list(shape)}, which is channels first: save it with "
            'data_format="channels_last", or export it as .onnx'
        )
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
        f"{name} has an input of shape {list(shape)}, which does not determine the size of an "
        "image: give --image-size and --channels"
    )


def _divides(z_mean: Tensor, image: Tensor) -> bool:
    """Whether the first layer of an encoder scales pixels of 0..255."""
    same = {image}
    for first in upstream([z_mean]):
        if first.action == "layer" and same.intersection(first.needs):
            break
        if first.action == "same" and same.intersection(first.needs):
            same.add(first.tensor)
    else:
        return False
    layer = first.tensor.layer
    if layer.kind == "Rescaling" and is_keras(layer):
        scale = layer.config.get("scale")
        return isinstance(scale, float) and any(
            math.isclose(scale, 1 / divisor, rel_tol=1e-3) for divisor in _DIVISORS
        )
    arguments = [*first.call.args, *first.call.kwargs.values()]
    return layer.kind in ("TrueDivide", "Divide", "TFOpLambda") and any(
        type(value) in (int, float) and value in _DIVISORS for value in arguments
    )


def _build_decoder(
    model: Architecture,
    image: Tensor,
    inputs: Sequence[Tensor],
    latent_shape: Shape,
    numbers: int,
    notes: list[str],
) -> tuple[bytes, ConditionInput | None]:
    """The decoder with these inputs, the latent first, and what its condition takes."""
    latent, *conditions = inputs
    taken = _condition_input(conditions, [image], notes)
    builder = Builder(model.file, load_keras())
    shapes = {latent: latent_shape, **{other: input_shape(other.layer) for other in conditions}}
    built = builder.build([image], shapes, cut=[latent], name="decoder", flat_inputs=True)
    shape = built.shapes[0]
    if None in shape or math.prod(side or 0 for side in shape) != numbers:
        raise ModelError(f"the decoder gives {list(shape)}, expected images of {numbers} numbers")
    return save(built.model), taken


def _convert_decoder(
    source: Source,
    converted: ConvertedModel,
    label: str,
    architecture: bytes | None,
    *,
    trust_model: bool,
    conditional: bool,
) -> tuple[bytes, ConditionInput | None, tuple[str, ...]]:
    """The decoder of a file of its own, for an encoder that was converted; and notes."""
    file, data = _open(source, "a .keras or .h5 decoder", architecture)
    model, name = Architecture(file), file.name
    dim = converted.latent_dim
    own = converted.latent_shape or (dim,)
    try:
        image, *inputs = decoder_of(model, conditional=conditional)
        if len(inputs) == 2 and input_shape(inputs[0].layer) != own == input_shape(inputs[1].layer):
            inputs.reverse()
        latent = inputs[0]
        _check_halves(latent, dim, "the encoder", label)
        if latent.layer.is_input:
            shape = input_shape(latent.layer)
            if shape == (dim,):
                own = (dim,)
            elif len(shape) != len(own) or any(
                side not in (None, wanted) for side, wanted in zip(shape, own, strict=True)
            ):
                raise ModelError(
                    f"the decoder does not take latents of shape {list(own)}: {name} takes "
                    f"{list(shape)}"
                )
        notes = training_notes(upstream([image], [latent]))
        saved, taken = _build_decoder(model, image, inputs, own, math.prod(converted.image), notes)
        return saved, taken, tuple(notes)
    except UntrustedModelError:
        if not trust_model or conditional:
            raise
    decoder = _loaded_submodel(_run(data, model), image.submodel)
    return save(decoder), None, (_code_note(name),)


# --- by running the code in the file ---------------------------------------------------


def _run(data: bytes, model: Architecture) -> Any:
    if not data:
        raise ModelError(
            f"{model.file.name} is a SavedModel, whose code Keras 3 does not load: in the program "
            "that made it, save encoder and decoder as .keras"
        )
    try:
        return run_and_load(data, legacy=model.file.legacy)
    except Exception as error:  # whatever the code raises
        message = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise ModelError(
            f"{model.file.name} cannot be loaded by keras: {message.strip()[:200]}; a class of its "
            "own must be registered first (keras.saving.register_keras_serializable)"
        ) from error


def _code_note(name: str) -> str:
    return f"the code in {name} was run, and is part of the converted model"


def _loaded_submodel(loaded: Any, submodel: Submodel) -> Any:
    """A submodel of the architecture in the model that keras loaded."""
    for name in submodel.path[1:]:
        layers = [layer.name for layer in getattr(loaded, "layers", ())]
        loaded = loaded.get_layer(name) if name in layers else getattr(loaded, name)
    return loaded


def _convert_by_running(
    data: bytes,
    model: Architecture,
    layers: tuple[str | None, str | None],
    size: Size,
    *,
    with_decoder: bool,
) -> ConvertedModel:
    """Take encoder and decoder from the model that keras loads with the file's code."""
    keras = load_keras()
    loaded = _run(data, model)
    if model.submodels:
        found = find(model, z_mean=layers[0], z_log_var=layers[1], trust_model=True)
        encoder = _loaded_submodel(loaded, found.z_mean.submodel)
        tensors = [found.z_mean] + ([found.z_log_var] if found.z_log_var else [])
        outputs = [encoder.get_layer(tensor.ref.layer).output for tensor in tensors]
        notes = found.notes
    else:
        found, notes = None, ()
        encoder = getattr(loaded, "encoder", loaded)
        outputs = [encoder.get_layer(name).output for name in layers if name]
        outputs = outputs or list(encoder.outputs)[:2]
    shape = tuple(outputs[0].shape[1:])
    if len(shape) != 1:
        raise ModelError(f"z_mean of {model.file.name} has shape {list(shape)}: expected [d]")
    outputs = outputs[:1] + [out for out in outputs[1:2] if tuple(out.shape[1:]) == shape]
    if len(encoder.inputs) != 1:
        raise ModelError(
            f"{model.file.name} has {len(encoder.inputs)} inputs: --trust-model takes no "
            "conditional model"
        )
    image = image_shape(tuple(encoder.inputs[0].shape[1:]), size, model.file.name)
    saved_encoder = save(keras.Model(encoder.inputs, outputs, name="encoder"))
    decoder = None
    if with_decoder and found is None:
        decoder = getattr(loaded, "decoder", None)
    elif with_decoder and found is not None and found.decoder is not None:
        decoder = _loaded_submodel(loaded, found.decoder.submodel)
        if decoder is encoder or decoder is loaded:
            decoder = None
    return ConvertedModel(
        saved_encoder, None if decoder is None else save(decoder), image, int(shape[0]),
        len(outputs) > 1, False, (*notes, _code_note(model.file.name)),
    )  # fmt: skip


# --- files that latentdb saved ---------------------------------------------------------


def load_model(data: bytes, name: str, *, trust_model: bool = False) -> Any:
    """Build the model of a file that latentdb saved, as data.

    Parameters
    ----------
    data
        A .keras file.
    name
        The file, for errors.
    trust_model
        Run its code if it cannot be built as data.

    Returns
    -------
    keras.Model
        With its first output, and those after it up to the first that needs
        code.

    Raises
    ------
    ModelError
        If the file cannot be used.
    """
    model = Architecture(parse(data, name))
    if model.top is None:
        if trust_model:
            return _run(data, model)
        raise UntrustedModelError(
            f"{name} is the class {quoted(model.kind)}, which is code in the file"
        )
    keras, classes = load_keras(), latentdb_layers()
    outputs: list[Tensor] = []
    for ref in model.top.graph.outputs:
        tensor = Tensor(model.top, ref)
        try:
            check(upstream([tensor]), name, classes)
        except UntrustedModelError:
            if outputs:
                break
        outputs.append(tensor)
    inputs = {
        step.tensor: input_shape(step.tensor.layer)
        for step in upstream(outputs)
        if step.action == "input"
    }
    try:
        built = Builder(model.file, keras, classes).build(
            outputs, inputs, name=re.sub(r"[^\w.-]+", "_", model.top.graph.name)
        )
    except UntrustedModelError:
        if not trust_model:
            raise
        return _run(data, model)
    return built.model
