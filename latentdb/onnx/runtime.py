"""Run a compiled half of a model, without tensorflow.

ONNX Runtime runs it in float32; OpenVINO runs the same file in bf16, where the
processor has that.  Chosen by measurement: see the README.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from latentdb.base.cores import core_count
from latentdb.base.errors import MissingExtraError, ModelError
from latentdb.onnx.inspect import inspect

FLOAT32, BF16 = "float32", "bf16"
PRECISIONS = (FLOAT32, BF16)
# Images a thread takes at a time.  Measured with 8 to 256 at 32 and 64 px: 16 to 64
# are alike, and more no longer fit into the caches.
CHUNK = 32
MAX_BYTES = 16 << 30  # of arrays, or half of the memory: a forged file fails instead of taking more

Floats = NDArray[np.float32]
Part = TypeVar("Part")


def is_available() -> bool:
    """Whether the extra ``fast`` is installed."""
    return _is_installed("onnxruntime")


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def check_precision(precision: str) -> None:
    """Refuse a precision that cannot be computed here.

    Raises
    ------
    MissingExtraError
        If it needs OpenVINO, which is not installed.
    ModelError
        If the processor does not have it.
    """
    if precision == FLOAT32:
        return
    if precision != BF16:
        raise ModelError(f"precision {precision!r} is unknown: use one of {PRECISIONS}")
    if not _is_installed("openvino"):
        raise MissingExtraError("encoding in bf16", "bf16")
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ModelError("this processor has no bf16: use --precision float32")


class CompiledNetwork:
    """An encoder or a decoder in its compiled form.

    Called with float32 ``[n, ...]`` it gives the list of its outputs, in the
    calling thread; `spread` does many on all cores.

    Parameters
    ----------
    data
        An .onnx file.
    name
        What an error calls it.
    fingerprint
        Of the half that it was compiled from: another one is refused.
    precision
        ``"float32"`` or ``"bf16"``.

    Raises
    ------
    ModelError
        If the file holds what is not allowed, is of another model, or cannot
        be run.
    """

    def __init__(
        self, data: bytes, name: str, *, fingerprint: str, precision: str = FLOAT32
    ) -> None:
        found = inspect(data, name).fingerprint
        if found != fingerprint:
            raise ModelError(
                f"{name} was compiled from a model with fingerprint {found}, "
                f"this one has {fingerprint}"
            )
        check_precision(precision)
        self.precision = precision
        try:
            self._run = _onnxruntime(data) if precision == FLOAT32 else _openvino(data)
        except Exception as error:  # whatever a runtime raised
            told = " ".join(str(error).split())[:200]
            raise ModelError(f"{name} cannot be run: {told}") from error
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, values: Floats) -> list[Floats]:
        try:
            return self._run(np.ascontiguousarray(values, np.float32))
        except Exception as error:  # whatever a runtime raised
            told = " ".join(str(error).split())[:300]
            raise ModelError(
                f"the compiled model fails on input of shape {values.shape}: {told}"
            ) from error

    def spread(self, work: Callable[[slice], Part], length: int) -> Iterator[Part]:
        """Do work on parts of `length` items, on all cores; give the results in order.

        Cores run different parts: that leaves none of them waiting for the
        others in the middle of a network, and what is done before and after it
        is spread as well.
        """
        parts = [slice(start, start + CHUNK) for start in range(0, length, CHUNK)]
        if len(parts) < 2 or core_count() < 2:
            return map(work, parts)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(core_count(), thread_name_prefix="latentdb-engine")
        return self._pool.map(work, parts)


def _onnxruntime(data: bytes) -> Callable[[Floats], list[Floats]]:
    """A function that runs an .onnx file in float32, in the thread that calls it."""
    import onnxruntime

    memory = onnxruntime.OrtMemoryInfo(
        "Cpu",
        onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
        0,
        onnxruntime.OrtMemType.DEFAULT,
    )
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    limits = onnxruntime.OrtArenaCfg({"max_mem": min(half, MAX_BYTES)})
    onnxruntime.create_and_register_allocator(memory, limits)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised as well
    options.add_session_config_entry("session.use_env_allocators", "1")
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise ModelError(f"it has {len(inputs)} inputs")
    name = inputs[0].name

    def run(values: Floats) -> list[Floats]:
        return [np.asarray(part, np.float32) for part in session.run(None, {name: values})]

    return run


def _openvino(data: bytes) -> Callable[[Floats], list[Floats]]:
    """A function that runs an .onnx file in bf16, from as many threads as there are cores."""
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "NUM_STREAMS": str(core_count()),
        "INFERENCE_NUM_THREADS": str(core_count()),
    }
    compiled = core.compile_model(core.read_model(data), "CPU", settings)
    shape = [size.get_length() if size.is_static else 1 for size in compiled.input(0).partial_shape]
    # Once in this thread: OpenVINO 2026.4 hangs where two threads are the first to hand it
    # arrays (each holds a lock of its own and waits for that of the other).
    compiled.create_infer_request().infer({0: np.zeros(shape, np.float32)})
    own: Any = threading.local()

    def run(values: Floats) -> list[Floats]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        answer = own.request.infer({0: values})
        return [np.array(answer[port], np.float32) for port in compiled.outputs]

    return run
