"""The architecture of a model as data: graphs of layers, walked without building any.

A configuration is what keras writes: nested dictionaries of functional and
sequential models, in Keras 3's notation or Keras 2's.  Nothing here imports
keras, and nothing is looked up by a name the file gives.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from latentdb.base.errors import ModelError
from latentdb.kerasfile.container import ModelFile

INPUT = "InputLayer"
_MAX_FRAMES = 500
_MAX_DEPTH = 16
_MAX_STEPS = 10_000  # EfficientNetB7 has 800 layers
# Layers that give at inference what they take.
IDENTITIES = frozenset(
    ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianNoise",
     "GaussianDropout", "AlphaDropout", "ActivityRegularization", "Identity", "RandomFlip",
     "RandomRotation", "RandomZoom", "RandomContrast", "RandomBrightness", "RandomTranslation")
)  # fmt: skip


@dataclass(frozen=True)
class Ref:
    """An output of a layer's call, as configurations name it."""

    layer: str
    node: int
    tensor: int


@dataclass(frozen=True, eq=False)
class Call:
    """What a layer was called with: lists and numbers with a `Ref` where a tensor was."""

    args: list[Any]
    kwargs: dict[str, Any]

    @property
    def refs(self) -> list[Ref]:
        return list(_leaves([self.args, self.kwargs]))


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer as it was written.

    Attributes
    ----------
    name, kind, module
        Its name, its class, and the module of the class ("" where unsaid).
    config
        Its settings.
    calls
        Where it was called.
    graph
        Of a nested model.
    weights
        Where its arrays are: a prefix in the weights and, in an ``.h5``, the
        layer's own name.
    package
        The package that the class is registered under; "" for keras's own.
    """

    name: str
    kind: str
    module: str
    config: dict[str, Any]
    calls: list[Call]
    graph: Graph | None
    weights: tuple[str, str | None]
    package: str

    @property
    def is_input(self) -> bool:
        return self.kind == INPUT and not self.package


@dataclass(frozen=True, eq=False)
class Graph:
    """A functional or sequential model.

    Attributes
    ----------
    name
        Of the model.
    layers
        By name.
    inputs, outputs
        Flat, in order.
    """

    name: str
    layers: dict[str, Layer]
    inputs: list[Ref]
    outputs: list[Ref]


@dataclass(frozen=True, eq=False)
class Frame:
    """A graph at the place where it is used: alone, or called inside another.

    Attributes
    ----------
    graph
        The model.
    path
        Names of the models from the outermost in, for people.
    source
        The file, for errors.
    parent, call
        Where its inputs come from; None where they are its own.
    """

    graph: Graph
    path: tuple[str, ...]
    source: str
    parent: Frame | None = None
    call: Call | None = None
    children: dict[tuple[str, int], Frame] = field(default_factory=dict)


def refuse(frame: Frame, why: str) -> ModelError:
    """What is wrong with a configuration, as an error."""
    return ModelError(f"{frame.source} is refused: its configuration {why}")


@dataclass(frozen=True)
class Tensor:
    """A `Ref` in its frame."""

    frame: Frame
    ref: Ref

    @property
    def layer(self) -> Layer:
        layer = self.frame.graph.layers.get(self.ref.layer)
        if layer is None:
            raise refuse(self.frame, f"names a layer {self.ref.layer!r} it does not hold")
        return layer

    @property
    def shown(self) -> str:
        return "/".join((*self.frame.path[1:], self.ref.layer))


class Architecture:
    """All graphs of a model file.

    Parameters
    ----------
    file
        The file, read as data.

    Attributes
    ----------
    frames
        Every model in it where it is used, the outermost first.
    top
        The outermost model; None where that is a class of its own, whose code
        only knows how its parts are joined.
    kind
        Class of the outermost model.

    Raises
    ------
    ModelError
        If the configuration is not one of models that keras writes.
    """

    def __init__(self, file: ModelFile) -> None:
        self.file = file
        self.frames: list[Frame] = []
        config = file.config
        self.kind = str(config.get("class_name"))
        self.top: Frame | None = None
        try:
            graph = _graph(config, ("", None), file.legacy, 0)
            if graph is not None:
                self.top = Frame(graph, (graph.name,), file.name)
                self._add(self.top)
                return
            for path, part, prefix in _parts(file):
                graph = _graph(part, (prefix, None), file.legacy, 0)
                if graph is not None:
                    self._add(Frame(graph, (self.kind, path), file.name))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(
                f"{file.name} has a configuration that is not Keras's: "
                f"{type(error).__name__} {' '.join(str(error).split())[:100]}"
            ) from error

    def _add(self, frame: Frame) -> None:
        self.frames.append(frame)
        if len(self.frames) > _MAX_FRAMES or len(frame.path) > _MAX_DEPTH:
            raise ModelError(f"{self.file.name} is refused: too many models inside each other")
        for layer in frame.graph.layers.values():
            if layer.graph is not None and layer.calls:
                self._add(child(frame, layer, 0))


def child(frame: Frame, layer: Layer, node: int) -> Frame:
    """The frame of a nested model at one of its calls."""
    key = (layer.name, node)
    if key not in frame.children:
        if layer.graph is None or not 0 <= node < len(layer.calls):
            raise refuse(frame, f"has no call {node} of {layer.name!r}")
        frame.children[key] = Frame(
            layer.graph, (*frame.path, layer.name), frame.source, frame, layer.calls[node]
        )
    return frame.children[key]


@dataclass(frozen=True)
class Step:
    """One thing to do on the way from the inputs to an output.

    Attributes
    ----------
    tensor
        What it gives.
    needs
        What it takes, in the order of the call.
    action
        ``"input"``, ``"same"`` (it gives what it takes) or ``"layer"``.
    """

    tensor: Tensor
    needs: tuple[Tensor, ...]
    action: str

    @property
    def call(self) -> Call:
        return self.tensor.layer.calls[self.tensor.ref.node]


def step_to(tensor: Tensor) -> Step:
    """What gives a tensor, and what that needs."""
    frame, layer = tensor.frame, tensor.layer
    if layer.is_input:
        places = [ref.layer for ref in frame.graph.inputs]
        if frame.parent is None or frame.call is None or layer.name not in places:
            return Step(tensor, (), "input")
        given = frame.call.refs
        place = places.index(layer.name)
        if place >= len(given):
            raise refuse(frame, f"calls {frame.graph.name!r} with too few inputs")
        return Step(tensor, (Tensor(frame.parent, given[place]),), "same")
    if not 0 <= tensor.ref.node < len(layer.calls):
        raise refuse(frame, f"has no call {tensor.ref.node} of {layer.name!r}")
    call = layer.calls[tensor.ref.node]
    if layer.graph is not None:
        inner = child(frame, layer, tensor.ref.node)
        if not 0 <= tensor.ref.tensor < len(inner.graph.outputs):
            raise refuse(frame, f"has no output {tensor.ref.tensor} of {layer.name!r}")
        return Step(tensor, (Tensor(inner, inner.graph.outputs[tensor.ref.tensor]),), "same")
    needs = tuple(Tensor(frame, ref) for ref in call.refs)
    if layer.kind in IDENTITIES and is_keras(layer) and len(needs) == 1:
        return Step(tensor, needs, "same")
    return Step(tensor, needs, "layer")


def upstream(targets: Collection[Tensor], cut: Collection[Tensor] = ()) -> list[Step]:
    """All steps to some tensors, each after what it needs.

    Parameters
    ----------
    targets
        Where the walk back begins.
    cut
        Where it ends before an input: these count as inputs.

    Raises
    ------
    ModelError
        If the graph has a circle, or is larger than any real one.
    """
    done: dict[Tensor, Step] = {}
    open_now: set[Tensor] = set()
    stack = list(reversed(list(targets)))
    pushed = len(stack)
    while stack:
        tensor = stack[-1]
        if tensor in done:
            stack.pop()
            continue
        step = Step(tensor, (), "input") if tensor in cut else step_to(tensor)
        missing = [need for need in step.needs if need not in done]
        if not missing:
            done[tensor] = step
            open_now.discard(tensor)
            stack.pop()
            continue
        pushed += len(missing)
        if tensor in open_now or pushed > _MAX_STEPS:
            raise refuse(tensor.frame, "goes round in a circle, or has no end")
        open_now.add(tensor)
        stack.extend(reversed(missing))
    return list(done.values())


def origin(tensor: Tensor) -> Tensor:
    """The tensor that one stands for: through nested models, and layers that do nothing."""
    for _ in range(_MAX_STEPS):
        step = step_to(tensor)
        if step.action != "same":
            return tensor
        tensor = step.needs[0]
    raise refuse(tensor.frame, "goes round in a circle, or has no end")


def is_keras(layer: Layer) -> bool:
    """Whether a layer's class says it is keras's own."""
    root = layer.module.split(".")[0]
    return not layer.package and root in ("", "keras", "tf_keras")


# --- configurations ------------------------------------------------------------------


def _graph(
    entry: Mapping[str, Any], weights: tuple[str, str | None], legacy: bool, depth: int
) -> Graph | None:
    """The model of a configuration; None if it is none that is written out."""
    config = entry.get("config")
    if depth > _MAX_DEPTH:
        raise ModelError("the configuration has too many models inside each other")
    if entry.get("class_name") == "Sequential" and isinstance(config, list):
        config = {"name": "sequential", "layers": config}  # Keras 2.2 and before
    if not isinstance(config, dict) or not isinstance(config.get("layers"), list):
        return None
    name = str(config.get("name", "model"))
    listed = _layers(config["layers"], weights, legacy, depth)
    if "input_layers" not in config:
        return _sequential(name, listed, config)
    layers = {layer.name: layer for layer in listed}
    if len(layers) < len(listed):
        raise ModelError(f"the configuration of {name!r} has two layers of one name")
    old = not any(
        isinstance(node, dict)
        for raw in config["layers"]
        for node in raw.get("inbound_nodes") or ()
    )
    inputs = list(_leaves(_structure(config["input_layers"], layers, old)))
    outputs = list(_leaves(_structure(config["output_layers"], layers, old)))
    calls = {
        layer.name: [_call(node, layers) for node in raw.get("inbound_nodes") or ()]
        for layer, raw in zip(listed, config["layers"], strict=True)
    }
    for layer in listed:
        layer.calls.extend(calls[layer.name])
    return Graph(name, layers, inputs, outputs)


def _layers(
    entries: list[Any], weights: tuple[str, str | None], legacy: bool, depth: int
) -> list[Layer]:
    prefix, top = weights
    used: dict[str, int] = {}
    layers = []
    for entry in entries:
        config = entry.get("config")
        kind, module = str(entry["class_name"]), str(entry.get("module") or "")
        name = str(entry.get("name") or (config.get("name") if isinstance(config, dict) else kind))
        place: tuple[str, str | None] = (prefix, None)
        if legacy:
            place = (top or name, name)
        else:
            if not module.startswith("keras.src.ops"):  # an operation is no layer
                place = (f"{prefix}layers/{_unique(_snake(kind), used)}/", None)
        inner = (place[0], place[0]) if legacy else (place[0], None)
        graph = _graph(entry, inner, legacy, depth + 1)
        package, mark, _ = str(entry.get("registered_name") or "").partition(">")
        if not mark or package.lower() == "keras":
            package = ""
        settings = config if isinstance(config, dict) else {}
        layers.append(Layer(name, kind, module, settings, [], graph, place, package))
    return layers


def _snake(name: str) -> str:
    """A class name as keras writes it in the names of weights."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _unique(name: str, used: dict[str, int]) -> str:
    used[name] = used.get(name, -1) + 1
    return f"{name}_{used[name]}" if used[name] else name


