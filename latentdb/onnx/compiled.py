"""The compiled encoder and decoder of a model: made from its .keras files, used in their place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import MissingExtraError, ModelError
from latentdb.onnx import export, runtime
from latentdb.onnx.export import Function
from latentdb.onnx.inspect import inspect
from latentdb.onnx.runtime import FLOAT32, CompiledNetwork

ENCODER_ONNX = "encoder.onnx"
DECODER_ONNX = "decoder.onnx"
ONNX_FILES = (ENCODER_ONNX, DECODER_ONNX)
TOLERANCE = 1e-5  # of `export.difference` to keras; float32 sums in another order give 1e-6
TOLERANCE_BF16 = 0.1  # an 8-bit mantissa through a few layers usually gives 0.003 to 0.01
_KERAS_BATCH = 256  # images tensorflow computes at a time, on threads of its own

Floats = NDArray[np.float32]
Result = TypeVar("Result")


def compiled_name(name: str) -> str | None:
    """Which of `ONNX_FILES` a file in a store is, by its name there; None for other files.

    A file added after the store was made is called ``model/<random>.encoder.onnx``.
    """
    return next((known for known in ONNX_FILES if name.endswith((f"/{known}", f".{known}"))), None)


class CompiledModel:
    """The compiled files of a model, loaded at first use.

    Parameters
    ----------
    files
        Bytes by name (`ONNX_FILES`); others are left out.
    encoder, decoder
        Fingerprints that the files must have been compiled from; a model
        without a decoder has None.
    precision
        ``"float32"`` or ``"bf16"``.
    """

    def __init__(
        self, files: Mapping[str, bytes], encoder: str, decoder: str | None, precision: str
    ) -> None:
        self.files = {name: files[name] for name in ONNX_FILES if name in files}
        self.precision = precision
        self._fingerprints = {ENCODER_ONNX: encoder, DECODER_ONNX: decoder}

    @property
    def is_complete(self) -> bool:
        """Whether there are compiled files of this very encoder and decoder."""
        return all(
            fingerprint is None or self._matches(name, fingerprint)
            for name, fingerprint in self._fingerprints.items()
        )

    def _matches(self, name: str, fingerprint: str) -> bool:
        try:
            return inspect(self.files[name], name).fingerprint == fingerprint
        except (KeyError, ModelError):
            return False

    @cached_property
    def encoder(self) -> CompiledNetwork | None:
        """The compiled encoder; None where tensorflow has to be used."""
        return self._load(ENCODER_ONNX)

    @cached_property
    def decoder(self) -> CompiledNetwork | None:
        """The compiled decoder; None where tensorflow has to be used."""
        return self._load(DECODER_ONNX)

    def check_precision(self) -> None:
        """Make sure that images can be encoded in the precision of the model.

        Raises
        ------
        ModelError, MissingExtraError
            If this machine cannot.
        """
        runtime.check_precision(self.precision)
        if self.precision != FLOAT32 and (
            self.encoder is None or self.encoder.precision != self.precision
        ):
            raise ModelError(
                f"the encoder cannot be used in {self.precision} here: install the extra 'fast', "
                "or make the store with precision float32"
            )

    def _load(self, name: str) -> CompiledNetwork | None:
        data, fingerprint = self.files.get(name), self._fingerprints[name]
        if data is None or fingerprint is None or not runtime.is_available():
            return None
        try:
            return _load_network(data, name, self.precision, fingerprint)
        except ModelError as error:
            warnings.warn(f"{error}; tensorflow is used instead", RuntimeWarning, stacklevel=3)
            return None


class OnnxModel:
    """An encoder and a decoder that are ONNX files themselves: as `CompiledModel`, without keras.

    Parameters
    ----------
    encoder, decoder
        .onnx files; None for no decoder.
    precision
        ``"float32"`` or ``"bf16"``.
    """

    is_complete = True

    def __init__(self, encoder: bytes, decoder: bytes | None, precision: str) -> None:
        self.files: dict[str, bytes] = {}  # a compiled form is none of the model's files
        self.precision = precision
        self._encoder, self._decoder = encoder, decoder

    @cached_property
    def encoder(self) -> CompiledNetwork:
        """The encoder; raises `MissingExtraError` without ONNX Runtime."""
        return self._load(self._encoder, "the encoder")

    @cached_property
    def decoder(self) -> CompiledNetwork | None:
        """The decoder; None for a model that has none."""
        return None if self._decoder is None else self._load(self._decoder, "the decoder")

    def check_precision(self) -> None:
        """Raise `ModelError` or `MissingExtraError` if images cannot be encoded here."""
        runtime.check_precision(self.precision)
        if self.encoder.precision != self.precision:
            raise ModelError(f"the encoder cannot be used in {self.precision} here")

    def _load(self, data: bytes, name: str) -> CompiledNetwork:
        if not runtime.is_available():
            raise MissingExtraError("an ONNX model", "fast")
        return _load_network(data, name, self.precision)


def _load_network(
    data: bytes, name: str, precision: str, fingerprint: str | None = None
) -> CompiledNetwork:
    """A network in a precision; in float32, with a warning, where this machine has not that one."""
    if precision != FLOAT32:
        try:
            return CompiledNetwork(data, name, fingerprint=fingerprint, precision=precision)
        except (MissingExtraError, ModelError) as error:
            warnings.warn(
                f"{error}; this store is in {precision}, float32 is used here, "
                "whose vectors differ in the third digit",
                RuntimeWarning,
                stacklevel=4,
            )
    return CompiledNetwork(data, name, fingerprint=fingerprint)


def compile_network(
    run: Function, inputs: Floats, *, name: str, fingerprint: str, precision: str
) -> bytes:
    """An .onnx file of an encoder or a decoder that gives what tensorflow gives.

    Parameters
    ----------
    run
        A tensorflow function: float32 ``[n, ...]`` to a list of float32 tensors.
    inputs
        float32 ``[n, ...]``: both are compared on these, as a batch and on the
        first alone.
    name
        ``"encoder"`` or ``"decoder"``, for error messages.
    fingerprint
        Of the encoder or decoder, written into the file.
    precision
        That it will be used in.

    Raises
    ------
    ModelError
        If it cannot be compiled, or the compiled network differs.
    """
    label = f"the compiled {name}"
    data = export.to_onnx(run, inputs.shape[1:], fingerprint)
    expected = [np.asarray(output, np.float32) for output in run(inputs)]
    network = CompiledNetwork(data, label, fingerprint=fingerprint)
    worst = max(
        export.difference(expected, network(inputs)),
        export.difference([output[:1] for output in expected], network(inputs[:1])),
    )
    if worst > TOLERANCE:
        raise ModelError(
            f"{label} differs from keras by {worst:.1e}, at most {TOLERANCE:.0e} is allowed"
        )
    if precision != FLOAT32:
        network = CompiledNetwork(data, label, fingerprint=fingerprint, precision=precision)
        worst = export.difference(expected, network(inputs))
        if worst > TOLERANCE_BF16:
            raise ModelError(
                f"the {name} in {precision} differs from float32 by {worst:.1e}, at most "
                f"{TOLERANCE_BF16} is allowed: use precision float32"
            )
    return data


def compile_model(
    images: Floats,
    encoder: tuple[Function, str],
    decoder: tuple[Function, str] | None,
    precision: str,
    conditioned: Callable[[Floats], Floats] = lambda latents: latents,
) -> tuple[dict[str, bytes], list[str]]:
    """Compile an encoder and a decoder as far as possible.

    Parameters
    ----------
    images
        The encoder's input, float32 ``[n, ...]``, to compare on.
    encoder, decoder
        Tensorflow functions and their fingerprints.
    precision
        That they will be used in.
    conditioned
        Makes the decoder's input of latents.

    Returns
    -------
    files, problems
        Files by name, and a message for each that could not be made.
    """
    files: dict[str, bytes] = {}
    problems: list[str] = []
    means = np.asarray(encoder[0](images)[0], np.float32)
    prior = np.random.default_rng(0).standard_normal(means.shape).astype(np.float32)
    latents = conditioned(np.concatenate([means, prior]))
    for name, file, network, inputs in (
        ("encoder", ENCODER_ONNX, encoder, images),
        ("decoder", DECODER_ONNX, decoder, latents),
    ):
        if network is None:
            continue
        run, fingerprint = network
        try:
            files[file] = compile_network(
                run, inputs, name=name, fingerprint=fingerprint, precision=precision
            )
        except ModelError as error:
            problems.append(f"{error}; tensorflow is used instead")
    return files, problems


def map_chunks(
    network: CompiledNetwork | None, work: Callable[[slice], Result], length: int
) -> Iterator[Result]:
    """Results of `work` on slices that cover `length` items, in order.

    On all cores with a compiled network; without one (None) tensorflow is at
    work, which has threads of its own.
    """
    if network is not None:
        return network.map_chunks(work, length)
    return (work(slice(start, start + _KERAS_BATCH)) for start in range(0, length, _KERAS_BATCH))
