"""`LatentCallback`: watch a latent space while a Keras model is trained.

>>> from latentdb.keras import LatentCallback
>>> model.fit(images, callbacks=[LatentCallback("run.ldb", images[:1000])])

Then ``latentdb compare run.ldb/epoch-0001.ldb run.ldb/epoch-0010.ldb --out changes.png``.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError, ModelError
from latentdb.base.files import as_path
from latentdb.base.validate import check_ids
from latentdb.database import LatentDB
from latentdb.store.columns import Value

_BATCH = 256
Floats = NDArray[np.float32]


class LatentCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the latents of fixed images after each epoch, in a small store each.

    The stores are ``PATH/epoch-0001.ldb`` and so on, with vectors and no model.  What goes
    wrong is a warning, once for each reason, and never ends the training.

    Parameters
    ----------
    path
        A folder, which is made when the first epoch ends.
    images
        The fixed images ``[n, ...]``, as the encoder takes them.
    every
        Epochs from one store to the next.
    ids
        Of the images; their numbers by default.
    metadata
        ``{key: n values}``, as labels.
    encoder
        A Keras model or a function of images; the attribute ``encoder`` of the model that is
        trained by default.  It gives z_mean, or a list or dict of z_mean and z_log_var.

    Attributes
    ----------
    seconds
        Wall time of each store that was made.

    Raises
    ------
    InvalidInputError
        If images, ids and metadata do not go together, or `every` is below 1.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        images: NDArray[Any],
        *,
        every: int = 1,
        ids: Sequence[str] | None = None,
        metadata: Mapping[str, Sequence[Value]] | None = None,
        encoder: Any = None,
    ) -> None:
        super().__init__()
        self._path = as_path(path)
        self._images = np.asarray(images)
        count = len(self._images) if self._images.ndim else 0
        if not count:
            raise InvalidInputError("there are no images to watch: give an array [n, ...]")
        if type(every) is not int or every < 1:
            raise InvalidInputError(f"every {every!r} cannot be used: give epochs, 1 or more")
        width = len(str(count - 1))
        numbers = [f"{number:0{width}d}" for number in range(count)]
        self._ids = numbers if ids is None else check_ids(list(ids))
        for name, values in {"ids": self._ids, **(metadata or {})}.items():
            if len(values) != count:
                raise InvalidInputError(f"{name} has {len(values)} values for {count} images")
        self._every = every
        self._metadata = metadata
        self._encoder = encoder
        self._warned: set[str] = set()
        self.seconds: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Keep the latents of this epoch, if it is one of every so many."""
        del logs
        if (epoch + 1) % self._every:
            return
        begin = time.perf_counter()
        try:
            self._keep(self._path / f"epoch-{epoch + 1:04d}.ldb")
        except Exception as error:  # noqa: BLE001 - whatever it is, the training is worth more
            text = f"{type(error).__name__}: {error}"
            if text not in self._warned:
                self._warned.add(text)
                warnings.warn(
                    f"the latents of epoch {epoch + 1} were not kept ({text})",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return
        self.seconds.append(time.perf_counter() - begin)

    def _keep(self, path: Path) -> None:
        encoder = self._encoder
        if encoder is None:
            encoder = getattr(self.model, "encoder", None)
        if encoder is None:
            raise ModelError("the model has no attribute 'encoder': give LatentCallback an encoder")
        parts = [
            _outputs(_encode(encoder, self._images[start : start + _BATCH]))
            for start in range(0, len(self._images), _BATCH)
        ]
        means = np.concatenate([part[0] for part in parts])
        log_vars = [part[1] for part in parts if part[1] is not None]
        self._path.mkdir(parents=True, exist_ok=True)
        with LatentDB.create(path, dim=means.shape[1], auto_index=False) as db:
            db.add(
                self._ids,
                means,
                z_log_var=np.concatenate(log_vars) if log_vars else None,
                metadata=self._metadata,
            )


def _encode(encoder: Any, images: NDArray[Any]) -> Any:
    if isinstance(encoder, keras.Model):
        return encoder(images, training=False)
    return encoder(images)


def _outputs(found: Any) -> tuple[Floats, Floats | None]:
    """z_mean and z_log_var of what an encoder gave."""
    if isinstance(found, Mapping):
        found = [found[name] for name in ("z_mean", "z_log_var") if name in found]
    if not isinstance(found, list | tuple):
        found = [found]
    arrays = [np.asarray(keras.ops.convert_to_numpy(one), np.float32) for one in found[:2]]
    if not arrays or arrays[0].ndim != 2 or arrays[-1].shape != arrays[0].shape:
        shapes = ", ".join(str(list(array.shape)) for array in arrays) or "nothing"
        raise ModelError(f"the encoder gave {shapes}: expected z_mean [n, d], and z_log_var if any")
    return arrays[0], arrays[1] if len(arrays) > 1 else None
