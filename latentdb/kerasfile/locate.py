"""Find z_mean, z_log_var and the decoder in the graph of a model file.

Names come first (``z_mean``, ``mu``, ``z_log_var``, ``encoder``, ``decoder``),
then the order of an encoder's outputs.  Where both leave a choice, the error
lists the candidates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise

from latentdb.base.condition import CONDITION_HINT
from latentdb.base.errors import ModelError, UntrustedModelError
from latentdb.base.wording import clipped, quoted
from latentdb.kerasfile.builder import TRUST_HINT
from latentdb.kerasfile.graph import (
    IDENTITIES,
    Architecture,
    Ref,
    Step,
    Submodel,
    Tensor,
    input_shape,
    is_keras,
    origin,
    step_to,
    upstream,
)
from latentdb.kerasfile.layers import unsupported

_MEANS = frozenset(("mean", "means", "mu", "zmean", "zmu", "loc"))
_LOG_VARS = frozenset(("logvar", "logvariance", "lnvar", "zlogvar"))
_SCALES = frozenset(
    ("sigma", "std", "stddev", "dev", "var", "variance", "scale", "logsigma", "logstd")
)
# Words beside z_mean's or z_log_var's in a layer's name that do not change what it is.
_NEUTRAL_WORDS = frozenset(
    ("z", "q", "x", "h", "latent", "latents", "code", "codes", "coding", "codings", "vector", "fc",
     "dense", "linear", "layer", "encoder", "enc", "out", "output", "bottleneck", "embedding",
     "space", "vae", "head", "conv", "outputs")
)  # fmt: skip
_HEADS = frozenset(
    ("Dense", "Conv1D", "Conv2D", "Flatten", "Reshape", "BatchNormalization", "Activation",
     "LayerNormalization", "TFOpLambda", *IDENTITIES)
)  # fmt: skip
_RESHAPES = frozenset(("Flatten", "Reshape", "BatchNormalization"))
_ENCODERS = frozenset(("encoder", "enc", "encode", "inference", "recognition"))
_DECODERS = frozenset(("decoder", "dec", "decode", "generator", "generative"))
_CONDITIONS = frozenset(
    ("condition", "conditions", "cond", "label", "labels", "class", "classes", "y", "c",
     "attribute", "attributes", "attr", "category", "digit")
)  # fmt: skip
_PART = re.compile(r"(.+)\[(\d{0,6}):(\d{0,6})\]")
_MAX_CANDIDATES = 12  # in a message
_MAX_WALKED = 40_000  # steps: each tensor tried as the decoder's input is a walk of the graph


@dataclass(frozen=True)
class ModelOutputs:
    """The tensors of a model file that latentdb uses.

    Attributes
    ----------
    z_mean
        The posterior's mean.
    z_log_var
        The posterior's log variance; None if the file has none.
    decoder, latent
        The decoder's output and its input; None if the file has no decoder.
    condition
        The decoder's second input; None if it has none.
    notes
        One sentence for each choice that a person may want to override.
    parts
        Which numbers of their tensors z_mean and z_log_var are; None for all.
    """

    z_mean: Tensor
    z_log_var: Tensor | None
    decoder: Tensor | None
    latent: Tensor | None
    notes: tuple[str, ...]
    parts: tuple[slice | None, slice | None] = (None, None)
    condition: Tensor | None = None


def words(name: str) -> list[str]:
    """A layer's name as lower-case words without numbers: ``encoderMu_2`` gives encoder, mu."""
    spaced = re.sub("([a-z0-9])([A-Z])", r"\1_\2", name)
    return [word for word in re.split(r"[^a-z]+", spaced.lower()) if word]


def _is(name: str, wanted: Collection[str]) -> bool:
    """Whether a name has one of the words wanted, and otherwise neutral ones."""
    found = words(name)
    for first, second in pairwise(found):  # log_var is one word
        if first in ("log", "ln") and second in ("var", "variance", "sigma", "std", "stddev"):
            joined = "logvar" if second in ("var", "variance") else "logsigma"
            found = [word for word in found if word not in (first, second)] + [joined]
            break
    rest = [word for word in found if word not in wanted]
    return len(rest) < len(found) and all(word in _NEUTRAL_WORDS for word in rest)


def is_mean(name: str) -> bool:
    """Whether a layer's name is one of z_mean's."""
    return _is(name, _MEANS)


def is_log_var(name: str) -> bool:
    """Whether a layer's name is one of z_log_var's."""
    return _is(name, _LOG_VARS)


