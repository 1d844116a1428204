"""Import keras late and quietly; load and save models with it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what is written to stderr, and write it only if the body raises.

    tensorflow 2.21 logs several lines to file descriptor 2 when it is imported,
    and no setting turns them off.
    """
    with tempfile.TemporaryFile() as buffer:
        saved = os.dup(2)
        os.dup2(buffer.fileno(), 2)
        try:
            yield
        except BaseException:
            buffer.seek(0)
            os.write(saved, buffer.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def load_keras() -> Any:
    """The keras module, imported with latentdb's layers and without tensorflow's log lines."""
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
