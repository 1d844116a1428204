"""The two halves of a model file: where z_mean, z_log_var and the decoder are in it.

Found by names first (``z_mean``, ``mu``, ``z_log_var``, ``encoder``,
``decoder``), then by the order of an encoder's outputs.  What cannot be told is
asked for, with the candidates.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise

from latentdb.base.errors import ModelError, UntrustedModelError
from latentdb.kerasfile.builder import refusal
from latentdb.kerasfile.graph import (
    IDENTITIES,
    Architecture,
    Frame,
    Ref,
    Tensor,
    is_keras,
    origin,
    step_to,
    upstream,
)

_MEANS = frozenset(("mean", "means", "mu", "zmean", "zmu", "loc"))
_LOG_VARS = frozenset(("logvar", "logvariance", "lnvar", "zlogvar"))
_SPREADS = frozenset(
    ("sigma", "std", "stddev", "dev", "var", "variance", "scale", "logsigma", "logstd")
)
_FILLERS = frozenset(
    ("z", "q", "x", "h", "latent", "latents", "code", "codes", "coding", "codings", "vector", "fc",
     "dense", "linear", "layer", "encoder", "enc", "out", "output", "bottleneck", "embedding",
     "space", "vae", "head", "conv")
)  # fmt: skip
_HEADS = frozenset(
    ("Dense", "Conv1D", "Conv2D", "Flatten", "Reshape", "BatchNormalization", "Activation",
     "LayerNormalization", "TFOpLambda", *IDENTITIES)
)  # fmt: skip
_RESHAPES = frozenset(("Flatten", "Reshape", "BatchNormalization"))
_ENCODERS = frozenset(("encoder", "enc", "encode", "inference", "recognition"))
_DECODERS = frozenset(("decoder", "dec", "decode", "generator", "generative"))
_SHOWN = 12
_MOST_CUTS = 300


@dataclass(frozen=True)
class ModelOutputs:
    """What was found in a model file.

    Attributes
    ----------
    z_mean
        Where it is.
    z_log_var
        Where it is, if it is there.
    decoder, latent
        The image that is decoded, and the latent it is decoded from; None
        where there is no decoder.
    notes
        What people should know of the choice, a sentence each.
    """

    z_mean: Tensor
    z_log_var: Tensor | None
    decoder: Tensor | None
    latent: Tensor | None
    notes: tuple[str, ...]


def words(name: str) -> list[str]:
    """A layer's name as lower-case words, without numbers: ``encoderMu_2`` is encoder, mu."""
    spaced = re.sub("([a-z0-9])([A-Z])", r"\1_\2", name)
    return [word for word in re.split(r"[^a-z]+", spaced.lower()) if word]


def _is(name: str, wanted: Collection[str]) -> bool:
    """Whether a name says one of some words, and nothing else of importance."""
    parts = words(name)
    for first, second in pairwise(parts):  # log_var is one word
        if first in ("log", "ln") and second in ("var", "variance", "sigma", "std", "stddev"):
            joined = "logvar" if second in ("var", "variance") else "logsigma"
            parts = [part for part in parts if part not in (first, second)] + [joined]
            break
    rest = [part for part in parts if part not in wanted]
    return len(rest) < len(parts) and all(part in _FILLERS for part in rest)


def is_mean(name: str) -> bool:
    """Whether a layer's name says that it gives z_mean."""
    return _is(name, _MEANS)


def is_log_var(name: str) -> bool:
    """Whether a layer's name says that it gives z_log_var."""
    return _is(name, _LOG_VARS)


def is_spread(name: str) -> bool:
    """Whether a layer's name says that it gives a spread that is not z_log_var."""
    return _is(name, _SPREADS)


