"""Load the two halves of a model, and use each alone.

The encoder turns images into ``z_mean`` (and ``z_log_var``), never into a
sampled z; the decoder turns latents into images.  Fingerprints, sizes and
preprocessing are read as data, without tensorflow, which is imported when the
first image is encoded or decoded.
"""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb import engine, exporter
from latentdb.card import ModelCard
from latentdb.compiled import NAMES, Compiled, compile_halves, in_parts
from latentdb.errors import InvalidInputError, ModelError, NotFoundError
from latentdb.images import Preprocessing

ENCODER_FILE = "encoder.keras"
DECODER_FILE = "decoder.keras"
CARD_FILE = "model.json"
BATCH = 256  # images that are read at a time

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class _Archive:
    """What a .keras file says of itself, read as data."""

    config: dict[str, Any]
    weights_digest: str


def _read_archive(data: bytes, name: str) -> _Archive:
    """Configuration and weight digest of a .keras file, without building it."""
    import h5py

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            config = json.loads(archive.read("config.json"))
            weights = archive.read("model.weights.h5")
        digest = sha256()
        with h5py.File(io.BytesIO(weights), "r") as file:
            names: list[str] = []
            file.visititems(
                lambda key, item: names.append(key) if isinstance(item, h5py.Dataset) else None
            )
            for key in sorted(names):
                if "seed_generator" in key:
                    continue  # the state of a random generator moves whenever it is used
                values = np.ascontiguousarray(file[key][()])
                digest.update(f"{key} {values.dtype.str} {values.shape};".encode())
                digest.update(values.tobytes())
    except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{name} is not a .keras model file: {error}; save it with model.save('x.keras')"
        ) from error
    return _Archive(config, digest.hexdigest())


def _fingerprint(archive: _Archive, *parts: object) -> str:
    text = json.dumps([archive.weights_digest, *parts], sort_keys=True)
    return sha256(text.encode()).hexdigest()[:16]


def _read_file(path: Path, what: str) -> bytes:
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist: expected {what}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error


def _input_shape(archive: _Archive, name: str) -> tuple[int | None, ...]:
    """Shape of the first input layer, without the batch axis."""
    for layer in archive.config.get("config", {}).get("layers", ()):
        if layer.get("class_name") == "InputLayer":
            config = layer.get("config", {})
            shape = config.get("batch_shape") or config.get("batch_input_shape")
            if shape:
                return tuple(shape[1:])
    raise ModelError(f"{name} has no input layer: latentdb takes functional and sequential models")


