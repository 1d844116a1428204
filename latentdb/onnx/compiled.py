"""The compiled form of a model: derived from its .keras files, used in their place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import MissingExtraError, ModelError
from latentdb.onnx import export as exporter
from latentdb.onnx import runtime as engine
from latentdb.onnx.inspect import inspect
from latentdb.onnx.runtime import FLOAT32, CompiledNetwork

ENCODER_ONNX = "encoder.onnx"
DECODER_ONNX = "decoder.onnx"
NAMES = (ENCODER_ONNX, DECODER_ONNX)
_TOLERANCE_BF16 = 0.1  # eight bits of mantissa through a few layers: 0.003 to 0.01 are usual
_SERIAL = 256  # images that tensorflow takes at a time; it has threads of its own

Floats = NDArray[np.float32]
Function = Callable[[Any], Any]
Part = TypeVar("Part")


def compiled_name(name: str) -> str | None:
    """Which compiled half a file of a store is, by its name there; None for other files.

    A later writer adds it under a new name, ``model/<random>.encoder.onnx``.
    """
    return next((known for known in NAMES if name.endswith((f"/{known}", f".{known}"))), None)


class CompiledModel:
    """The compiled files of a model, loaded when they are first used.

    Parameters
    ----------
    files
        By name (`NAMES`), bytes; may be none.
    encoder, decoder
        Fingerprints of the halves they are to be compiled from.
    precision
        ``"float32"`` or ``"bf16"``.
    """

    def __init__(
        self, files: Mapping[str, bytes], encoder: str, decoder: str | None, precision: str
    ) -> None:
        self.files = {name: files[name] for name in NAMES if name in files}
        self.precision = precision
        self._prints = {ENCODER_ONNX: encoder, DECODER_ONNX: decoder}

    @property
    def is_complete(self) -> bool:
        """Whether every half of the model has a compiled file of its own."""
        return all(
            fingerprint is None or self._is_of(name, fingerprint)
            for name, fingerprint in self._prints.items()
        )

    def _is_of(self, name: str, fingerprint: str) -> bool:
        try:
            return inspect(self.files[name], name).fingerprint == fingerprint
        except (KeyError, ModelError):
            return False

    @cached_property
    def encoder(self) -> CompiledNetwork | None:
        """The compiled encoder; None where tensorflow is to be used."""
        return self._half(ENCODER_ONNX)

    @cached_property
    def decoder(self) -> CompiledNetwork | None:
        """The compiled decoder; None where tensorflow is to be used."""
        return self._half(DECODER_ONNX)

    def check_precision(self) -> None:
        """Make sure that images can be encoded in the precision of the model.

        Raises
        ------
        ModelError, MissingExtraError
            If they cannot here.
        """
        engine.check_precision(self.precision)
        if self.precision != FLOAT32 and (
            self.encoder is None or self.encoder.precision != self.precision
        ):
            raise ModelError(
                f"the encoder cannot be used in {self.precision} here: install the extra 'fast', "
                "or make the store with --precision float32"
            )

    def _half(self, name: str) -> CompiledNetwork | None:
        data, fingerprint = self.files.get(name), self._prints[name]
        if data is None or fingerprint is None or not engine.is_available():
            return None
        if self.precision != FLOAT32:
            try:
                return CompiledNetwork(
                    data, name, fingerprint=fingerprint, precision=self.precision
                )
            except (MissingExtraError, ModelError) as error:
                _warn(
                    f"{error}; this store is in {self.precision}, float32 is used here, "
                    "whose vectors differ in the third digit"
                )
        try:
            return CompiledNetwork(data, name, fingerprint=fingerprint)
        except ModelError as error:
            _warn(f"{error}; tensorflow is used instead")
            return None


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=4)


def compile_network(
    run: Function, batch: Floats, *, name: str, fingerprint: str, precision: str
) -> bytes:
    """Compile one half, and make sure that it gives what tensorflow gives.

    Parameters
    ----------
    run
        The half as a function of tensorflow: float32 ``[n, ...]`` to a list of
        float32 tensors.
    batch
        float32 ``[n, ...]``: what both are compared on, all at once and singly.
    name
        What an error calls it.
    fingerprint
        Of the half, kept in the file.
    precision
        That it is to be used in.

    Raises
    ------
    ModelError
        If it cannot be compiled, or the compiled form differs.
    """
    data = exporter.export(run, batch.shape[1:], fingerprint)
    expected = [np.asarray(part, np.float32) for part in run(batch)]
    half = CompiledNetwork(data, f"the compiled {name}", fingerprint=fingerprint)
    worst = max(
        exporter.difference(expected, half(batch)),
        exporter.difference([part[:1] for part in expected], half(batch[:1])),
    )
    if worst > exporter.TOLERANCE:
        raise ModelError(
            f"the compiled {name} differs from keras by {worst:.1e}, at most "
            f"{exporter.TOLERANCE:.0e} is allowed"
        )
    if precision != FLOAT32:
        half = CompiledNetwork(
            data, f"the compiled {name}", fingerprint=fingerprint, precision=precision
        )
        worst = exporter.difference(expected, half(batch))
        if worst > _TOLERANCE_BF16:
            raise ModelError(
                f"the {name} in {precision} differs from float32 by {worst:.1e}: "
                "use --precision float32"
            )
    return data


def compile_model(
    images: Floats,
    encoder: tuple[Function, str],
    decoder: tuple[Function, str] | None,
    precision: str,
) -> tuple[dict[str, bytes], list[str]]:
    """Compile an encoder and a decoder, and tell what is left out and why.

    Parameters
    ----------
    images
        float32 ``[n, height, width, channels]``, to compare on.
    encoder, decoder
        Functions of tensorflow with their fingerprints.
    precision
        That they are to be used in.

    Returns
    -------
    files, problems
        Files by name, and a sentence for each that is not there.
    """
    files: dict[str, bytes] = {}
    problems: list[str] = []
    means = np.asarray(encoder[0](images)[0], np.float32)
    drawn = np.random.default_rng(0).standard_normal(means.shape).astype(np.float32)
    latents = np.concatenate([means, drawn])
    for name, file, half, batch in (
        ("encoder", ENCODER_ONNX, encoder, images),
        ("decoder", DECODER_ONNX, decoder, latents),
    ):
        if half is None:
            continue
        try:
            files[file] = compile_network(
                half[0], batch, name=name, fingerprint=half[1], precision=precision
            )
        except ModelError as error:
            problems.append(f"{error}; tensorflow is used instead")
    return files, problems


def in_chunks(
    half: CompiledNetwork | None, work: Callable[[slice], Part], length: int
) -> Iterator[Part]:
    """Do work on parts of `length` items, in order: on all cores where a half is compiled."""
    if half is not None:
        return half.spread(work, length)
    return (work(slice(start, start + _SERIAL)) for start in range(0, length, _SERIAL))
