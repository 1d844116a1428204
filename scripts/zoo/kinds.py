"""What a model file of the zoo is, and how it is tried."""

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
class Made:
    """Files that were made, and what keras itself says of them.

    Attributes
    ----------
    encoder
        The file to give as --encoder.
    z_mean
        keras's own z_mean of a batch of inputs; None where it is to be refused.
    shape
        Of an input, without the batch axis.
    decoder
        The file to give as --decoder.
    decoded
        keras's own images of a batch of latents, where a decoder is to be found.
    options
        Further arguments of `Codec.from_files`.
    marker
        A file that the code in the model would write.
    """

    encoder: Path
    z_mean: Callable[[Floats], Any] | None = None
    shape: tuple[int, ...] = ()
    decoder: Path | None = None
    decoded: Callable[[Floats], Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    marker: Path | None = None


@dataclass(frozen=True)
class Kind:
    """A make of model file.

    Attributes
    ----------
    name
        For the table.
    make
        Writes it into a folder.
    refused
        Words of the one-line refusal; empty for an honest file.
    quick
        Whether it is of the short form, too.
    """

    name: str
    make: Callable[[Path], Made]
    refused: str = ""
    quick: bool = True


@dataclass(frozen=True)
class Outcome:
    """What became of a file: a cell of the table, and whether it was to be so."""

    name: str
    told: str
    good: bool


def attempt(kind: Kind, folder: Path) -> Outcome:
    """Make a file and take it in."""
    folder.mkdir(parents=True, exist_ok=True)
    made = kind.make(folder)
    try:
        codec = Codec.from_files(made.encoder, made.decoder, options=ModelOptions(**made.options))
    except LatentDBError as error:
        told = str(error).replace(str(folder) + "/", "")
        good = bool(kind.refused) and kind.refused in told and "\n" not in told
        return Outcome(kind.name, told, good and not _ran(made))
    except Exception:  # noqa: BLE001  what is to be found out
        return Outcome(kind.name, f"A TRACEBACK: {traceback.format_exc()[-300:]}", False)
    if made.z_mean is None:
        return Outcome(kind.name, "TAKEN, and was to be refused", False)
    told, good = _compare(codec, made)
    return Outcome(kind.name, told, good and not kind.refused and not _ran(made))


def _ran(made: Made) -> bool:
    return made.marker is not None and made.marker.exists()


def _compare(codec: Codec, made: Made) -> tuple[str, bool]:
    assert made.z_mean is not None
    random = np.random.default_rng(3)
    values = random.random((16, *made.shape)).astype(np.float32)
    files = codec.files
    mine = load_model(files["encoder.keras"], "the encoder")(values)
    mean = np.asarray(mine[0] if isinstance(mine, list | tuple) else mine)
    gap = _gap(mean, np.asarray(made.z_mean(values)))
    told = f"z_mean equal to {gap:.0e}" if gap else "z_mean equal"
    good = gap < 1e-5
    if made.decoded is not None:
        if not codec.has_decoder:
            return told + ", NO DECODER", False
        latents = random.normal(size=(16, mean.shape[1])).astype(np.float32)
        images = np.asarray(load_model(files["decoder.keras"], "the decoder")(latents))
        gap = _gap(images, np.asarray(made.decoded(latents)))
        told += f"; decoder equal to {gap:.0e}" if gap else "; decoder equal"
        good = good and gap < 1e-5
    told += "; z_log_var" if codec.config.has_z_log_var else ""
    return told, good


def _gap(mine: Any, theirs: Any) -> float:
    """Largest difference in proportion to the largest number."""
    if mine.size != theirs.size:
        return float("inf")
    theirs = theirs.reshape(mine.shape)
    return float(np.abs(mine - theirs).max() / max(1.0, float(np.abs(theirs).max())))