def is_scale(name: str) -> bool:
    """Whether a layer's name is that of a scale parameter other than the log variance."""
    return _is(name, _SCALES)


def find(
    model: Architecture,
    *,
    z_mean: str | None = None,
    z_log_var: str | None = None,
    trust_model: bool = False,
    conditional: bool = False,
) -> ModelOutputs:
    """Find the encoder's outputs and the decoder.

    Parameters
    ----------
    model
        The architecture of an encoder, or of a whole VAE.
    z_mean, z_log_var
        Names of their layers; found if not given.
    trust_model
        Whether z_mean may depend on code in the file.
    conditional
        Whether the decoder may have a second input.

    Raises
    ------
    ModelError
        If z_mean is ambiguous, or a layer of a name given does not exist; lists
        the candidates.
    UntrustedModelError
        If z_mean can be found only with `trust_model`.
    """
    if not model.submodels:
        raise UntrustedModelError(
            f"{model.file.name} holds only the name of the class {quoted(model.kind)}, its "
            "layers are in code: in the program that made it, save model.encoder and "
            f"model.decoder each as .keras; or, {TRUST_HINT}"
        )
    notes: list[str] = []
    z_mean, first = _without_part(z_mean)
    z_log_var, second = _without_part(z_log_var)
    mean = _find_mean(model, trust_model) if z_mean is None else _layer_named(model, z_mean)
    log_var: Tensor | None = None
    if z_log_var is not None:
        log_var = _layer_named(model, z_log_var)
    elif first is None:
        log_var, notes = _find_log_var(model, mean)
    image, *inputs = _find_decoder(model, mean, log_var, conditional) or (None, None)
    notes += training_notes(upstream([mean] + ([log_var] if log_var is not None else [])))
    if mean.layer.config.get("activation") == "softmax" or mean.layer.kind == "Softmax":
        notes.append(
            f"{mean.quoted} ends in softmax, as a classifier does: --z-mean names another layer"
        )
    latent, condition = (*inputs, None)[:2]
    return ModelOutputs(mean, log_var, image, latent, tuple(notes), (first, second), condition)


def _without_part(name: str | None) -> tuple[str | None, slice | None]:
    """A layer's name without the part of it that ``layer[:8]`` or ``layer[8:]`` means."""
    found = _PART.fullmatch(name) if name is not None else None
    if found is None:
        return name, None
    start, stop = (int(text) if text else None for text in found.groups()[1:])
    return found[1], slice(start, stop)


def training_notes(steps: Collection[Step]) -> list[str]:
    """A note for the layers without effect at inference that a model calls as in training."""
    labels = [step.tensor.layer.label for step in steps if step.action == "same" and step.trains]
    if not labels:
        return []
    return [
        f"{labels[0]} is called with training=True: latentdb leaves it out, for latents must be "
        "reproducible" + (f" (and {len(labels) - 1} more)" if len(labels) > 1 else "")
    ]


def decoder_of(model: Architecture, *, conditional: bool = False) -> tuple[Tensor, ...]:
    """Output and input of the decoder in a file: a model named so, or the outermost one.

    Of a conditional one its condition follows; which input is which is known by their
    names, else by their order.

    Raises
    ------
    ModelError
        If there is no such model, or it does not have exactly one input, or two of a
        conditional one.
    """
    submodel = _submodel_named(model, _DECODERS) or model.top
    if submodel is None:
        raise ModelError(
            f"{model.file.name} holds no decoder as layers: in the program that made it, save "
            "the decoder itself as .keras"
        )
    # By itself, whatever calls it in the whole model.
    submodel = Submodel(submodel.graph, submodel.path, submodel.file_name)
    image = Tensor(submodel, submodel.graph.outputs[0])
    inputs = [step.tensor for step in upstream([image]) if step.action == "input"]
    order = [ref.layer for ref in submodel.graph.inputs]
    inputs.sort(key=lambda tensor: order.index(tensor.ref.layer))
    if len(inputs) == 2 and conditional:
        latent, condition = sorted(inputs, key=lambda tensor: is_condition(tensor.ref.layer))
        return image, latent, condition
    if len(inputs) != 1:
        hint = f"; {CONDITION_HINT}" if len(inputs) == 2 else ""
        raise ModelError(
            f"{model.file.name} has {len(inputs)} inputs: expected a decoder with one input{hint}"
        )
    return image, inputs[0]


def is_condition(name: str) -> bool:
    """Whether an input is named as a condition is."""
    return bool(set(words(name)) & _CONDITIONS)


