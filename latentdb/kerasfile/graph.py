"""The graph of layers of a model file, read from its configuration without building a layer.

A configuration is what keras writes: nested dictionaries of functional and
sequential models, in the notation of Keras 3 or of Keras 2.  Nothing here
imports keras, and no name in the file is imported or looked up.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from latentdb.base.errors import ModelError
from latentdb.base.wording import clipped, quoted
from latentdb.kerasfile.container import ModelFile

INPUT = "InputLayer"
_MAX_SUBMODELS = 500
_MAX_DEPTH = 16
_MAX_STEPS = 10_000  # EfficientNetB7 has 800 layers
_MAX_LAYERS = 10_000  # of a file
_MAX_SAME = 300  # nested models and identities between two layers that compute something
_MAX_ENDS = 100  # inputs or outputs of a model
_MAX_SIDE = 1 << 24  # of an input: 4096 x 4096, flattened
_CYCLE = f"has a cycle, or more than {_MAX_STEPS:,} steps"
# Layers whose output at inference is their input.
IDENTITIES = frozenset(
    ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianNoise",
     "GaussianDropout", "AlphaDropout", "ActivityRegularization", "Identity", "RandomFlip",
     "RandomRotation", "RandomZoom", "RandomContrast", "RandomBrightness", "RandomTranslation")
)  # fmt: skip

# Layers that at inference compute what the layer inside them does, and which layers those are.
_WRAPPERS = {
    "SpectralNormalization": frozenset(
        ("Dense", "Conv1D", "Conv2D", "Conv2DTranspose", "SeparableConv2D", "DepthwiseConv2D")
    ),
    "TimeDistributed": frozenset(("Dense", "Activation", "ReLU", "LeakyReLU", "Dropout")),
}
# Layers that keras itself calls so: it makes no difference, or is augmentation.
ALWAYS_TRAIN = frozenset(
    ("Resizing", "CenterCrop", "Rescaling", "RandomFlip", "RandomRotation", "RandomZoom",
     "RandomContrast", "RandomBrightness", "RandomTranslation", "RandomCrop")
)  # fmt: skip


@dataclass(frozen=True)
class Ref:
    """An output of one call of a layer (keras's ``keras_history``)."""

    layer: str
    node: int
    tensor: int


@dataclass(frozen=True, eq=False)
class Call:
    """The arguments of one call of a layer, with a `Ref` in place of each tensor."""

    args: list[Any]
    kwargs: dict[str, Any]

    @cached_property
    def refs(self) -> list[Ref]:
        return list(_leaves([self.args, self.kwargs]))


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer of a configuration.

    Attributes
    ----------
    name, kind, module
        The layer's name, its class, and the module of the class ("" if unknown).
    config
        Its settings.
    calls
        Its calls, in the order of their node numbers.
    graph
        The graph of a nested model; None for other layers.
    weights
        Where its arrays are: a prefix of their names and, in an ``.h5``, the
        layer's name, else None.
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
    def label(self) -> str:
        """Class and name, for messages."""
        return f"{clipped(self.kind)} {quoted(self.name)}"

    @property
    def is_input(self) -> bool:
        return self.kind == INPUT and not self.package


@dataclass(frozen=True, eq=False)
class Graph:
    """A functional or sequential model.

    Attributes
    ----------
    name
        The model's name.
    layers
        Its layers by name.
    inputs, outputs
        Its inputs and outputs as flat lists, in order.
    """

    name: str
    layers: dict[str, Layer]
    inputs: list[Ref]
    outputs: list[Ref]


@dataclass(frozen=True, eq=False)
class Submodel:
    """One use of a graph: the outermost model, or a call of a nested one.

    Attributes
    ----------
    graph
        The graph.
    path
        Names of the models from the outermost in, for messages.
    file_name
        The file, for messages.
    parent, call
        The model that calls this one, and the arguments of that call; None for
        a model by itself.
    children
        The calls inside it, by layer and node (filled by `child`).
    """

    graph: Graph
    path: tuple[str, ...]
    file_name: str
    parent: Submodel | None = None
    call: Call | None = None
    children: dict[tuple[str, int], Submodel] = field(default_factory=dict)


def invalid_config(submodel: Submodel, problem: str) -> ModelError:
    """The error for a configuration that keras would not write."""
    return ModelError(f"{submodel.file_name} is refused: its configuration {problem}")


@dataclass(frozen=True)
class Tensor:
    """A `Ref` and the model it belongs to."""

    submodel: Submodel
    ref: Ref

    @property
    def layer(self) -> Layer:
        layer = self.submodel.graph.layers.get(self.ref.layer)
        if layer is None:
            raise invalid_config(
                self.submodel, f"has no layer {quoted(self.ref.layer)}, but refers to it"
            )
        return layer

    @property
    def label(self) -> str:
        """``model/layer``, without the outermost model."""
        return "/".join((*self.submodel.path[1:], self.ref.layer))

    @property
    def quoted(self) -> str:
        """The label, for messages."""
        return quoted(self.label)


def too_deep(name: str) -> ModelError:
    """The error for a configuration that exhausts Python's stack."""
    return ModelError(f"{name} is refused: its configuration nests too deeply")


class Architecture:
    """The graphs of all models in a file.

    Parameters
    ----------
    file
        The file, read as data.

    Attributes
    ----------
    submodels
        Every use of a model, the outermost first.
    top
        The outermost model; None for a subclass of ``keras.Model``, which
        connects its models in code.
    kind
        Class of the outermost model.

    Raises
    ------
    ModelError
        If the configuration is not one that keras writes.
    """

    def __init__(self, file: ModelFile) -> None:
        self.file = file
        self.submodels: list[Submodel] = []
        self._layers = 0
        config = file.config
        self.kind = str(config.get("class_name"))
        self.top: Submodel | None = None
        try:
            graph = _graph(config, ("", None), file.legacy, 0)
            if graph is not None:
                self.top = Submodel(graph, (graph.name,), file.name)
                self._add(self.top)
                return
            for attribute, model, prefix in _attribute_models(file):
                place = (prefix, attribute if file.legacy else None)
                graph = _graph(model, place, file.legacy, 0)
                if graph is not None:
                    self._add(Submodel(graph, (self.kind, attribute), file.name))
        except RecursionError as error:
            raise too_deep(file.name) from error
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(
                f"{file.name} has a configuration that keras does not write: "
                f"{type(error).__name__} {' '.join(str(error).split())[:100]}"
            ) from error

    def _add(self, submodel: Submodel) -> None:
        self.submodels.append(submodel)
        self._layers += len(submodel.graph.layers)
        if len(self.submodels) > _MAX_SUBMODELS or len(submodel.path) > _MAX_DEPTH:
            raise ModelError(f"{self.file.name} is refused: it nests too many models")
        if self._layers > _MAX_LAYERS:
            raise ModelError(
                f"{self.file.name} is refused: it has more than {_MAX_LAYERS:,} layers"
            )
        for layer in submodel.graph.layers.values():
            if layer.graph is not None and layer.calls:
                self._add(child(submodel, layer, 0))


def child(submodel: Submodel, layer: Layer, node: int) -> Submodel:
    """One call of a nested model."""
    key = (layer.name, node)
    if key not in submodel.children:
        if layer.graph is None or not 0 <= node < len(layer.calls):
            raise invalid_config(submodel, f"has no call {node} of {quoted(layer.name)}")
        path = (*submodel.path, layer.name)
        submodel.children[key] = Submodel(
            layer.graph, path, submodel.file_name, submodel, layer.calls[node]
        )
    return submodel.children[key]


@dataclass(frozen=True)
class Step:
    """How one tensor is computed from others.

    Attributes
    ----------
    tensor
        The result.
    needs
        The tensors it is computed from, in the order of the call.
    action
        ``"input"``, ``"same"`` (the result is the one tensor needed) or ``"layer"``.
    """

    tensor: Tensor
    needs: tuple[Tensor, ...]
    action: str

    @property
    def call(self) -> Call:
        return self.tensor.layer.calls[self.tensor.ref.node]

    @property
    def trains(self) -> bool:
        """Whether a layer is called as in training, where it is random or depends on the batch."""
        layer = self.tensor.layer
        called = layer.calls[self.tensor.ref.node : self.tensor.ref.node + 1]
        return bool(called and called[0].kwargs.get("training")) and layer.kind not in ALWAYS_TRAIN


def step_to(tensor: Tensor) -> Step:
    """The step that computes a tensor."""
    submodel, layer = tensor.submodel, tensor.layer
    if layer.is_input:
        inputs = [ref.layer for ref in submodel.graph.inputs]
        if submodel.parent is None or submodel.call is None or layer.name not in inputs:
            return Step(tensor, (), "input")
        arguments = submodel.call.refs
        position = inputs.index(layer.name)
        if position >= len(arguments):
            raise invalid_config(
                submodel, f"calls {quoted(submodel.graph.name)} with too few inputs"
            )
        return Step(tensor, (Tensor(submodel.parent, arguments[position]),), "same")
    if not 0 <= tensor.ref.node < len(layer.calls):
        raise invalid_config(submodel, f"has no call {tensor.ref.node} of {quoted(layer.name)}")
    call = layer.calls[tensor.ref.node]
    if layer.graph is not None:
        inner = child(submodel, layer, tensor.ref.node)
        if not 0 <= tensor.ref.tensor < len(inner.graph.outputs):
            raise invalid_config(
                submodel, f"has no output {tensor.ref.tensor} of {quoted(layer.name)}"
            )
        return Step(tensor, (Tensor(inner, inner.graph.outputs[tensor.ref.tensor]),), "same")
    needs = tuple(Tensor(submodel, ref) for ref in call.refs)
    if layer.kind in IDENTITIES and is_keras(layer) and len(needs) == 1:
        return Step(tensor, needs, "same")
    return Step(tensor, needs, "layer")


def upstream(targets: Collection[Tensor], cut: Collection[Tensor] = ()) -> list[Step]:
    """The steps that compute some tensors, in topological order.

    Parameters
    ----------
    targets
        The tensors to compute.
    cut
        Tensors that count as inputs: nothing upstream of them is a step.

    Raises
    ------
    ModelError
        If the graph has a cycle, or is larger than any real one.
    """
    done: dict[Tensor, Step] = {}
    pending: set[Tensor] = set()
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
            pending.discard(tensor)
            stack.pop()
            continue
        pushed += len(missing)
        if tensor in pending or pushed > _MAX_STEPS:
            raise invalid_config(tensor.submodel, _CYCLE)
        pending.add(tensor)
        stack.extend(reversed(missing))
    return list(done.values())


def origin(tensor: Tensor) -> Tensor:
    """The tensor itself, behind nested models and layers that are identities at inference."""
    for _ in range(_MAX_SAME):
        step = step_to(tensor)
        if step.action != "same":
            return tensor
        tensor = step.needs[0]
    raise invalid_config(tensor.submodel, _CYCLE)


def is_keras(layer: Layer) -> bool:
    """Whether the configuration names a class of keras itself."""
    root = layer.module.split(".")[0]
    return not layer.package and root in ("", "keras", "tf_keras")


# --- configurations ------------------------------------------------------------------


def _graph(
    entry: Mapping[str, Any], weights: tuple[str, str | None], legacy: bool, depth: int
) -> Graph | None:
    """The graph of a model's configuration; None for a layer, or a model that is in code."""
    config = entry.get("config")
    if depth > _MAX_DEPTH:
        raise ModelError("the configuration nests too many models")
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
        raise ModelError(f"the configuration of {quoted(name)} has two layers of one name")
    old = not any(
        isinstance(node, dict)
        for raw in config["layers"]
        for node in raw.get("inbound_nodes") or ()
    )
    inputs = list(_leaves(_structure(config["input_layers"], layers, old)))
    outputs = list(_leaves(_structure(config["output_layers"], layers, old)))
    if len(inputs) > _MAX_ENDS or not 0 < len(outputs) <= _MAX_ENDS:
        raise ModelError(
            f"the configuration of {quoted(name)} has {len(inputs)} inputs and {len(outputs)} "
            f"outputs: expected 1 to {_MAX_ENDS}"
        )
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
    if len(entries) > _MAX_LAYERS:
        raise ModelError(f"the configuration has more than {_MAX_LAYERS:,} layers")
    used: dict[str, int] = {}
    layers = []
    for entry in entries:
        config = entry.get("config")
        kind, module = str(entry["class_name"]), str(entry.get("module") or "")
        name = str(entry.get("name") or (config.get("name") if isinstance(config, dict) else kind))
        location: tuple[str, str | None] = (prefix, None)
        if legacy:
            location = (top or name, name)
        elif not module.startswith("keras.src.ops"):  # an operation has no weights
            location = (f"{prefix}layers/{_unique(_snake(kind), used)}/", None)
        if kind in _WRAPPERS and isinstance(config, dict):
            wrapped = config.get("layer")
            if isinstance(wrapped, dict) and wrapped.get("class_name") in _WRAPPERS[kind]:
                entry, kind, config = wrapped, str(wrapped["class_name"]), wrapped.get("config")
                location = location if legacy else (f"{location[0]}layer/", None)
        inner = (location[0], location[0] if legacy else None)
        graph = _graph(entry, inner, legacy, depth + 1)
        package, mark, _ = str(entry.get("registered_name") or "").partition(">")
        if not mark or package.lower() == "keras":
            package = ""
        settings = config if isinstance(config, dict) else {}
        layers.append(Layer(name, kind, module, settings, [], graph, location, package))
    return layers


def _snake(name: str) -> str:
    """A class name in snake case, as in the names of a .keras file's arrays."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _unique(name: str, used: dict[str, int]) -> str:
    used[name] = used.get(name, -1) + 1
    return f"{name}_{used[name]}" if used[name] else name


def _sequential(name: str, listed: list[Layer], config: Mapping[str, Any]) -> Graph:
    if not listed:
        raise ModelError(f"the configuration of {quoted(name)} has no layers")
    if not listed[0].is_input:
        shape = listed[0].config.get("batch_input_shape") or config.get("build_input_shape")
        inner = listed[0].graph
        if not shape and inner is not None:
            shape = _batch_shape(inner.layers[inner.inputs[0].layer].config)
        settings = {"batch_shape": shape}
        listed = [Layer(f"{name}_input", INPUT, "", settings, [], None, ("", None), ""), *listed]
    layers = {layer.name: layer for layer in listed}
    if len(layers) < len(listed):
        raise ModelError(f"the configuration of {quoted(name)} has two layers of one name")
    for before, layer in pairwise(listed):
        layer.calls.append(Call([Ref(before.name, 0, 0)], {}))
    return Graph(name, layers, [Ref(listed[0].name, 0, 0)], [Ref(listed[-1].name, 0, 0)])


def _batch_shape(config: Mapping[str, Any]) -> Any:
    return config.get("batch_shape") or config.get("batch_input_shape")


def input_shape(layer: Layer) -> tuple[int | None, ...]:
    """Shape of an input layer, without the batch axis; empty where it takes single numbers.

    Raises
    ------
    ModelError
        If the configuration does not give it.
    """
    shape = _batch_shape(layer.config)
    sides = shape[1:] if isinstance(shape, list) else []
    if not (shape and isinstance(shape, list)) or not all(
        side is None or (type(side) is int and 0 < side <= _MAX_SIDE) for side in sides
    ):
        shown = clipped(list(sides)) if sides else "none"
        raise ModelError(f"input {quoted(layer.name)} has the shape {shown}: expected sizes")
    return tuple(sides)


def _ref(layers: Mapping[str, Layer], name: Any, node: Any, tensor: Any, *, old: bool) -> Ref:
    number = int(node)
    layer = layers.get(str(name))
    if old and layer is not None and layer.graph is not None and number > 0:
        number -= 1  # in Keras 2, node 0 of a model is its construction
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
    """Inputs or outputs of a model: ``[layer, node, tensor]`` in lists and dictionaries."""
    if _is_old_ref(value):
        return _ref(layers, *value[:3], old=old)
    if isinstance(value, list):
        return [_structure(item, layers, old) for item in value]
    if isinstance(value, dict):
        return [_structure(item, layers, old) for item in value.values()]
    raise ModelError(f"the configuration names outputs {quoted(str(value)[:40])}, expected layers")


def _call(node: Any, layers: Mapping[str, Layer]) -> Call:
    if isinstance(node, dict):  # Keras 3
        args = _arguments(node.get("args", []), layers)
        kwargs = _arguments(node.get("kwargs", {}), layers)
        return Call(args, {key: value for key, value in kwargs.items() if value is not None})
    if node and isinstance(node[0], str):  # one layer or constant, not a list of them
        node = [node]
    single = len(node) == 1
    refs: list[Any] = []
    kwargs = {}
    for item in node:
        if item[0] == "_CONSTANT_VALUE":
            refs.append(item[2])
        else:
            refs.append(_ref(layers, *item[:3], old=True))
        for key, value in (item[3] if len(item) > 3 else {}).items():
            if value is not None and key not in ("name", "mask"):
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


def _attribute_models(file: ModelFile) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """The models in the configuration of a ``keras.Model`` subclass.

    Yields the attribute, the model's configuration and the prefix of its
    weights.  Keras 3 names the arrays by attribute, tf-keras by layer: the
    arrays in the file decide.
    """
    config = file.config.get("config")
    used: dict[str, int] = {}
    for key, value in config.items() if isinstance(config, dict) else ():
        if isinstance(value, dict) and "class_name" in value:
            listed = _unique(_snake(str(value["class_name"])), used)
            by_attribute = any(name.startswith(f"{key}/layers/") for name in file.weights)
            yield str(key), value, f"{key}/" if by_attribute else f"layers/{listed}/"
