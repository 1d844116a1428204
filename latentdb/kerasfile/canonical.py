"""What the layers of a model file compute, as data that can be hashed.

Two files have the same canonical configuration if they compute the same from the
same weights: names, initializers, build metadata and layers that do nothing at
inference are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import accumulate
from typing import Any

from latentdb.kerasfile.container import ModelFile
from latentdb.kerasfile.graph import (
    Architecture,
    Layer,
    Ref,
    Step,
    Tensor,
    is_keras,
    too_deep,
    upstream,
)
from latentdb.kerasfile.layers import (
    ALLOWED_LAYERS,
    HARMLESS_VALUES,
    IGNORED_SETTINGS,
    RENAMED_SETTINGS,
)
from latentdb.kerasfile.operations import operation_of, settings_of

_NAMES = frozenset(("name", "trainable", "autocast"))  # in the settings of any object
_METADATA = frozenset(("module", "registered_name", "build_config", "compile_config"))


def canonical(file: ModelFile, outputs: int) -> Any:
    """The computation of the first outputs of a model, as JSON.

    A model that is connected by code has no graph: its whole configuration is
    returned, in which names of layers may occur.

    Parameters
    ----------
    file
        The file, read as data.
    outputs
        How many of its outputs count.

    Raises
    ------
    ModelError
        If the configuration is not one that keras writes.
    """
    try:
        model = Architecture(file)
        if model.top is None:
            return _plain(file.config)
        groups = {
            group
            for path in file.weights
            for group in accumulate(path.split("/")[:-1], "{}/{}".format)
        }
        targets = [Tensor(model.top, ref) for ref in model.top.graph.outputs[:outputs]]
        numbers: dict[Tensor, int] = {}
        described: list[Any] = []
        for step in upstream(targets):
            if step.action == "same":
                numbers[step.tensor] = numbers[step.needs[0]]
            else:
                numbers[step.tensor] = len(described)
                described.append(_describe(step, numbers, groups))
        return [described, [numbers[target] for target in targets]]
    except RecursionError as error:
        raise too_deep(file.name) from error


def output_count(file: ModelFile) -> int | None:
    """How many outputs a model has; None if it is connected by code.

    Raises
    ------
    ModelError
        If the configuration is not one that keras writes.
    """
    top = Architecture(file).top
    return None if top is None else len(top.graph.outputs)


def _describe(step: Step, numbers: Mapping[Tensor, int], groups: Collection[str]) -> Any:
    """What one step computes from the results of others, which are named by number."""
    layer = step.tensor.layer
    if step.action == "input":
        shape = layer.config.get("batch_shape") or layer.config.get("batch_input_shape")
        return ["input", shape[1:] if isinstance(shape, list) else None]

    def argument(value: Any) -> Any:
        if isinstance(value, Ref):
            return {"result": numbers[Tensor(step.tensor.submodel, value)]}
        if isinstance(value, list):
            return [argument(item) for item in value]
        if isinstance(value, dict):
            return {key: argument(item) for key, item in value.items()}
        return value

    kwargs = {key: argument(item) for key, item in step.call.kwargs.items() if item is not False}
    weights = layer.weights if layer.weights[0].rstrip("/") in groups else None
    return [_computation(layer), weights, step.tensor.ref.tensor, argument(step.call.args), kwargs]


def _computation(layer: Layer) -> Any:
    """Class and settings of a layer, or the name of an operation."""
    if is_keras(layer):
        operation = operation_of(layer)
        if operation is not None:
            settings = settings_of(layer)
            return ["operation", operation] + ([settings] if settings else [])
        if layer.kind in ALLOWED_LAYERS:
            return [layer.kind, _settings(layer)]
        return [layer.kind, _plain(_without_names(layer.config))]
    owner = layer.package or layer.module
    return [layer.kind, _plain(_without_names(layer.config)), owner]


def _settings(layer: Layer) -> dict[str, Any]:
    """Settings of a layer that latentdb builds, as far as they determine what it computes."""
    return {
        RENAMED_SETTINGS.get(key, key) if layer.kind == "LeakyReLU" else key: _plain(value)
        for key, value in layer.config.items()
        # A later keras writes more settings: None and False mean that they are not in use.
        if not (value is None or value is False or IGNORED_SETTINGS.fullmatch(key))
        and HARMLESS_VALUES.get(key) != value
        and (key, value) != ("data_format", "channels_last")
    }


def _without_names(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _NAMES}


def _plain(value: Any) -> Any:
    """A setting without the names and the metadata of the objects in it."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "class_name" not in value:
        return {key: _plain(item) for key, item in value.items()}
    kind, config = value["class_name"], value.get("config")
    package, mark, _ = str(value.get("registered_name") or "").partition(">")
    owner = package if mark and package.lower() != "keras" else None
    if kind == "DTypePolicy" and isinstance(config, dict):
        return config.get("name")
    if kind == "function" and owner is None:
        return config
    rest = {key: item for key, item in value.items() if key not in _METADATA | {"config"}}
    inner = _without_names(config) if isinstance(config, dict) else config
    return {**{key: _plain(item) for key, item in rest.items()}, "owner": owner,
            "config": _plain(inner)}  # fmt: skip
