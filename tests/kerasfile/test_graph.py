"""Graphs of layers in the notation of Keras 3 and of Keras 2, walked back from an output."""

from __future__ import annotations

import math
from typing import Any

import pytest

from latentdb.base.errors import ModelError
from latentdb.kerasfile.container import ModelFile, Weights
from latentdb.kerasfile.graph import (
    Architecture,
    Ref,
    Tensor,
    input_shape,
    origin,
    upstream,
)


def layer(kind: str, name: str, *before: str | tuple[str, int, int], **settings: Any) -> Any:
    """A layer of Keras 3 that was called once, on the outputs of others."""
    refs = [one if isinstance(one, tuple) else (one, 0, 0) for one in before]
    tensors = [
        {"class_name": "__keras_tensor__", "config": {"keras_history": list(ref)}} for ref in refs
    ]
    args = [tensors] if len(tensors) > 1 else tensors
    nodes = [{"args": args, "kwargs": {"mask": None}}] if before else []
    config = {"name": name, **settings}
    return {"class_name": kind, "module": "keras.layers", "config": config, "name": name,
            "inbound_nodes": nodes}  # fmt: skip


def entry(name: str = "x", *sides: int | None) -> Any:
    return layer("InputLayer", name, batch_shape=[None, *(sides or (8, 8, 1))])


def model(name: str, layers: list[Any], outputs: list[str], inputs: str = "x") -> dict[str, Any]:
    config = {
        "name": name,
        "layers": layers,
        "input_layers": [[inputs, 0, 0]],
        "output_layers": [[out, 0, 0] for out in outputs],
    }
    return {"class_name": "Functional", "module": "keras", "config": config, "name": name}


def nested(inner: dict[str, Any], *before: str) -> Any:
    return {**inner, "inbound_nodes": layer("", "", *before)["inbound_nodes"]}


def read(config: dict[str, Any], *, legacy: bool = False) -> Architecture:
    return Architecture(ModelFile("it", config, Weights(b"", {}), legacy))


def names(steps: Any) -> list[str]:
    return [f"{step.action} {step.tensor.label}" for step in steps]


def encoder() -> dict[str, Any]:
    layers = [
        entry(),
        layer("Flatten", "flat", "x"),
        layer("Dropout", "drop", "flat"),
        layer("Dense", "z_mean", "drop"),
        layer("Dense", "z_log_var", "drop"),
        layer("Sampling", "z", "z_mean", "z_log_var"),
    ]
    return model("encoder", layers, ["z_mean", "z_log_var", "z"])


def whole() -> dict[str, Any]:
    decoder = model("decoder", [entry("z_in", 4), layer("Dense", "pixels", "z_in")], ["pixels"],
                    "z_in")  # fmt: skip
    top = [entry("image"), nested(encoder(), "image"), nested(decoder, ("encoder", 0, 2))]
    return model("vae", top, ["decoder"], "image")


def test_the_walk_back_omits_what_is_downstream_and_identities() -> None:
    top = read(encoder()).top
    assert top is not None
    steps = names(upstream([Tensor(top, top.graph.outputs[0])]))
    assert steps == ["input x", "layer flat", "same drop", "layer z_mean"]


def test_the_walk_back_goes_through_nested_models() -> None:
    top = read(whole()).top
    assert top is not None
    image = Tensor(top, top.graph.outputs[0])
    assert origin(image).label == "decoder/pixels"
    steps = names(upstream([image]))
    assert steps[0] == "input image"
    assert steps[-2:] == ["layer decoder/pixels", "same decoder"]
    assert "layer encoder/z" in steps


def test_a_cut_is_where_the_walk_ends() -> None:
    top = read(whole()).top
    assert top is not None
    encoder = top.children[("encoder", 0)]
    steps = names(upstream([Tensor(top, top.graph.outputs[0])], [Tensor(encoder, Ref("z", 0, 0))]))
    assert steps[0] == "input encoder/z"
    assert "input image" not in steps


def test_keras_2_counts_the_construction_of_a_model() -> None:
    """Its first call in a graph is node 1; notation ``[[[layer, node, tensor, {}]]]``."""

    def old(kind: str, name: str, *before: list[Any], **settings: Any) -> Any:
        node = [[[*one, {}] for one in before]] if before else []
        return {"class_name": kind, "config": {"name": name, **settings}, "name": name,
                "inbound_nodes": node}  # fmt: skip

    inner = [old("InputLayer", "a", batch_input_shape=[None, 4]), old("Dense", "d", ["a", 0, 0])]
    part = {"class_name": "Model", "name": "part", "inbound_nodes": [[["x", 0, 0, {}]]],
            "config": {"name": "part", "layers": inner, "input_layers": [["a", 0, 0]],
                       "output_layers": [["d", 0, 0]]}}  # fmt: skip
    last = old("Add", "sum", ["part", 1, 0], ["x", 0, 0])
    first = old("InputLayer", "x", batch_input_shape=[None, 4])
    config = {"name": "m", "layers": [first, part, last],
              "input_layers": [["x", 0, 0]], "output_layers": [["sum", 0, 0]]}  # fmt: skip
    top = read({"class_name": "Model", "config": config}, legacy=True).top
    assert top is not None
    steps = names(upstream([Tensor(top, top.graph.outputs[0])]))
    assert steps == ["input x", "same part/a", "layer part/d", "same part", "layer sum"]
    step = upstream([Tensor(top, top.graph.outputs[0])])[-1]
    assert [need.ref.layer for need in step.needs] == ["part", "x"]