def split_inputs(inputs: Collection[Tensor]) -> tuple[Tensor, Tensor]:
    """Image and condition of the two inputs of an encoder: the larger one is the image."""

    def size(tensor: Tensor) -> tuple[int, int]:
        shape = input_shape(tensor.layer)
        return len(shape), math.prod(side or 1 for side in shape)

    image, condition = sorted(inputs, key=size, reverse=True)
    return image, condition


def candidates(model: Architecture) -> list[str]:
    """Layers that may be z_mean: inputs of layers that are code, or else Dense layers."""
    found: dict[str, None] = {}
    for tensor in _layers(model):
        if unsupported(tensor.layer) is not None:
            for need in step_to(tensor).needs:
                source = origin(need)
                if unsupported(source.layer) is None and not source.layer.is_input:
                    found[source.label] = None
        if len(found) >= _MAX_CANDIDATES:
            break
    if not found:
        for tensor in _layers(model):
            if tensor.layer.kind == "Dense":
                found[tensor.label] = None
    return list(found)[:_MAX_CANDIDATES]


def _layers(model: Architecture) -> Iterator[Tensor]:
    """The output of the first call of every layer that is not a model."""
    for submodel in model.submodels:
        for layer in submodel.graph.layers.values():
            if layer.calls and layer.graph is None:
                yield Tensor(submodel, Ref(layer.name, 0, 0))


def _layer_named(model: Architecture, name: str) -> Tensor:
    found = [tensor for tensor in _layers(model) if name in (tensor.ref.layer, tensor.label)]
    exact = [tensor for tensor in found if tensor.label == name] or found
    if len(exact) == 1:
        return exact[0]
    labels = _listed([tensor.label for tensor in found] or candidates(model))
    what = "more than one layer" if found else "no layer"
    raise ModelError(f"{model.file.name} has {what} {quoted(name)}: name one of {labels}")


def _listed(labels: Collection[str]) -> str:
    return ", ".join(clipped(label) for label in list(labels)[:_MAX_CANDIDATES])


def _submodel_named(model: Architecture, wanted: Collection[str]) -> Submodel | None:
    for submodel in model.submodels:
        if set(words(submodel.graph.name)) & set(wanted) or set(words(submodel.path[-1])) & set(
            wanted
        ):
            return submodel
    return None


def _first_unsupported(steps: Collection[Step]) -> str | None:
    """Why the first layer that is not built is not; None if all are."""
    reasons = (unsupported(step.tensor.layer) for step in steps if step.action == "layer")
    return next((reason for reason in reasons if reason is not None), None)


def _supported(tensors: Collection[Tensor]) -> list[Tensor]:
    """The tensors of which all layers upstream are supported (a sampling layer is not)."""
    supported: dict[Tensor, bool] = {}
    for step in upstream(tensors):  # one walk, however many tensors
        is_built = step.action != "layer" or unsupported(step.tensor.layer) is None
        supported[step.tensor] = is_built and all(supported[need] for need in step.needs)
    return [tensor for tensor in tensors if supported[tensor]]


def _is_supported(tensor: Tensor) -> bool:
    return bool(_supported([tensor]))


def _find_mean(model: Architecture, trust_model: bool) -> Tensor:
    """z_mean by its layer's name, or else the first output of the encoder."""
    encoder = _submodel_named(model, _ENCODERS)
    submodel = encoder or model.top
    outputs = [] if submodel is None else [Tensor(submodel, ref) for ref in submodel.graph.outputs]
    sources = [origin(output) for output in outputs]
    named_outputs = [source for source in sources if is_mean(source.ref.layer)]
    if len(named_outputs) == 1:
        return named_outputs[0]
    named = [
        tensor
        for tensor in _layers(model)
        if is_mean(tensor.ref.layer) and tensor.layer.kind in _HEADS
    ]
    if encoder is not None and len(named) > 1:
        named = [tensor for tensor in named if tensor.submodel is encoder] or named
    first = sources[0] if sources else None
    if first is not None and (is_log_var(first.ref.layer) or is_scale(first.ref.layer)):
        first = None
    if len(named) == 1:
        if first is not None and _only_reshapes(named[0], first):
            return first
        return named[0]
    if first is not None and first.layer.is_input:
        first = None
    if not named and first is not None and (trust_model or _is_supported(first)):
        return first
    labels = [tensor.label for tensor in named] or candidates(model)
    give = f"give --z-mean LAYER, one of {_listed(labels) or 'its layers'}"
    if named:
        raise ModelError(f"{model.file.name}: several layers may be z_mean; {give}")
    if first is None:
        raise ModelError(f"{model.file.name}: no layer is named z_mean or mu; {give}")
    raise UntrustedModelError(
        f"{model.file.name}: no layer is named z_mean or mu, and its first output depends on a "
        f"layer that is not built: {_first_unsupported(upstream([first]))}; {give}; "
        f"or, {TRUST_HINT}"
    )