def _image_shape(shape: tuple[int | None, ...], name: str) -> tuple[int, int, int]:
    """Height, width and channels from an encoder's input shape."""
    if len(shape) == 3 and all(isinstance(side, int) for side in shape):
        height, width, channels = (int(side or 0) for side in shape)
        return height, width, channels
    if len(shape) == 1 and isinstance(shape[0], int):
        for channels in (1, 3):
            side = math.isqrt(shape[0] // channels)
            if side * side * channels == shape[0]:
                return side, side, channels
    raise ModelError(
        f"{name} takes input of shape {shape}, from which no image size follows: "
        "give --image-size and --channels"
    )


@contextmanager
def _quiet_import() -> Iterator[None]:
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
    with _quiet_import():
        import latentdb.vae  # noqa: F401  registers Sampling
    import keras

    return keras


def load_keras_model(data: bytes, name: str) -> Any:
    """Build a keras model from the bytes of a .keras file, in safe mode.

    Raises
    ------
    ModelError
        If keras refuses it.
    """
    keras = load_keras()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(data)
        try:
            return keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as error:  # keras passes on whatever a layer raised
            first = next((line for line in str(error).splitlines() if line.strip()), repr(error))
            raise ModelError(f"{name} cannot be loaded by keras: {first.strip()}") from error


class Codec:
    """An encoder, and its decoder where there is one.

    Made by `Codec.from_folder`, `Codec.from_files` or `Codec.from_bytes`.

    Attributes
    ----------
    card
        Sizes, preprocessing and fingerprints.
    files
        The model's files by name (bytes), as a store keeps them.
    """

    def __init__(
        self,
        card: ModelCard,
        encoder: bytes,
        decoder: bytes | None,
        *,
        compiled: Mapping[str, bytes] | None = None,
    ) -> None:
        self.card = card
        self._encoder_bytes = encoder
        self._decoder_bytes = decoder
        self._compiled = self._with_files(compiled or {})

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> Codec:
        """Load what ``latentdb train`` wrote.

        Raises
        ------
        NotFoundError
            If the folder or its encoder is missing.
        ModelError
            If a file is damaged, or is not the one `model.json` speaks of.
        """
        path = Path(folder)
        if not path.is_dir():
            raise NotFoundError(
                f"{path} is not a folder: expected a model made by latentdb train, "
                "or give --encoder and --decoder"
            )
        text = _read_file(path / CARD_FILE, "the card of a model made by latentdb train")
        encoder = _read_file(path / ENCODER_FILE, "the encoder of a latentdb model")
        decoder = path / DECODER_FILE
        data = _read_file(decoder, "the decoder") if decoder.exists() else None
        card = ModelCard.from_json(text.decode(errors="replace"), str(path / CARD_FILE))
        made = {
            name: _read_file(path / name, "a compiled half")
            for name in NAMES
            if (path / name).exists()
        }
        return cls.from_bytes(card, encoder, data, name=str(path), compiled=made)

    @classmethod
    def from_bytes(
        cls,
        card: ModelCard,
        encoder: bytes,
        decoder: bytes | None,
        *,
        name: str,
        compiled: Mapping[str, bytes] | None = None,
    ) -> Codec:
        """Join a card and its files, checking that they belong together.

        Raises
        ------
        ModelError
            If a fingerprint differs from the card's.
        """
        found = fingerprints(encoder, decoder, card.preprocessing, name)
        for half, stated, actual in zip(
            ("encoder", "decoder"),
            (card.encoder_fingerprint, card.decoder_fingerprint),
            found,
            strict=True,
        ):
            if stated != actual:
                raise ModelError(
                    f"the {half} in {name} has fingerprint {actual}, its {CARD_FILE} says "
                    f"{stated}: the files are not of one model; pass --encoder and --decoder"
                )
        return cls(card, encoder, decoder, compiled=compiled)

    @classmethod
    def from_files(
        cls,
        encoder: str | os.PathLike[str],
        decoder: str | os.PathLike[str] | None = None,
        *,
        image_size: tuple[int, int] | None = None,
        channels: int | None = None,
        pixel_range: str = "0..1",
        resize: str = "stretch",
    ) -> Codec:
        """Load .keras files made elsewhere.

        Imports tensorflow: that z_mean is the first output and not random is
        found out by encoding.

        Parameters
        ----------
        encoder
            Its first output is z_mean; a second of the same width is taken as
            z_log_var.
        decoder
            Takes ``[n, d]``, gives images.
        image_size, channels
            Height and width, and 1 or 3; by default those of the encoder's input.
        pixel_range, resize
            As the encoder was trained: see `Preprocessing`.

        Raises
        ------
        ModelError
            If a file is no such model, or the two do not fit.
        """
        data = _read_file(Path(encoder), "a .keras encoder")
        if image_size is None or channels is None:
            archive = _read_archive(data, str(encoder))
            height, width, depth = _image_shape(_input_shape(archive, str(encoder)), str(encoder))
            image_size = (height, width) if image_size is None else image_size
            channels = depth if channels is None else channels
        spec = Preprocessing(*image_size, channels, pixel_range, resize)
        other = None if decoder is None else _read_file(Path(decoder), "a .keras decoder")
        encoder_print, decoder_print = fingerprints(data, other, spec, str(encoder))
        card = ModelCard(spec, 0, encoder_print, decoder_print, False)
        return cls(card, data, other)._examined(str(encoder))

    def _examined(self, name: str) -> Codec:
        """The same codec with latent dim and outputs found by running it once."""
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (4, *self.card.preprocessing.shape), np.uint8)
        outputs = self._encoder_outputs(self._prepare(images))
        z_mean = outputs[0]
        if z_mean.ndim != 2:
            raise ModelError(
                f"the first output of {name} has shape {z_mean.shape}: expected z_mean [n, d]"
            )
        if not np.array_equal(z_mean, self._encoder_outputs(self._prepare(images))[0]):
            raise ModelError(
                f"the first output of {name} differs from run to run: it is a sampled z, "
                "expected z_mean; save Model(inputs, [z_mean, z_log_var, z])"
            )
        has_log_var = len(outputs) > 1 and outputs[1].shape == z_mean.shape
        card = replace(self.card, latent_dim=z_mean.shape[1], has_z_log_var=has_log_var)
        codec = Codec(card, self._encoder_bytes, self._decoder_bytes)
        if codec.has_decoder:
            codec.decode(z_mean)
        return codec

    @property
    def files(self) -> dict[str, bytes]:
        named = {CARD_FILE: self.card.to_json().encode(), ENCODER_FILE: self._encoder_bytes}
        if self._decoder_bytes is not None:
            named[DECODER_FILE] = self._decoder_bytes
        return named | self._compiled.files

    def _with_files(self, files: Mapping[str, bytes]) -> Compiled:
        card = self.card
        return Compiled(files, card.encoder_fingerprint, card.decoder_fingerprint, card.precision)

    def compiled(self) -> Codec:
        """The same model with its compiled form, which needs no tensorflow to be used.

        Made here with tensorflow, compared with it, and left out with a warning
        where it is not equal.  Without the extra ``fast``: the codec itself.
        """
        if self._compiled.is_complete or not (engine.is_available() and exporter.is_available()):
            return self
        card = self.card
        with _quiet_import():
            files, problems = compile_halves(
                self._prepare(exporter.probes(card.preprocessing.shape)),
                (self._encoder, card.encoder_fingerprint),
                (self._decoder, card.decoder_fingerprint) if card.decoder_fingerprint else None,
                card.precision,
            )
        for problem in problems:  # told where stderr is no longer kept
            warnings.warn(problem, RuntimeWarning, stacklevel=3)
        other = copy(self)
        other._compiled = self._with_files(files)
        return other

    def with_precision(self, precision: str) -> Codec:
        """The same model, to be used in a precision.

        Raises
        ------
        ModelError, MissingExtraError
            If it cannot be computed here.
        """
        engine.check_precision(precision)
        other = copy(self)
        other.card = replace(self.card, precision=precision)
        other._compiled = other._with_files(self._compiled.files)
        return other

    def check_precision(self) -> None:
        """Make sure that images are encoded in the precision the card says.

        Raises
        ------
        ModelError, MissingExtraError
            If this machine cannot: vectors of two precisions are not to be
            mixed in a store.
        """
        self._compiled.check_precision()

    @property
    def used_tensorflow(self) -> bool:
        """Whether an image was encoded with tensorflow, for want of a compiled form."""
        return "_encoder" in vars(self)

    @property
    def has_decoder(self) -> bool:
        return self._decoder_bytes is not None

    @cached_property
    def _encoder(self) -> Any:
        """z_mean and, where it is there, z_log_var; what lies downstream is cut off."""
        model = load_keras_model(self._encoder_bytes, "the encoder")
        return _compiled(model.inputs, list(model.outputs)[:2])

    @cached_property
    def _decoder(self) -> Any:
        model = load_keras_model(self._decoder_bytes or b"", "the decoder")
        return _compiled(model.inputs, list(model.outputs)[:1])

    def _prepare(self, images: Pixels) -> Floats:
        values = images.astype(np.float32)
        kind = self.card.preprocessing.pixel_range
        if kind == "0..1":
            values /= np.float32(255)
        elif kind == "-1..1":
            values = values / np.float32(127.5) - np.float32(1)
        return values

    def _encoder_outputs(self, values: Floats) -> list[Floats]:
        run = self._compiled.encoder or self._encoder
        try:
            return [np.asarray(part) for part in run(values)]
        except ModelError:
            raise
        except Exception as error:  # tensorflow's own classes, imported nowhere else
            told = " ".join(str(error).split())[:200]
            raise ModelError(
                f"the encoder does not take images of shape {values.shape[1:]}: {told}"
            ) from error

    def encode(self, images: Pixels) -> tuple[Floats, Floats | None]:
        """Encode images to their posteriors.

        Parameters
        ----------
        images
            uint8 ``[n, height, width, channels]`` as `images.read_image` gives.

        Returns
        -------
        z_mean, z_log_var
            float32 ``[n, d]`` each; z_log_var is None where the encoder has none.

        Raises
        ------
        ModelError
            If a latent is not finite.
        """
        if images.shape[1:] != self.card.preprocessing.shape:
            raise InvalidInputError(
                f"images of shape {images.shape[1:]} do not fit the encoder: "
                f"expected {self.card.preprocessing.shape}"
            )
        wanted = 2 if self.card.has_z_log_var else 1
        halves: list[list[Floats]] = [[] for _ in range(wanted)]

        def work(part: slice) -> list[Floats]:
            return self._encoder_outputs(self._prepare(images[part]))

        for outputs in in_parts(self._compiled.encoder, work, len(images)):
            for kept, part in zip(halves, outputs, strict=False):
                kept.append(part)
        empty = np.empty((0, self.card.latent_dim), np.float32)
        joined = [np.concatenate([empty, *parts]).astype(np.float32) for parts in halves]
        if not all(np.isfinite(part).all() for part in joined):
            raise ModelError("the encoder gave a latent that is not finite: check its weights")
        return joined[0], joined[1] if wanted == 2 else None

    def decode(self, latents: Floats) -> Pixels:
        """Decode latents to images.

        Parameters
        ----------
        latents
            float32 ``[n, d]``.

        Returns
        -------
        ndarray
            uint8 ``[n, height, width, channels]``, rounded and clipped.

        Raises
        ------
        ModelError
            If there is no decoder, or it does not give images of the model's size.
        """
        spec = self.card.preprocessing
        if self._decoder_bytes is None:
            raise ModelError(
                "this model has no decoder: create the store with a model folder, or with "
                "--encoder and --decoder"
            )
        work = self._decoded
        parts = in_parts(self._compiled.decoder, lambda part: work(latents[part]), len(latents))
        return np.concatenate([np.empty((0, *spec.shape), np.uint8), *parts])

    def _decoded(self, latents: Floats) -> Pixels:
        spec = self.card.preprocessing
        batch = np.asarray(latents, np.float32)
        run = self._compiled.decoder or self._decoder
        try:
            values = np.asarray(run(batch)[0], np.float32)
        except ModelError:
            raise
        except Exception as error:  # tensorflow's own classes, imported nowhere else
            told = " ".join(str(error).split())[:200]
            raise ModelError(
                f"the decoder does not take latents of shape {batch.shape}: {told}"
            ) from error
        if values.size != len(batch) * math.prod(spec.shape):
            raise ModelError(
                f"the decoder gives images of shape {values.shape[1:]}: expected {spec.shape}"
            )
        values = values.reshape(len(batch), *spec.shape)
        if spec.pixel_range == "0..1":
            values = values * 255
        elif spec.pixel_range == "-1..1":
            values = (values + 1) * 127.5
        pixels: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        return pixels

    def summaries(self) -> str:
        """Keras's summaries of the encoder and the decoder."""
        lines: list[str] = []
        for data, name in ((self._encoder_bytes, "encoder"), (self._decoder_bytes, "decoder")):
            if data is not None:
                load_keras_model(data, name).summary(print_fn=lambda line: lines.append(line))
        return "\n".join(lines)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the encoder and the decoder as one graph, as ``keras.utils.plot_model`` does.

        Raises
        ------
        MissingExtraError
            Without pydot.
        ModelError
            Without the program ``dot`` of graphviz.
        """
        import shutil

        from latentdb.errors import MissingExtraError

        try:
            import pydot  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("drawing a model", "plot") from error
        if shutil.which("dot") is None:
            raise ModelError(
                "drawing a model needs the program 'dot': install graphviz "
                "(apt install graphviz, brew install graphviz)"
            )
        keras = load_keras()
        encoder = load_keras_model(self._encoder_bytes, "the encoder")
        model = encoder
        if self._decoder_bytes is not None:
            decoder = load_keras_model(self._decoder_bytes, "the decoder")
            outputs = list(encoder.outputs)
            model = keras.Model(encoder.inputs, decoder(outputs[-1]), name="vae")
        keras.utils.plot_model(
            model,
            to_file=os.fspath(path),
            show_shapes=True,
            show_layer_names=True,
            expand_nested=True,
            dpi=96,
        )


def fingerprints(
    encoder: bytes, decoder: bytes | None, spec: Preprocessing, name: str
) -> tuple[str, str | None]:
    """Fingerprints of an encoder with its preprocessing, and of a decoder.

    Of the weights as arrays, not of the files: a model saved again keeps its
    fingerprint.

    Raises
    ------
    ModelError
        If a file is no .keras file.
    """
    first = _fingerprint(_read_archive(encoder, f"the encoder in {name}"), asdict(spec))
    if decoder is None:
        return first, None
    archive = _read_archive(decoder, f"the decoder in {name}")
    return first, _fingerprint(archive, spec.pixel_range)


def _compiled(inputs: Any, outputs: list[Any]) -> Any:
    """A graph function from one float32 batch of any length to a list of outputs."""
    keras = load_keras()
    import tensorflow as tf

    half = keras.Model(inputs, outputs)
    shape = tuple(half.inputs[0].shape)

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[tf.TensorSpec(None, tf.float32)], autograph=False
    )
    def run(values: Any) -> Any:
        if len(shape) == 2:  # an encoder of flattened images
            values = tf.reshape(values, (tf.shape(values)[0], -1))
        result = half(tf.ensure_shape(values, shape), training=False)
        return result if isinstance(result, list | tuple) else [result]

    return run