def test_numbers_in_a_call_are_arguments() -> None:
    node = ["x", 0, 0, {"y": 255.0, "name": None}]
    layers = [
        {"class_name": "InputLayer", "config": {"name": "x", "batch_input_shape": [None, 4]},
         "name": "x", "inbound_nodes": []},
        {"class_name": "TFOpLambda", "config": {"name": "t", "function": "math.truediv"},
         "name": "t", "inbound_nodes": [node]},
    ]  # fmt: skip
    top = read(model("m", layers, ["t"]), legacy=True).top
    assert top is not None
    call = top.graph.layers["t"].calls[0]
    assert (call.args, call.kwargs) == ([Ref("x", 0, 0)], {"y": 255.0})


def test_a_sequential_model_may_lack_its_input() -> None:
    first = {"class_name": "Dense", "config": {"name": "d", "batch_input_shape": [None, 9]}}
    for config in ({"name": "s", "layers": [first]}, [first]):  # Keras 2.2 had a list
        top = read({"class_name": "Sequential", "config": config}).top
        assert top is not None
        start = upstream([Tensor(top, top.graph.outputs[0])])[0].tensor
        assert input_shape(start.layer) == (9,)


def test_weights_are_named_by_class_in_order() -> None:
    layers = [entry(), layer("Conv2D", "a", "x"), layer("PReLU", "b", "a"),
              layer("Conv2D", "c", "b"), layer("Conv2DTranspose", "d", "c")]  # fmt: skip
    operation = layer("Add", "plus", "d", "d")
    operation["module"] = "keras.src.ops.numpy"
    top = read(model("m", [*layers, operation, layer("Add", "e", "plus", "d")], ["e"])).top
    assert top is not None
    prefixes = {one.name: one.weights[0] for one in top.graph.layers.values()}
    assert prefixes["a"] == "layers/conv2d/"
    assert prefixes["b"] == "layers/p_re_lu/"
    assert prefixes["c"] == "layers/conv2d_1/"
    assert prefixes["d"] == "layers/conv2d_transpose/"
    assert prefixes["e"] == "layers/add/"


def test_models_in_the_settings_of_a_subclass_are_found() -> None:
    held = {"class_name": "VAE", "config": {"encoder": encoder(), "beta": 1}}
    found = read(held)
    assert found.top is None
    assert [submodel.path for submodel in found.submodels] == [("VAE", "encoder")]
    assert read({"class_name": "VAE", "config": {"name": "vae"}}).submodels == []


def cycle() -> dict[str, Any]:
    return model("m", [entry(), layer("Add", "a", "b"), layer("Add", "b", "a")], ["a"])


def deep() -> dict[str, Any]:
    made = model("m", [entry()], ["x"])
    for _ in range(40):
        made = model("m", [entry(), nested(made, "x")], ["m"])
    return made


def missing() -> dict[str, Any]:
    return model("m", [entry(), layer("Dense", "a", "absent")], ["a"])


def twice() -> dict[str, Any]:
    return model("m", [entry(), layer("Dense", "x", "x")], ["x"])


def deep_argument() -> dict[str, Any]:
    value: list[Any] = []
    for _ in range(900):
        value = [value]
    dense = layer("Dense", "d", "x")
    dense["inbound_nodes"][0]["kwargs"] = {"a": value}
    return model("m", [entry(), dense], ["d"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (deep_argument, "configuration nests too deeply"),
        (cycle, "has a cycle"),
        (deep, "nests too many models"),
        (missing, "has no layer 'absent', but refers to it"),
        (twice, "two layers of one name"),
        (lambda: model("m", [{"config": {}}], []), "keras does not write: KeyError"),
        (lambda: model("m", ["text"], []), "keras does not write"),
        (lambda: model("m", [layer("Dense", "a", ("x", math.inf, 0))], ["a"]), "OverflowError"),
        (lambda: model("m", [entry(), layer("Dense", "a", ("x", 5, 0))], ["a"]), None),
    ],
)
def test_invalid_configurations_are_refused(make: Any, message: str | None) -> None:
    def walk() -> None:
        top = read(make()).top
        assert top is not None
        upstream([Tensor(top, top.graph.outputs[0])])

    if message is None:
        walk()  # an input has one output, whatever its number
    else:
        with pytest.raises(ModelError, match=message):
            walk()