def _only_reshapes(start: Tensor, end: Tensor) -> bool:
    """Whether between two tensors are only layers that reshape or normalise."""
    tensor = end
    for _ in range(10):
        if tensor == start:
            return True
        layer = tensor.layer
        linear = layer.kind == "Activation" and layer.config.get("activation") == "linear"
        if not is_keras(layer) or not (layer.kind in _RESHAPES or linear):
            return False
        needs = step_to(tensor).needs
        if len(needs) != 1:
            return False
        tensor = origin(needs[0])
    return False


def _find_log_var(model: Architecture, mean: Tensor) -> tuple[Tensor | None, list[str]]:
    """z_log_var in z_mean's model, by its layer's name or as the output after z_mean, and notes."""
    submodel = mean.submodel
    beside = [tensor for tensor in _layers(model) if tensor.submodel is submodel and tensor != mean]
    named = [tensor for tensor in beside if is_log_var(tensor.ref.layer)]
    named = _supported([tensor for tensor in named if tensor.layer.kind in _HEADS])
    outputs = [origin(Tensor(submodel, ref)) for ref in submodel.graph.outputs]
    if len(named) > 1:
        named = [tensor for tensor in named if tensor in outputs] or named
    if len(named) == 1:
        return named[0], []
    after = outputs[outputs.index(mean) + 1 :] if mean in outputs else []
    if not after or after[0] == mean or after[0].layer.is_input or not _is_supported(after[0]):
        scales = [tensor.label for tensor in beside if is_scale(tensor.ref.layer)]
        return None, [_ambiguous_scale(scales[0])] if scales else []
    if is_scale(after[0].ref.layer):
        return None, [_ambiguous_scale(after[0].label)]
    if is_mean(after[0].ref.layer):
        return None, []
    return after[0], [f"z_log_var is assumed to be {after[0].quoted}, the output after z_mean"]


def _ambiguous_scale(label: str) -> str:
    return (
        f"{quoted(label)} may be the standard deviation or its logarithm, and is not used: "
        "if it is the logarithm of the variance, give --z-log-var"
    )


def _find_decoder(
    model: Architecture, mean: Tensor, log_var: Tensor | None, conditional: bool
) -> tuple[Tensor, ...] | None:
    """Output and input of the decoder in a whole VAE, and its condition if it has one."""
    named = _submodel_named(model, _DECODERS)
    if named is not None and named is not mean.submodel and named.graph.inputs:
        try:
            return decoder_of(model, conditional=conditional)
        except ModelError:
            return None
    if model.top is None:
        return None
    encoded = [step.tensor for step in upstream([mean]) if step.action == "input"]
    images = {split_inputs(encoded)[0]} if len(encoded) == 2 else set(encoded)
    for ref in model.top.graph.outputs:
        image = Tensor(model.top, ref)
        inputs = _decoder_inputs(image, mean, log_var, images if conditional else None)
        if inputs:
            return image, *inputs
    return None


def _decoder_inputs(
    image: Tensor, mean: Tensor, log_var: Tensor | None, images: Collection[Tensor] | None
) -> list[Tensor]:
    """The first tensor downstream of z_mean that dominates the output; empty if none does.

    Where the inputs `images` of the encoder are given, one other input, the condition, may
    join it, and follows it.
    """
    end = origin(image)
    heads = {mean} | ({log_var} if log_var is not None else set())
    downstream = set(heads)
    walked = 0
    for step in upstream([image]):
        if step.tensor not in heads and not any(need in downstream for need in step.needs):
            continue
        downstream.add(step.tensor)
        if step.action == "same" or step.tensor == end or step.tensor == log_var:
            continue
        rest = upstream([image], [step.tensor])
        walked += len(rest)
        if walked > _MAX_WALKED:
            return []
        inputs = [other.tensor for other in rest if other.action == "input"]
        others = [tensor for tensor in inputs if tensor != step.tensor]
        known = not others or (images is not None and len(others) == 1 and others[0] not in images)
        if step.tensor in inputs and known and _first_unsupported(rest) is None:
            return [step.tensor, *others]
    return []
