"""Keras on tensorflow, imported late and without its greetings."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keep what tensorflow writes to stderr while it loads, and show it if loading fails.

    It greets with several lines on file descriptor 2 that no setting turns off
    (tensorflow 2.21).
    """
    with tempfile.TemporaryFile() as kept:
        saved = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(saved, kept.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def load_keras() -> Any:
    """Import keras, and with it latentdb's own layers, without tensorflow's greetings."""
    with quiet_stderr():
        import latentdb.kerasfile.sampling  # noqa: F401  registers Sampling
    import keras

    return keras


def own_layers() -> dict[str, Any]:
    """latentdb's own layers by their class names."""
    load_keras()
    from latentdb.kerasfile.sampling import Sampling

    return {"Sampling": Sampling}


def save(model: Any) -> bytes:
    """A keras model as the bytes of a .keras file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


def run_and_load(data: bytes, *, legacy: bool) -> Any:
    """Load a model file with keras, running whatever code it holds.

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
