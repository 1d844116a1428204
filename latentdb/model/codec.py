"""Load the two halves of a model, and use each alone.

The encoder turns images into ``z_mean`` (and ``z_log_var``), never into a
sampled z; the decoder turns latents into images.  Fingerprints, sizes and
preprocessing are read as data, without tensorflow, which is imported when the
first image is encoded or decoded.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError, ModelError, NotFoundError
from latentdb.images.decode import Preprocessing
from latentdb.images.pixel_range import PixelRange, parse_pixel_range
from latentdb.kerasfile.container import parse, read_file
from latentdb.kerasfile.convert import convert, load_model
from latentdb.kerasfile.runtime import load_keras, quiet_stderr
from latentdb.model.config import ModelConfig, ModelOptions
from latentdb.onnx import export as exporter
from latentdb.onnx import runtime as engine
from latentdb.onnx.compiled import NAMES, CompiledModel, compile_model, in_chunks

ENCODER_FILE = "encoder.keras"
DECODER_FILE = "decoder.keras"
CONFIG_FILE = "model.json"
BATCH = 256  # images that are read at a time

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


class Codec:
    """An encoder, and its decoder where there is one.

    Made by `Codec.from_folder`, `Codec.from_files` or `Codec.from_bytes`.

    Attributes
    ----------
    config
        Sizes, preprocessing and fingerprints.
    files
        The model's files by name (bytes), as a store keeps them.
    notes
        What people should know of how it was made of a stranger's files.
    """

    def __init__(
        self,
        config: ModelConfig,
        encoder: bytes,
        decoder: bytes | None,
        *,
        compiled: Mapping[str, bytes] | None = None,
        trust_model: bool = False,
        notes: Sequence[str] = (),
    ) -> None:
        self.config = config
        self.notes = tuple(notes)
        self._trust_model = trust_model
        self._encoder_bytes = encoder
        self._decoder_bytes = decoder
        self._compiled = self._with_files(compiled or {})

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str], *, trust_model: bool = False) -> Codec:
        """Load what ``latentdb train`` wrote.

        Parameters
        ----------
        folder
            With ``model.json`` in it.
        trust_model
            Run the code in its files, where they hold any.

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
        text = read_file(path / CONFIG_FILE, "the config of a model made by latentdb train")
        encoder = read_file(path / ENCODER_FILE, "the encoder of a latentdb model")
        decoder = path / DECODER_FILE
        data = read_file(decoder, "the decoder") if decoder.exists() else None
        config = ModelConfig.from_json(text.decode(errors="replace"), str(path / CONFIG_FILE))
        made = {
            name: read_file(path / name, "a compiled half")
            for name in NAMES
            if (path / name).exists()
        }
        return cls.from_bytes(
            config, encoder, data, name=str(path), compiled=made, trust_model=trust_model
        )

    @classmethod
    def from_bytes(
        cls,
        config: ModelConfig,
        encoder: bytes,
        decoder: bytes | None,
        *,
        name: str,
        compiled: Mapping[str, bytes] | None = None,
        trust_model: bool = False,
    ) -> Codec:
        """Join a config and its files, checking that they belong together.

        Raises
        ------
        ModelError
            If a fingerprint differs from the config's.
        """
        found = fingerprints(encoder, decoder, config.preprocessing, name)
        for half, stated, actual in zip(
            ("encoder", "decoder"),
            (config.encoder_fingerprint, config.decoder_fingerprint),
            found,
            strict=True,
        ):
            if stated != actual:
                raise ModelError(
                    f"the {half} in {name} has fingerprint {actual}, its {CONFIG_FILE} says "
                    f"{stated}: the files are not of one model; pass --encoder and --decoder"
                )
        return cls(config, encoder, decoder, compiled=compiled, trust_model=trust_model)

    @classmethod
    def from_files(
        cls,
        encoder: str | os.PathLike[str],
        decoder: str | os.PathLike[str] | None = None,
        *,
        options: ModelOptions | None = None,
    ) -> Codec:
        """A codec of Keras files made elsewhere, which are read as data: none of their code is run.

        Imports tensorflow.  The codec holds a model rebuilt from the files, up to
        z_mean and z_log_var: see `latentdb.kerasfile.convert`.

        Parameters
        ----------
        encoder
            A .keras or .h5 file: an encoder, or a whole VAE.
        decoder
            Takes ``[n, d]``, gives images; by default the one in the first
            file, where there is one.
        options
            What the files do not say.

        Raises
        ------
        ModelError
            If a file is no such model, or encoder and decoder do not fit together.
        UntrustedModelError
            If it can only be used by running its code.
        """
        known = options or ModelOptions()
        taken = convert(
            encoder, decoder, z_mean=known.z_mean, z_log_var=known.z_log_var,
            image_size=known.image_size, channels=known.channels, trust_model=known.trust_model,
        )  # fmt: skip
        default = "0..255:0..1" if taken.divides else "0..1"
        spec = Preprocessing(*taken.image, known.pixel_range or default, known.resize or "stretch")
        encoder_print, decoder_print = fingerprints(taken.encoder, taken.decoder, spec, "the model")
        config = ModelConfig(
            spec, taken.latent_dim, encoder_print, decoder_print, taken.has_z_log_var
        )
        codec = cls(
            config, taken.encoder, taken.decoder, trust_model=known.trust_model, notes=taken.notes
        )
        return codec._examined(os.fspath(encoder))

    def with_preprocessing(self, spec: Preprocessing) -> Codec:
        """The same model for images prepared in another way: another fingerprint."""
        prints = fingerprints(self._encoder_bytes, self._decoder_bytes, spec, "the model")
        config = replace(
            self.config,
            preprocessing=spec,
            encoder_fingerprint=prints[0],
            decoder_fingerprint=prints[1],
        )
        other = copy(self)
        vars(other).pop("_range", None)
        other.config = config
        other._compiled = other._with_files(self._compiled.files)
        return other

    def _examined(self, name: str) -> Codec:
        """The codec itself, after it was run once: its z_mean is not random, its halves fit."""
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (4, *self.config.preprocessing.shape), np.uint8)
        z_mean = self._encoder_outputs(self._prepare(images))[0]
        if not np.array_equal(z_mean, self._encoder_outputs(self._prepare(images))[0]):
            raise ModelError(
                f"the first output of {name} differs from run to run: it is a sampled z, "
                "expected z_mean; --z-mean LAYER names its layer"
            )
        if self.has_decoder:
            self.decode(z_mean)
        return self

    def noting(self, *notes: str) -> Codec:
        """The same model with further notes."""
        other = copy(self)
        other.notes = (*self.notes, *notes)
        return other

    def reconstructions(
        self, images: Pixels, ranges: Sequence[str]
    ) -> dict[str, tuple[float, float]]:
        """How far images are from what decoder and encoder make of them, by pixel range.

        Parameters
        ----------
        images
            uint8 ``[n, height, width, channels]``, one batch of them.
        ranges
            As `latentdb.images.pixel_range` writes them.

        Returns
        -------
        dict
            For each the mean squared error in pixel values (0..255), infinite
            where a number is not finite, and the root mean square of z_mean.
        """
        channels = self.config.preprocessing.channels
        parsed = {text: parse_pixel_range(text, channels) for text in ranges}
        decoded, sizes = {}, {}
        for scale in {one.encoder for one in parsed.values()}:
            z_mean = self._encoder_outputs(scale.normalize(images))[0]
            sizes[scale] = float(np.sqrt(np.mean(z_mean**2, dtype=np.float64)))
            decoded[scale] = np.asarray(self._decoder(z_mean)[0]).reshape(images.shape)
        wanted = images.astype(np.float32)
        found = {}
        for text, one in parsed.items():
            values, error = decoded[one.encoder], math.inf
            if np.isfinite(values).all():
                made = one.decoder.denormalize(values).astype(np.float32)
                error = float(np.mean((made - wanted) ** 2, dtype=np.float64))
            found[text] = (error, sizes[one.encoder])
        return found

    @property
    def files(self) -> dict[str, bytes]:
        named = {CONFIG_FILE: self.config.to_json().encode(), ENCODER_FILE: self._encoder_bytes}
        if self._decoder_bytes is not None:
            named[DECODER_FILE] = self._decoder_bytes
        return named | self._compiled.files

    def _with_files(self, files: Mapping[str, bytes]) -> CompiledModel:
        config = self.config
        return CompiledModel(
            files, config.encoder_fingerprint, config.decoder_fingerprint, config.precision
        )

    def compiled(self) -> Codec:
        """The same model with its compiled form, which needs no tensorflow to be used.

        Made here with tensorflow, compared with it, and left out with a warning
        where it is not equal.  Without the extra ``fast``: the codec itself.
        """
        if self._compiled.is_complete or not (engine.is_available() and exporter.is_available()):
            return self
        config = self.config
        with quiet_stderr():
            files, problems = compile_model(
                self._prepare(exporter.probes(config.preprocessing.shape)),
                (self._encoder, config.encoder_fingerprint),
                (self._decoder, config.decoder_fingerprint) if config.decoder_fingerprint else None,
                config.precision,
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
        other.config = replace(self.config, precision=precision)
        other._compiled = other._with_files(self._compiled.files)
        return other

    def check_precision(self) -> None:
        """Make sure that images are encoded in the precision the config says.

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

    def _model(self, data: bytes, name: str) -> Any:
        return load_model(data, name, trust_model=self._trust_model)

    @cached_property
    def _encoder(self) -> Any:
        """z_mean and, where it is there, z_log_var; what lies downstream is cut off."""
        model = self._model(self._encoder_bytes, "the encoder")
        return _compiled(model.inputs, list(model.outputs)[:2])

    @cached_property
    def _decoder(self) -> Any:
        model = self._model(self._decoder_bytes or b"", "the decoder")
        return _compiled(model.inputs, list(model.outputs)[:1])

    @cached_property
    def _range(self) -> PixelRange:
        spec = self.config.preprocessing
        return parse_pixel_range(spec.pixel_range, spec.channels)

    def _prepare(self, images: Pixels) -> Floats:
        return self._range.encoder.normalize(images)

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
        if images.shape[1:] != self.config.preprocessing.shape:
            raise InvalidInputError(
                f"images of shape {images.shape[1:]} do not fit the encoder: "
                f"expected {self.config.preprocessing.shape}"
            )
        wanted = 2 if self.config.has_z_log_var else 1
        halves: list[list[Floats]] = [[] for _ in range(wanted)]

        def work(part: slice) -> list[Floats]:
            return self._encoder_outputs(self._prepare(images[part]))

        for outputs in in_chunks(self._compiled.encoder, work, len(images)):
            for kept, part in zip(halves, outputs, strict=False):
                kept.append(part)
        empty = np.empty((0, self.config.latent_dim), np.float32)
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
        spec = self.config.preprocessing
        if self._decoder_bytes is None:
            raise ModelError(
                "this model has no decoder: create the store with a model folder, or with "
                "--encoder and --decoder"
            )
        work = self._decoded
        parts = in_chunks(self._compiled.decoder, lambda part: work(latents[part]), len(latents))
        return np.concatenate([np.empty((0, *spec.shape), np.uint8), *parts])

    def _decoded(self, latents: Floats) -> Pixels:
        spec = self.config.preprocessing
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
        return self._range.decoder.denormalize(values)

    def summaries(self) -> str:
        """Keras's summaries of the encoder and the decoder."""
        lines: list[str] = []
        for data, name in ((self._encoder_bytes, "encoder"), (self._decoder_bytes, "decoder")):
            if data is not None:
                self._model(data, name).summary(print_fn=lambda line: lines.append(line))
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

        from latentdb.base.errors import MissingExtraError

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
        encoder = self._model(self._encoder_bytes, "the encoder")
        model = encoder
        if self._decoder_bytes is not None:
            decoder = self._model(self._decoder_bytes, "the decoder")
            outputs = list(encoder.outputs)
            latent = outputs[-1] if len(outputs) == 3 else outputs[0]
            model = keras.Model(encoder.inputs, decoder(latent), name="vae")
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
    first = _fingerprint(encoder, f"the encoder in {name}", asdict(spec))
    if decoder is None:
        return first, None
    return first, _fingerprint(decoder, f"the decoder in {name}", spec.pixel_range)


def _fingerprint(data: bytes, name: str, *parts: object) -> str:
    text = json.dumps([parse(data, name).weights.digest(), *parts], sort_keys=True)
    return sha256(text.encode()).hexdigest()[:16]


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
        if len(shape) != 4 and None not in shape[1:]:  # an encoder of flattened images
            values = tf.reshape(values, (tf.shape(values)[0], *shape[1:]))
        result = half(tf.ensure_shape(values, shape), training=False)
        return result if isinstance(result, list | tuple) else [result]

    return run
