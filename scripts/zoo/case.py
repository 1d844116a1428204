"""One case of the zoo: a model file, and whether latentdb converts it exactly or refuses it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import LatentDBError
from latentdb.kerasfile.convert import load_model
from latentdb.model.codec import Codec
from latentdb.model.config import ModelOptions

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ModelFiles:
    """Files of a case, and keras's results for them.

    Attributes
    ----------
    encoder
        The file for --encoder.
    z_mean
        keras's z_mean of a batch of inputs; None if the file must be refused.
    shape
        Shape of an input, without the batch axis.
    decoder
        The file for --decoder.
    decoded
        keras's images of a batch of latents, if a decoder must be found.
    options
        Arguments of `ModelOptions`.
    marker
        A file that the code in the model would write.
    condition
        Of a conditional model: what follows each of the 16 images or latents.
    conditional
        The networks that take it.
    """

    encoder: Path
    z_mean: Callable[[Floats], Any] | None = None
    shape: tuple[int, ...] = ()
    decoder: Path | None = None
    decoded: Callable[[Floats], Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    marker: Path | None = None
    condition: Floats | None = None
    conditional: tuple[str, ...] = ("encoder", "decoder")

    def joined(self, values: Floats, network: str) -> Floats:
        """The input of a converted network."""
        if self.condition is None or network not in self.conditional:
            return values
        return np.concatenate([values.reshape(len(values), -1), self.condition], axis=1)


@dataclass(frozen=True)
class Case:
    """A kind of model file.

    Attributes
    ----------
    name
        Its name in the table.
    make
        Writes the files into a folder.
    error
        Part of the one-line error; empty if the file must be converted.
    quick
        Whether the tests run it.
    """

    name: str
    make: Callable[[Path], ModelFiles]
    error: str = ""
    quick: bool = True


@dataclass(frozen=True)
class Outcome:
    """A row of the table, and whether it is as it should be."""

    name: str
    result: str
    passed: bool


def attempt(case: Case, folder: Path) -> Outcome:
    """Make the files of a case and convert them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = case.make(folder)
    try:
        options = ModelOptions(**files.options)
        codec = Codec.from_files(files.encoder, files.decoder, options=options)
    except LatentDBError as error:
        message = str(error).replace(str(folder) + "/", "")
        passed = bool(case.error) and case.error in message and "\n" not in message
        return Outcome(case.name, message, passed and not _code_ran(files))
    except Exception:  # noqa: BLE001  a traceback is a failed case
        return Outcome(case.name, f"A TRACEBACK: {traceback.format_exc()[-300:]}", False)
    if files.z_mean is None:
        return Outcome(case.name, "CONVERTED, should be refused", False)
    result, passed = _compare(codec, files)
    return Outcome(case.name, result, passed and not case.error and not _code_ran(files))


def _code_ran(files: ModelFiles) -> bool:
    return files.marker is not None and files.marker.exists()


def _compare(codec: Codec, files: ModelFiles) -> tuple[str, bool]:
    """Results of the converted model beside keras's."""
    assert files.z_mean is not None
    random = np.random.default_rng(3)
    values = random.random((16, *files.shape)).astype(np.float32)
    encoder = load_model(codec.files["encoder.keras"], "the encoder")
    outputs = encoder(files.joined(values, "encoder"))
    mean = np.asarray(outputs[0] if isinstance(outputs, list | tuple) else outputs)
    gap = _gap(mean, np.asarray(files.z_mean(values)))
    result = f"z_mean equal to {gap:.0e}" if gap else "z_mean equal"
    passed = gap < 1e-5
    if files.decoded is not None:
        if not codec.has_decoder:
            return result + ", NO DECODER", False
        latents = random.normal(size=(16, mean.shape[1])).astype(np.float32)
        decoder = load_model(codec.files["decoder.keras"], "the decoder")
        images = np.asarray(decoder(files.joined(latents, "decoder")))
        gap = _gap(images, np.asarray(files.decoded(latents)))
        result += f"; decoder equal to {gap:.0e}" if gap else "; decoder equal"
        passed = passed and gap < 1e-5
    result += "; z_log_var" if codec.config.has_z_log_var else ""
    return result, passed


def _gap(converted: Any, expected: Any) -> float:
    """Largest absolute difference, relative to the largest value if that is over 1."""
    if converted.size != expected.size:
        return float("inf")
    expected = expected.reshape(converted.shape)
    return float(np.abs(converted - expected).max() / max(1.0, float(np.abs(expected).max())))