def find(
    model: Architecture,
    *,
    z_mean: str | None = None,
    z_log_var: str | None = None,
    trust_model: bool = False,
) -> ModelOutputs:
    """Find the two halves.

    Parameters
    ----------
    model
        The architecture of an encoder, or of a whole VAE.
    z_mean, z_log_var
        Layers that were named, where there was a doubt.
    trust_model
        Whether z_mean may be made by code in the file.

    Raises
    ------
    ModelError
        If z_mean cannot be told; lists the candidates.
    UntrustedModelError
        If it could with `trust_model`.
    """
    if not model.frames:
        raise UntrustedModelError(
            f"{model.file.name} holds only the name of the class {model.kind!r}, its layers are in "
            "code: where it was made, save model.encoder and model.decoder each as .keras; or, if "
            "you trust whoever made it, --trust-model runs its code"
        )
    mean = _mean(model, trust_model) if z_mean is None else _named(model, z_mean)
    notes: list[str] = []
    if z_log_var is not None:
        spread: Tensor | None = _named(model, z_log_var)
    else:
        spread, notes = _log_var(model, mean)
    decoder = _decoder(model, mean, spread)
    image, latent = decoder or (None, None)
    return ModelOutputs(mean, spread, image, latent, tuple(notes))


def decoder_of(model: Architecture) -> tuple[Tensor, Tensor]:
    """Image and latent of a file that is a decoder, or holds one.

    Raises
    ------
    ModelError
        If it has no such model, or it takes more than one input.
    """
    frame = _frame_named(model, _DECODERS) or model.top
    if frame is None:
        raise ModelError(
            f"{model.file.name} holds no decoder that is written out as layers: where it was "
            "made, save the decoder itself as .keras"
        )
    frame = Frame(frame.graph, frame.path, frame.source)  # by itself, wherever it is used
    image = Tensor(frame, frame.graph.outputs[0])
    inputs = [step.tensor for step in upstream([image]) if step.action == "input"]
    if len(inputs) != 1:
        raise ModelError(
            f"{model.file.name} takes {len(inputs)} inputs: expected a decoder of one latent"
        )
    return image, inputs[0]


def candidates(model: Architecture) -> list[str]:
    """Layers that may be z_mean: those that a layer of unknown code takes, or else Dense ones."""
    found: dict[str, None] = {}
    for tensor in _layers(model):
        if refusal(tensor.layer) is not None:
            for need in step_to(tensor).needs:
                source = origin(need)
                if refusal(source.layer) is None and not source.layer.is_input:
                    found[source.shown] = None
    if not found:
        for tensor in _layers(model):
            if tensor.layer.kind == "Dense":
                found[tensor.shown] = None
    return list(found)[:_SHOWN]


def _layers(model: Architecture) -> Iterator[Tensor]:
    """The first call of every layer that is no model."""
    for frame in model.frames:
        for layer in frame.graph.layers.values():
            if layer.calls and layer.graph is None:
                yield Tensor(frame, Ref(layer.name, 0, 0))


def _named(model: Architecture, name: str) -> Tensor:
    found = [tensor for tensor in _layers(model) if name in (tensor.ref.layer, tensor.shown)]
    exact = [tensor for tensor in found if tensor.shown == name] or found
    if len(exact) == 1:
        return exact[0]
    told = [tensor.shown for tensor in found] or candidates(model)
    what = "more than one layer" if found else "no layer"
    raise ModelError(f"{model.file.name} has {what} {name!r}: name one of {', '.join(told)}")


def _frame_named(model: Architecture, wanted: Collection[str]) -> Frame | None:
    for frame in model.frames:
        if set(words(frame.graph.name)) & set(wanted) or set(words(frame.path[-1])) & set(wanted):
            return frame
    return None


def _walkable(tensor: Tensor) -> bool:
    """Whether all on the way to a tensor is known, and nothing random."""
    steps = upstream([tensor])
    return all(step.action != "layer" or refusal(step.tensor.layer) is None for step in steps)


