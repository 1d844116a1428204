"""Import keras late and quietly; load and save models with it."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


class _StderrCapture:
    """File descriptor 2 is the whole process's: uses that overlap share one capture."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._failed = False
        self._saved = -1
        self._buffer: IO[bytes] | None = None

    def begin(self) -> None:
        with self._lock:
            if not self._users:
                try:
                    self._saved = os.dup(2)
                except OSError:  # there is none, as in a daemon
                    self._buffer = None
                else:
                    self._buffer = tempfile.TemporaryFile()  # noqa: SIM115  closed by `end`
                    os.dup2(self._buffer.fileno(), 2)
            self._users += 1

    def end(self, *, failed: bool) -> None:
        with self._lock:
            self._users -= 1
            self._failed |= failed
            if self._users or self._buffer is None:
                return
            os.dup2(self._saved, 2)
            os.close(self._saved)
            with self._buffer as buffer:
                if self._failed:
                    buffer.seek(0)
                    os.write(2, buffer.read())
            self._buffer, self._failed = None, False


_capture = _StderrCapture()
_random_lock = threading.RLock()


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what is written to stderr, and write it only if the body raises.

    tensorflow 2.21 logs several lines to file descriptor 2 when it is imported,
    and no setting turns them off.  What other threads write meanwhile is held
    back too, so the body is short.  Of uses that overlap, the last to end
    restores stderr.
    """
    _capture.begin()
    try:
        yield
    except BaseException as error:
        # Ctrl-C is no failure that the lines would explain.
        _capture.end(failed=isinstance(error, Exception))
        raise
    _capture.end(failed=False)


@contextmanager
def restored_random(seed: int | None = None) -> Iterator[None]:
    """Restore Python's generator afterwards; with a seed, seed it first.

    Keras draws from it, the whole process's, a seed for every initial weight.
    """
    with _random_lock:
        state = random.getstate()
        if seed is not None:
            random.seed(seed)
        try:
            yield
        finally:
            random.setstate(state)


def load_keras() -> Any:
    """The keras module, imported with latentdb's layers and without tensorflow's log lines."""
    if "latentdb.kerasfile.sampling" not in sys.modules:
        with quiet_stderr():
            import latentdb.kerasfile.sampling  # noqa: F401  registers Sampling
    import keras

    return keras


def latentdb_layers() -> dict[str, Any]:
    """latentdb's layer classes by name."""
    load_keras()
    from latentdb.kerasfile.sampling import Sampling

    return {"Sampling": Sampling}


def save(model: Any) -> bytes:
    """The bytes of a .keras file of a model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


def run_and_load(data: bytes, *, legacy: bool) -> Any:
    """Load a model file with keras, which runs the code in it.

    Raises
    ------
    Exception
        Whatever keras or that code raises.
    """
    keras = load_keras()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("model.h5" if legacy else "model.keras")
        path.write_bytes(data)
        return keras.saving.load_model(path, compile=False, safe_mode=False)