def _sequential(name: str, listed: list[Layer], config: Mapping[str, Any]) -> Graph:
    if not listed:
        raise ModelError(f"the configuration of {name!r} has no layers")
    if not listed[0].is_input:
        shape = listed[0].config.get("batch_input_shape") or config.get("build_input_shape")
        inner = listed[0].graph
        if not shape and inner is not None:
            shape = _batch_shape(inner.layers[inner.inputs[0].layer].config)
        settings = {"batch_shape": shape}
        listed = [Layer(f"{name}_input", INPUT, "", settings, [], None, ("", None), ""), *listed]
    layers = {layer.name: layer for layer in listed}
    if len(layers) < len(listed):
        raise ModelError(f"the configuration of {name!r} has two layers of one name")
    for before, layer in pairwise(listed):
        layer.calls.append(Call([Ref(before.name, 0, 0)], {}))
    return Graph(name, layers, [Ref(listed[0].name, 0, 0)], [Ref(listed[-1].name, 0, 0)])


def _batch_shape(config: Mapping[str, Any]) -> Any:
    return config.get("batch_shape") or config.get("batch_input_shape")


def input_shape(layer: Layer) -> tuple[int | None, ...]:
    """Shape that an input layer takes, without the batch axis.

    Raises
    ------
    ModelError
        If it has none.
    """
    shape = _batch_shape(layer.config)
    sides = shape[1:] if isinstance(shape, list) else []
    if not sides or not all(side is None or type(side) is int for side in sides):
        raise ModelError(f"input {layer.name!r} says no shape")
    return tuple(sides)


