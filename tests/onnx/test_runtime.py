"""Running a compiled network: threads, precision, and files that are not to be run."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from latentdb.base.errors import MissingExtraError, ModelError
from latentdb.onnx import runtime

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RANDOM = np.random.default_rng(5)
WEIGHTS = RANDOM.normal(size=(6, 3)).astype(np.float32)


def network(*, pad: int = 0, inputs: int = 1, width: int = 6) -> bytes:
    """``y = tanh(x @ w)``, and ``x`` padded by so many zeros as a second output."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["y"]),
        helper.make_node("Pad", ["x", "p"], ["z"]),
    ]
    number: Any = TensorProto.FLOAT
    more = [helper.make_tensor_value_info(f"x{n}", number, [None]) for n in range(1, inputs)]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", number, [None, width]), *more],
        [helper.make_tensor_value_info(name, number, None) for name in "yz"],
        [
            numpy_helper.from_array(WEIGHTS[:width], "w"),
            numpy_helper.from_array(np.array([0, 0, 0, pad], np.int64), "p"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.add(key="fingerprint", value="abc")
    data: bytes = model.SerializeToString()
    return data


def test_a_network_gives_the_outputs_in_order() -> None:
    compiled = runtime.CompiledNetwork(network(), "it", fingerprint="abc")
    batch = RANDOM.normal(size=(7, 6)).astype(np.float32)
    first, second = compiled(batch)
    assert np.allclose(first, np.tanh(batch @ WEIGHTS), atol=1e-6)
    assert first.dtype == np.float32
    assert np.array_equal(second, batch)


def test_a_network_that_is_refused_leaves_stdout_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """A command prints one JSON document there; ONNX Runtime printed that it tries again."""
    data = network().replace(b"\x0a\x01h", b"\x0a\x01\x98")  # a name that is not UTF-8
    with pytest.raises(ModelError, match="it cannot be run"):
        runtime.CompiledNetwork(data, "it", fingerprint="abc")
    assert capfd.readouterr().out == ""


def test_a_slice_that_is_not_contiguous_is_accepted() -> None:
    compiled = runtime.CompiledNetwork(network(), "it", fingerprint="abc")
    batch = RANDOM.normal(size=(6, 8)).astype(np.float32)
    assert np.allclose(compiled(batch.T)[0], np.tanh(batch.T @ WEIGHTS), atol=1e-6)


@pytest.mark.parametrize("length", [0, 1, runtime.CHUNK, runtime.CHUNK + 1, 5 * runtime.CHUNK + 3])
def test_chunks_come_back_in_order(length: int) -> None:
    compiled = runtime.CompiledNetwork(network(), "it", fingerprint="abc")
    batch = RANDOM.normal(size=(length, 6)).astype(np.float32)

    def work(part: slice) -> np.ndarray:
        if part.start == 0:
            time.sleep(0.02)  # the first part is the last to be done
        return compiled(batch[part])[0]

    parts = list(compiled.map_chunks(work, length))
    joined = np.concatenate([np.empty((0, 3), np.float32), *parts])
    assert np.allclose(joined, np.tanh(batch @ WEIGHTS), atol=1e-6)


def test_an_error_in_a_part_is_raised() -> None:
    compiled = runtime.CompiledNetwork(network(), "it", fingerprint="abc")

    def work(part: slice) -> None:
        raise ModelError(f"part {part.start}")

    with pytest.raises(ModelError, match="part 0"):
        list(compiled.map_chunks(work, 4 * runtime.CHUNK))


def test_a_file_of_another_model_is_refused() -> None:
    with pytest.raises(ModelError, match="from a model with fingerprint abc, this one has def"):
        runtime.CompiledNetwork(network(), "it", fingerprint="def")


def test_a_file_that_cannot_run_is_refused() -> None:
    with pytest.raises(ModelError, match="it cannot be run: "):
        runtime.CompiledNetwork(network(width=9), "it", fingerprint="abc")
    with pytest.raises(ModelError, match="it cannot be run: it has 2 inputs"):
        runtime.CompiledNetwork(network(inputs=2), "it", fingerprint="abc")


def test_the_runtime_is_told_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    seen: list[tuple[bytes, str]] = []
    session = onnxruntime.InferenceSession

    def record(data: bytes, options: Any, **rest: Any) -> Any:
        seen.append((data, options.get_session_config_entry("session.load_model_format")))
        return session(data, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    runtime.CompiledNetwork(network(), "it", fingerprint="abc")
    assert [(data != network(), stated) for data, stated in seen] == [(True, "ONNX")]


def test_a_file_that_wants_all_memory_fails_instead() -> None:
    compiled = runtime.CompiledNetwork(
        network(pad=1 << 33), "it", fingerprint="abc"
    )  # 32 GiB of zeros
    with pytest.raises(ModelError, match=r"the ONNX model fails.*memory"):
        compiled(np.zeros((1, 6), np.float32))


def test_input_of_another_shape_is_an_error_of_latentdb() -> None:
    compiled = runtime.CompiledNetwork(network(), "it", fingerprint="abc")
    with pytest.raises(ModelError, match="the ONNX model fails"):
        compiled(np.zeros((1, 5), np.float32))


def test_precisions_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime.check_precision("float32")
    with pytest.raises(ModelError, match="precision 'fp8' is unknown: use one of"):
        runtime.check_precision("fp8")
    monkeypatch.setattr(runtime, "_is_installed", lambda name: name != "openvino")
    with pytest.raises(MissingExtraError, match=r"pip install 'latentdb\[bf16\]'"):
        runtime.check_precision("bf16")


def test_bf16_is_near_to_float32_and_not_the_same() -> None:
    openvino = pytest.importorskip("openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(ModelError, match="this processor has no bf16"):
            runtime.check_precision("bf16")
        return
    compiled = runtime.CompiledNetwork(network(), "it", fingerprint="abc", precision="bf16")
    batch = RANDOM.normal(size=(70, 6)).astype(np.float32)
    expected = np.tanh(batch @ WEIGHTS)
    parts = list(compiled.map_chunks(lambda part: compiled(batch[part])[0], len(batch)))
    worst = np.abs(np.concatenate(parts) - expected).max()
    assert 1e-5 < worst < 0.05