def _mean(model: Architecture, trust_model: bool) -> Tensor:
    """z_mean by its name, or else as the first output of the encoder."""
    encoder = _frame_named(model, _ENCODERS)
    frame = encoder or model.top
    outputs = [] if frame is None else [Tensor(frame, ref) for ref in frame.graph.outputs]
    sources = [origin(output) for output in outputs]
    among = [source for source in sources if is_mean(source.ref.layer)]
    if len(among) == 1:
        return among[0]
    named = [
        tensor
        for tensor in _layers(model)
        if is_mean(tensor.ref.layer) and tensor.layer.kind in _HEADS
    ]
    if encoder is not None and len(named) > 1:
        named = [tensor for tensor in named if tensor.frame is encoder] or named
    first = sources[0] if sources else None
    if first is not None and (is_log_var(first.ref.layer) or is_spread(first.ref.layer)):
        first = None
    if len(named) == 1:
        if first is not None and _only_reshapes(named[0], first):
            return first
        return named[0]
    if first is not None and first.layer.is_input:
        first = None
    if not named and first is not None and (trust_model or _walkable(first)):
        return first
    told = ", ".join([tensor.shown for tensor in named] or candidates(model)) or "its layers"
    give = f"give --z-mean LAYER, one of {told}"
    if named:
        raise ModelError(f"{model.file.name}: several layers may be z_mean; {give}")
    if first is None:
        raise ModelError(f"{model.file.name}: no layer is named z_mean or mu; {give}")
    raise UntrustedModelError(
        f"{model.file.name}: no layer is named z_mean or mu, and its first output is no plain "
        f"function of the image: {_obstacle(first)}; {give}; or, if you trust whoever made it, "
        "--trust-model runs its code"
    )


def _obstacle(tensor: Tensor) -> str:
    """The first thing on the way to a tensor that is not built."""
    found = (refusal(step.tensor.layer) for step in upstream([tensor]) if step.action == "layer")
    return next((why for why in found if why is not None), "it depends on no input")


def _only_reshapes(start: Tensor, end: Tensor) -> bool:
    """Whether an output is a named layer in another shape, or normalised."""
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


def _log_var(model: Architecture, mean: Tensor) -> tuple[Tensor | None, list[str]]:
    """z_log_var beside z_mean, by its name or as the output after it."""
    frame = mean.frame
    beside = [tensor for tensor in _layers(model) if tensor.frame is frame and tensor != mean]
    named = [tensor for tensor in beside if is_log_var(tensor.ref.layer)]
    named = [tensor for tensor in named if tensor.layer.kind in _HEADS and _walkable(tensor)]
    outputs = [origin(Tensor(frame, ref)) for ref in frame.graph.outputs]
    if len(named) > 1:
        named = [tensor for tensor in named if tensor in outputs] or named
    if len(named) == 1:
        return named[0], []
    after = outputs[outputs.index(mean) + 1 :] if mean in outputs else []
    if not after or after[0] == mean or after[0].layer.is_input or not _walkable(after[0]):
        doubtful = [tensor.shown for tensor in beside if is_spread(tensor.ref.layer)]
        return None, [_doubt(doubtful[0])] if doubtful else []
    if is_spread(after[0].ref.layer):
        return None, [_doubt(after[0].shown)]
    if is_mean(after[0].ref.layer):
        return None, []
    return after[0], [f"z_log_var is taken to be {after[0].shown!r}, the output after z_mean"]


def _doubt(name: str) -> str:
    return (
        f"{name!r} may be the deviation or its logarithm, and is left out: "
        "if it is the logarithm of the variance, give --z-log-var"
    )


def _decoder(
    model: Architecture, mean: Tensor, spread: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """Image and latent of the decoder that a file holds beside the encoder."""
    named = _frame_named(model, _DECODERS)
    if named is not None and named is not mean.frame and named.graph.inputs:
        try:
            return decoder_of(model)
        except ModelError:
            return None
    if model.top is None:
        return None
    for ref in model.top.graph.outputs:
        found = _cut(Tensor(model.top, ref), mean, spread)
        if found is not None:
            return found
    return None


def _cut(image: Tensor, mean: Tensor, spread: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """The first tensor after z_mean through which all goes that an output is made of."""
    steps = upstream([image])
    end = origin(image)
    heads = {mean} | ({spread} if spread is not None else set())
    after = set(heads)
    tried = 0
    for step in steps:
        if step.tensor not in heads and not any(need in after for need in step.needs):
            continue
        after.add(step.tensor)
        if step.action == "same" or step.tensor == end or step.tensor == spread:
            continue
        tried += 1
        if tried > _MOST_CUTS:
            return None
        rest = upstream([image], [step.tensor])
        leaves = [other.tensor for other in rest if other.action == "input"]
        plain = all(
            other.action != "layer" or refusal(other.tensor.layer) is None for other in rest
        )
        if leaves == [step.tensor] and plain:
            return image, step.tensor
    return None