def _ref(layers: Mapping[str, Layer], name: Any, node: Any, tensor: Any, *, old: bool) -> Ref:
    number = int(node)
    layer = layers.get(str(name))
    if old and layer is not None and layer.graph is not None and number > 0:
        number -= 1  # Keras 2 counts the making of a model as its first call
    return Ref(str(name), number, int(tensor))


def _is_old_ref(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and type(value[1]) is int
        and type(value[2]) is int
    )


def _structure(value: Any, layers: Mapping[str, Layer], old: bool) -> Any:
    """Inputs and outputs of a model: lists and dictionaries of ``[layer, node, tensor]``."""
    if _is_old_ref(value):
        return _ref(layers, *value[:3], old=old)
    if isinstance(value, list):
        return [_structure(item, layers, old) for item in value]
    if isinstance(value, dict):
        return [_structure(item, layers, old) for item in value.values()]
    raise ModelError(f"the configuration names outputs {str(value)[:40]!r}, expected layers")


def _call(node: Any, layers: Mapping[str, Layer]) -> Call:
    if isinstance(node, dict):  # Keras 3
        args = _arguments(node.get("args", []), layers)
        kwargs = _arguments(node.get("kwargs", {}), layers)
        return Call(args, {key: value for key, value in kwargs.items() if value is not None})
    if _is_old_ref(node):
        node = [node]
        single = True
    else:
        single = len(node) == 1
    refs: list[Any] = []
    kwargs = {}
    for item in node:
        if item[0] == "_CONSTANT_VALUE":
            refs.append(item[2])
        else:
            refs.append(_ref(layers, *item[:3], old=True))
        for key, value in (item[3] if len(item) > 3 else {}).items():
            if value is not None and key not in ("name", "training", "mask"):
                kwargs[str(key)] = _ref(layers, *value, old=True) if _is_old_ref(value) else value
    return Call(refs if single else [refs], kwargs)


def _arguments(value: Any, layers: Mapping[str, Layer]) -> Any:
    if isinstance(value, list):
        return [_arguments(item, layers) for item in value]
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            return _ref(layers, *value["config"]["keras_history"], old=False)
        return {str(key): _arguments(item, layers) for key, item in value.items()}
    return value


def _leaves(value: Any) -> Iterator[Ref]:
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)


def _parts(file: ModelFile) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """The models that a class of its own was written with, and where their weights are.

    Keras 3 keeps them under the attribute's name, tf-keras as layers; which of
    the two is seen in the weights.
    """
    config = file.config.get("config")
    used: dict[str, int] = {}
    for key, value in config.items() if isinstance(config, dict) else ():
        if isinstance(value, dict) and "class_name" in value:
            listed = _unique(_snake(str(value["class_name"])), used)
            own = f"{key}/layers/"
            here = any(name.startswith(own) for name in file.weights)
            yield str(key), value, f"{key}/" if here else f"layers/{listed}/"
