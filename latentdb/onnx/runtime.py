"""Run a compiled encoder or decoder without tensorflow.

ONNX Runtime runs it in float32; OpenVINO runs the same file in bf16 where the
processor supports that.  `scripts/bench_engine` compares them.
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
from latentdb.onnx.inspect import rewrite

FLOAT32, BF16 = "float32", "bf16"
PRECISIONS = (FLOAT32, BF16)
# Images one thread processes at a time.  Measured with 8 to 256 at 32 and 64 px: 16 to 64
# are equally fast, more do not fit into the caches.
CHUNK = 32
# Bytes of arrays (or half of the physical memory): a forged file fails instead of using it all.
MAX_BYTES = 16 << 30

Floats = NDArray[np.float32]
Result = TypeVar("Result")


def is_available() -> bool:
    """Whether ONNX Runtime (of the extra ``fast``) is installed."""
    return _is_installed("onnxruntime")


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def check_precision(precision: str) -> None:
    """Refuse a precision that this machine cannot compute in.

    Raises
    ------
    MissingExtraError
        If it needs OpenVINO, which is not installed.
    ModelError
        If it is unknown, or the processor does not support it.
    """
    if precision == FLOAT32:
        return
    if precision != BF16:
        raise ModelError(f"precision {precision!r} is unknown: use one of {', '.join(PRECISIONS)}")
    if not _is_installed("openvino"):
        raise MissingExtraError("encoding in bf16", "bf16")
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ModelError("this processor has no bf16: use precision float32")


class CompiledNetwork:
    """A compiled encoder or decoder.

    Called with float32 ``[n, ...]`` it returns the list of its outputs,
    computed in the calling thread; `map_chunks` uses all cores.

    Parameters
    ----------
    data
        An .onnx file.
    name
        Its name in error messages.
    fingerprint
        Of the encoder or decoder it must have been compiled from; None for a file that is
        the model itself.
    precision
        ``"float32"`` or ``"bf16"``.

    Raises
    ------
    ModelError
        If the file holds something that is not allowed, was compiled from
        another model, or cannot be run.
    """

    def __init__(
        self, data: bytes, name: str, *, fingerprint: str | None = None, precision: str = FLOAT32
    ) -> None:
        found, plain = rewrite(data, name)
        if fingerprint is not None and found.fingerprint != fingerprint:
            raise ModelError(
                f"{name} was compiled from a model with fingerprint {found.fingerprint}, "
                f"this one has {fingerprint}"
            )
        check_precision(precision)
        self.precision = precision
        try:
            self._run = _onnxruntime(plain) if precision == FLOAT32 else _openvino(plain)
        except Exception as error:  # the runtimes raise many types
            raise ModelError(f"{name} cannot be run: {_one_line(error)}") from error
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, values: Floats) -> list[Floats]:
        try:
            return self._run(np.ascontiguousarray(values, np.float32))
        except Exception as error:  # the runtimes raise many types
            raise ModelError(
                f"the ONNX model fails on input of shape {values.shape}: {_one_line(error)}"
            ) from error

    def map_chunks(self, work: Callable[[slice], Result], length: int) -> Iterator[Result]:
        """Results of `work` on slices that cover `length` items, in order, using all cores.

        Each core processes other slices: no core waits for another within a
        network, and pre- and post-processing inside `work` run in parallel too.
        """
        chunks = [slice(start, start + CHUNK) for start in range(0, length, CHUNK)]
        if len(chunks) < 2 or core_count() < 2:
            return map(work, chunks)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(core_count(), thread_name_prefix="latentdb-onnx")
        return self._pool.map(work, chunks)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _onnxruntime(data: bytes) -> Callable[[Floats], list[Floats]]:
    """A function that runs an .onnx file in float32, in the calling thread."""
    import onnxruntime

    memory = onnxruntime.OrtMemoryInfo(
        "Cpu",
        onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
        0,
        onnxruntime.OrtMemType.DEFAULT,
    )
    half_of_memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    limits = onnxruntime.OrtArenaCfg({"max_mem": min(half_of_memory, MAX_BYTES)})
    onnxruntime.create_and_register_allocator(memory, limits)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # fatal only: errors are raised as well
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.load_model_format", "ONNX")  # else its bytes decide
    # A fallback would run the same provider again, and say so on stdout.
    session = onnxruntime.InferenceSession(
        data, options, providers=["CPUExecutionProvider"], enable_fallback=0
    )
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise ModelError(f"it has {len(inputs)} inputs, expected 1")
    name = inputs[0].name

    def run(values: Floats) -> list[Floats]:
        return [np.asarray(output, np.float32) for output in session.run(None, {name: values})]

    return run


def _openvino(data: bytes) -> Callable[[Floats], list[Floats]]:
    """A function that runs an .onnx file in bf16; as many threads as cores may call it at once."""
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "NUM_STREAMS": str(core_count()),
        "INFERENCE_NUM_THREADS": str(core_count()),
    }
    compiled = core.compile_model(core.read_model(data), "CPU", settings)
    shape = [size.get_length() if size.is_static else 1 for size in compiled.input(0).partial_shape]
    # A first run in this thread: OpenVINO 2026.4 deadlocks where two threads are the first to
    # pass it arrays (each holds one lock and waits for the other's).
    compiled.create_infer_request().infer({0: np.zeros(shape, np.float32)})
    local: Any = threading.local()

    def run(values: Floats) -> list[Floats]:
        if not hasattr(local, "request"):
            local.request = compiled.create_infer_request()
        outputs = local.request.infer({0: values})
        return [np.array(outputs[port], np.float32) for port in compiled.outputs]

    return run
