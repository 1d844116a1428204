"""What is accepted as a compiled model: forged files are refused before a runtime parses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentdb.base.errors import ModelError
from latentdb.onnx.inspect import MAX_FIELDS, inspect

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def network() -> Any:
    """``y = relu(x @ w)`` with a fingerprint in its metadata."""
    weights = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 4])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.add(key="fingerprint", value="abc")
    return model


def test_a_plain_network_passes() -> None:
    found = inspect(network().SerializeToString(), "it")
    assert found.operators == {"MatMul", "Relu"}
    assert found.fingerprint == "abc"


def external(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def external_without_the_mark(model: Any) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="weights.bin")


def external_in_a_constant(model: Any) -> None:
    tensor = TensorProto(name="c", dims=[4], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def marked_external(model: Any) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def other_domain(model: Any) -> None:
    model.graph.node[1].domain = "com.microsoft"


def other_opset(model: Any) -> None:
    model.opset_import.append(helper.make_opsetid("my.ops", 1))


def own_function(model: Any) -> None:
    model.functions.append(
        helper.make_function("", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [])
    )


def loop(model: Any) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["z"], body=body))


def graph_in_a_plain_operator(model: Any) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node[1].attribute.append(helper.make_attribute("body", body))


def random_numbers(model: Any) -> None:
    model.graph.node.append(helper.make_node("RandomNormalLike", ["x"], ["z"]))


def sparse(model: Any) -> None:
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(dims=[1]))


def training(model: Any) -> None:
    model.training_info.add()


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (external, "weights in another file"),
        (external_without_the_mark, "weights in another file"),
        (external_in_a_constant, "weights in another file"),
        (marked_external, "weights in another file"),
        (other_domain, "needs operators of 'com.microsoft'"),
        (other_opset, "needs operators of 'my.ops'"),
        (own_function, "custom operators"),
        (loop, "operator 'Loop' is not on the list|a graph inside"),
        (graph_in_a_plain_operator, "a graph inside an operator"),
        (random_numbers, "operator 'RandomNormalLike' is not on the list"),
        (sparse, "its graph has the unknown field 15"),
        (training, "it has training"),
    ],
)
def test_what_is_not_a_plain_network_is_refused(forge: Callable[[Any], None], message: str) -> None:
    model = network()
    forge(model)
    with pytest.raises(ModelError, match=f"it is not a usable compiled model.*({message})"):
        inspect(model.SerializeToString(), "it")


def test_a_second_graph_is_inspected_too() -> None:
    # Protobuf merges messages that occur twice.
    model, other = network(), network()
    random_numbers(other)
    with pytest.raises(ModelError, match="RandomNormalLike"):
        inspect(model.SerializeToString() + other.SerializeToString(), "it")


def test_many_tiny_fields_are_refused_early() -> None:
    with pytest.raises(ModelError, match=f"more than {MAX_FIELDS:,} fields"):
        inspect(b"\x08\x08" * (MAX_FIELDS + 1), "it")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x3a\xff\x01", "truncated"),
        (b"\x08", "truncated"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x00\x00", "invalid field number 0"),
        (b"\x38\x01", "field 7 of its model has the wrong type"),
        (b"\x08" + b"\xff" * 11, "more than ten bytes"),
        (b"\x42\x03\x0a\x01\xff", "can't decode"),
    ],
)
def test_what_is_no_protobuf_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        inspect(data, "it")


@given(st.binary(max_size=60), st.integers(0, 400))
def test_damage_gives_an_error_of_latentdb_or_none(extra: bytes, offset: int) -> None:
    data = network().SerializeToString()
    offset = min(offset, len(data))
    try:
        found = inspect(data[:offset] + extra + data[offset:], "it")
    except ModelError:
        return
    assert found.operators <= {"MatMul", "Relu"}
