"""What is accepted as a compiled model: forged files are refused before a runtime parses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentdb.base.errors import ModelError
from latentdb.onnx.inspect import MAX_FIELDS, inspect, rewrite

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
    with pytest.raises(ModelError, match=f"it is not a usable ONNX model.*({message})"):
        inspect(model.SerializeToString(), "it")


def test_a_second_graph_is_inspected_too() -> None:
    # Protobuf merges messages that occur twice.
    model, other = network(), network()
    random_numbers(other)
    with pytest.raises(ModelError, match="RandomNormalLike"):
        inspect(model.SerializeToString() + other.SerializeToString(), "it")


def test_a_second_graph_is_refused() -> None:
    data = network().SerializeToString()
    with pytest.raises(ModelError, match="it has 2 format versions, expected 1"):
        inspect(data + data, "it")
    second = onnx.ModelProto(graph=network().graph).SerializeToString()
    with pytest.raises(ModelError, match="it has 2 graphs, expected 1"):
        inspect(data + second, "it")


def test_a_model_without_a_graph_is_refused() -> None:
    model = network()
    model.ClearField("graph")
    with pytest.raises(ModelError, match="it has 0 graphs, expected 1"):
        inspect(model.SerializeToString(), "it")
    with pytest.raises(ModelError, match="it has 0 format versions, expected 1"):
        inspect(b"", "it")


def test_a_file_of_two_formats_is_refused() -> None:
    # Producer "ORTM" at byte 4: valid protobuf, and a flatbuffer for ONNX Runtime.
    model = network()
    model.producer_name = "ORTM"
    data = model.SerializeToString()
    assert data[4:8] == b"ORTM"
    with pytest.raises(ModelError, match="it is a file in the format of ONNX Runtime too"):
        inspect(data, "it")


def test_a_runtime_gets_the_network_alone_written_anew() -> None:
    model = network()
    model.producer_name, model.doc_string, model.graph.doc_string = "me", "ORTM", "ORTM"
    model.graph.node[0].doc_string = "ORTM"
    data = model.SerializeToString()
    found, plain = rewrite(data, "it")
    assert found == inspect(data, "it")
    assert b"ORTM" not in plain
    assert plain[:1] == b"\x08"
    read = onnx.ModelProto.FromString(plain)
    assert read == onnx.ModelProto(
        ir_version=8, opset_import=model.opset_import, graph=network().graph
    )
    assert rewrite(plain, "it")[1] == plain
    # A long encoding of the format version is written in the short one.
    assert rewrite(b"\x08\x88\x80\x00" + plain[2:], "it")[1] == plain


def test_negative_numbers_are_written_as_protobuf_does() -> None:
    model = network()
    model.graph.node[1].attribute.append(helper.make_attribute("axis", -1))
    _, plain = rewrite(model.SerializeToString(), "it")
    assert onnx.ModelProto.FromString(plain).graph == model.graph


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
