"""Load the encoder and the decoder of a model, and use each alone.

The encoder turns images into ``z_mean`` (and ``z_log_var``), never into a
sampled z; the decoder turns latents into images.  Configuration and
fingerprints are read as data; the compiled form is used where there is one, and
tensorflow is imported at the first image or latent otherwise.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError, ModelError, NotFoundError
from latentdb.base.files import is_temporary
from latentdb.base.outputs import Output
from latentdb.base.wording import quoted
from latentdb.images.decode import Preprocessing
from latentdb.images.pixel_range import PixelRange, parse_pixel_range
from latentdb.kerasfile.canonical import output_count
from latentdb.kerasfile.container import read_file
from latentdb.kerasfile.convert import load_model
from latentdb.kerasfile.runtime import quiet_stderr
from latentdb.model.config import CONFIG_FILE, KERAS, NETWORK_FILES, ONNX, ModelConfig, ModelOptions
from latentdb.model.fingerprint import check_fingerprints, fingerprints
from latentdb.model.foreign import ForeignModel, read_foreign, read_live, with_sigmoid
from latentdb.model.keras_networks import (
    check_plot,
    graph_function,
    plot,
    run_network,
    summaries,
)
from latentdb.model.live import LiveModel, agrees
from latentdb.model.range_fit import RangeFit, fit_ranges
from latentdb.onnx import export, runtime
from latentdb.onnx.compiled import ONNX_FILES, CompiledModel, OnnxModel, compile_model, map_chunks

BATCH = 256  # images that reading and decoding hold at a time
_NO_LOG_VAR = (
    f"the encoder gives z_mean alone, and its {CONFIG_FILE} says has_z_log_var: "
    "set it to false, or give the encoder that has both"
)

RowsMetadata = Sequence[Mapping[str, Any]]

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
        The model's files by name (bytes), as a store holds them.
    notes
        What was decided while importing a model made elsewhere, for people.
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
        self._value: float | None = None  # of the condition, where one holds for everything
        self._compiled = self._with_files(compiled or {})

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str], *, trust_model: bool = False) -> Codec:
        """The model of a folder that ``latentdb train`` wrote.

        Parameters
        ----------
        folder
            Holds ``model.json`` and the model files.
        trust_model
            Run the code in the files, if they contain any.

        Raises
        ------
        NotFoundError
            If the folder or its encoder is missing.
        ModelError
            If a file is damaged, or differs from the fingerprint in `model.json`.
        """
        path = Path(folder)
        if not path.is_dir():
            raise NotFoundError(
                f"{path} is not a folder: give a model folder made by latentdb train, a .keras or "
                ".h5 file with a whole VAE, or an encoder and a decoder (--encoder, --decoder)"
            )
        if is_temporary(path.absolute()):
            raise ModelError(
                f"{path} is what a training that was killed left behind: delete it, train again"
            )
        text = read_file(path / CONFIG_FILE, "the config of a model made by latentdb train")
        config = ModelConfig.from_json(text.decode(errors="replace"), str(path / CONFIG_FILE))
        first, second = (path / file for file in NETWORK_FILES[config.format])
        encoder = read_file(first, "the encoder of a latentdb model")
        data = read_file(second, "the decoder") if second.exists() else None
        compiled = {
            name: read_file(path / name, "a compiled encoder or decoder")
            for name in ONNX_FILES
            if (path / name).exists()
        }
        return cls.from_bytes(
            config, encoder, data, name=str(path), compiled=compiled, trust_model=trust_model
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
        """The model of a config and its files, which are checked to belong together.

        Raises
        ------
        ModelError
            If a fingerprint, or the number of outputs, differs from the config's.
        """
        file = check_fingerprints(config, encoder, decoder, name)
        if file is None:
            return cls(config, encoder, decoder)
        if config.has_z_log_var and output_count(file) == 1:
            raise ModelError(f"in {name}, {_NO_LOG_VAR}")
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
        model = read_foreign(encoder, decoder, options or ModelOptions())
        codec = cls._of(model)
        codec._check_outputs(os.fspath(encoder))
        return codec

    @classmethod
    def from_models(cls, model: LiveModel, *, options: ModelOptions | None = None) -> Codec:
        """A codec of Keras models in memory, which is compared with them.

        What it holds is built from allow-listed layers, or an ONNX graph where a layer is not
        on the list.

        Raises
        ------
        ModelError
            If there is no such form of them.
        MissingExtraError
            If it is ONNX, without the extra ``fast``.
        """
        for found in read_live(model, options or ModelOptions()):
            codec = cls._of(found)
            codec._check_outputs(model.name)
            decode = codec._run_decoder if codec.has_decoder else None
            shape = found.config.preprocessing.shape
            is_conditional = found.config.condition is not None  # takes what files hold, as data
            if is_conditional or agrees(model, codec._run_encoder, decode, shape):
                return codec
        raise ModelError(
            f"{model.name}: what a store can keep of it gives other latents or images than it "
            "gives itself; save it as .keras, or export it as .onnx"
        )

    @classmethod
    def _of(cls, model: ForeignModel) -> Codec:
        return cls(
            model.config,
            model.encoder,
            model.decoder,
            trust_model=model.trust_model,
            notes=model.notes,
        )

    def _check_outputs(self, name: str) -> None:
        """Run encoder and decoder once: z_mean is not random, and the decoder accepts it."""
        random = np.random.default_rng(0)
        # One image: a file made to exhaust the memory may take a GiB for each.
        images = random.integers(0, 256, (1, *self.config.preprocessing.shape), np.uint8)
        # Of whichever class: the first.
        codec = self if self.config.condition is None else self._with_value(0.0)
        values = codec._conditioned(codec._prepare(images), "encoder", None)
        z_mean = codec._run_encoder(values)[0]
        if not np.array_equal(z_mean, codec._run_encoder(values)[0]):
            raise ModelError(
                f"the first output of {name} differs from run to run: it is a sampled z, "
                "expected z_mean; --z-mean LAYER names its layer"
            )
        if self.has_decoder:
            codec.decode(z_mean)

    # --- copies with one thing changed -------------------------------------------

    def with_preprocessing(self, spec: Preprocessing) -> Codec:
        """The same model with another preprocessing, and so with other fingerprints."""
        encoder, decoder = self._fingerprints_with(spec)
        config = replace(
            self.config,
            preprocessing=spec,
            encoder_fingerprint=encoder,
            decoder_fingerprint=decoder,
        )
        return self._with_config(config)

    def current_fingerprints(self) -> tuple[str, str | None]:
        """Fingerprints of encoder and decoder in the current version, whatever the config's are."""
        return self._fingerprints_with(self.config.preprocessing)

    def _fingerprints_with(self, spec: Preprocessing) -> tuple[str, str | None]:
        config = self.config
        return fingerprints(
            self._encoder_bytes, self._decoder_bytes, spec, "the model", config.format,
            config.condition,
        )  # fmt: skip

    def with_sigmoid(self) -> Codec:
        """The same model with a sigmoid behind its decoder, which gives logits.

        Raises
        ------
        ModelError
            If it has no decoder.
        """
        model = ForeignModel(
            self.config, self._encoder_bytes, self._decoder_bytes, self.notes, self._trust_model
        )
        return self._of(with_sigmoid(model))

    def with_precision(self, precision: str) -> Codec:
        """The same model, used in ``"float32"`` or ``"bf16"``.

        Raises
        ------
        ModelError, MissingExtraError
            If this machine cannot compute in it.
        """
        runtime.check_precision(precision)
        return self._with_config(replace(self.config, precision=precision))

    def with_condition(self, value: object) -> Codec:
        """The same model, which encodes and decodes everything under one value of its condition.

        Raises
        ------
        InvalidInputError
            If the model has no condition, or the value is not accepted.
        """
        condition = self.config.condition
        if condition is None:
            raise InvalidInputError(
                f"condition {quoted(value)}: this model is not conditional, leave it out"
            )
        return self._with_value(condition.parse(value))

    def _with_value(self, value: float) -> Codec:
        other = copy(self)
        other._value = value
        return other

    def with_notes(self, *notes: str) -> Codec:
        """The same model with further notes."""
        other = copy(self)
        other.notes = (*self.notes, *notes)
        return other

    def compiled(self) -> Codec:
        """The same model with its compiled form, which runs without tensorflow.

        Tensorflow compiles it, and each network that differs from keras is left
        out with a warning.  Without the extra ``fast``, or where there is a
        compiled form already: the codec itself.
        """
        if self._compiled.is_complete or not (runtime.is_available() and export.is_available()):
            return self
        config = self.config
        images = self._prepare(export.comparison_images(config.preprocessing.shape))
        with quiet_stderr():
            files, problems = compile_model(
                self._in_turn(images, "encoder"),
                (self._encoder, config.encoder_fingerprint),
                (self._decoder, config.decoder_fingerprint) if config.decoder_fingerprint else None,
                config.precision,
                lambda latents: self._in_turn(latents, "decoder"),
            )
        for problem in problems:  # outside of quiet_stderr, which would swallow the warning
            warnings.warn(problem, RuntimeWarning, stacklevel=3)
        other = copy(self)
        other._compiled = self._with_files(files)
        return other

    def _with_config(self, config: ModelConfig) -> Codec:
        other = copy(self)
        other.config = config
        other._compiled = other._with_files(self._compiled.files)
        return other

    def _with_files(self, files: Mapping[str, bytes]) -> CompiledModel | OnnxModel:
        config = self.config
        if config.format == ONNX:
            return OnnxModel(self._encoder_bytes, self._decoder_bytes, config.precision)
        return CompiledModel(
            files, config.encoder_fingerprint, config.decoder_fingerprint, config.precision
        )

    # --- what it holds -----------------------------------------------------------

    @property
    def files(self) -> dict[str, bytes]:
        first, second = NETWORK_FILES[self.config.format]
        named = {CONFIG_FILE: self.config.to_json().encode(), first: self._encoder_bytes}
        if self._decoder_bytes is not None:
            named[second] = self._decoder_bytes
        return named | self._compiled.files

    def check_precision(self) -> None:
        """Make sure that images can be encoded in the precision of the config.

        Raises
        ------
        ModelError, MissingExtraError
            If this machine cannot: a store never mixes vectors of two precisions.
        """
        self._compiled.check_precision()

    @property
    def used_tensorflow(self) -> bool:
        """Whether tensorflow has encoded an image, for lack of a compiled encoder."""
        return "_encoder" in vars(self)

    @property
    def has_decoder(self) -> bool:
        return self._decoder_bytes is not None

    @property
    def needs_condition(self) -> bool:
        """Whether the model is conditional, and no one value of the condition holds."""
        return self.config.condition is not None and self._value is None

    # --- encode and decode -------------------------------------------------------

    def _keras_model(self, data: bytes, name: str) -> Any:
        return load_model(data, name, trust_model=self._trust_model)

    @cached_property
    def _encoder(self) -> Any:
        """Gives z_mean and, where the model has it, z_log_var; everything downstream is cut off."""
        model = self._keras_model(self._encoder_bytes, "the encoder")
        return graph_function(model.inputs, list(model.outputs)[:2])

    @cached_property
    def _decoder(self) -> Any:
        model = self._keras_model(self._decoder_bytes or b"", "the decoder")
        return graph_function(model.inputs, list(model.outputs)[:1])

    @property
    def _range(self) -> PixelRange:
        spec = self.config.preprocessing
        return parse_pixel_range(spec.pixel_range, spec.channels)

    def _prepare(self, images: Pixels) -> Floats:
        return self._range.encoder.normalize(images)

    def _run_encoder(self, values: Floats) -> list[Floats]:
        run = self._compiled.encoder or self._encoder
        return run_network(run, values, "the encoder does not accept images")

    def _run_decoder(self, latents: Floats) -> Floats:
        run = self._compiled.decoder or self._decoder
        return run_network(run, latents, "the decoder does not accept latents")[0]

    def _conditioned(self, values: Floats, network: str, metadata: RowsMetadata | None) -> Floats:
        """The input of a network: of a conditional one, vectors that end in the condition."""
        condition = self.config.condition
        if condition is None:
            return values
        return condition.input(network, values, metadata, self._value)

    def _in_turn(self, values: Floats, network: str) -> Floats:
        """The input of a network, under each class in turn."""
        condition = self.config.condition
        return values if condition is None else condition.in_turn(network, values)

    def encode(
        self, images: Pixels, metadata: RowsMetadata | None = None
    ) -> tuple[Floats, Floats | None]:
        """The posteriors of images.

        Parameters
        ----------
        images
            uint8 ``[n, height, width, channels]``, as `read_image` returns them.
        metadata
            Of each, whence a conditional model takes its condition, unless `with_condition`
            gave one.

        Returns
        -------
        z_mean, z_log_var
            float32 ``[n, d]`` each; z_log_var is None where the encoder has none.

        Raises
        ------
        ModelError
            If a latent is not finite.
        """
        if images.dtype != np.uint8:  # floats in 0..1 would be encoded as black
            raise InvalidInputError(
                f"images are of {images.dtype}: give uint8, 0..255 (LatentDB.add_images also takes "
                "floats in 0..1, and resizes)"
            )
        if images.shape[1:] != self.config.preprocessing.shape:
            raise InvalidInputError(
                f"images of shape {images.shape[1:]} do not fit the encoder: "
                f"expected {self.config.preprocessing.shape}"
            )
        empty = np.empty((0, self.config.latent_dim), np.float32)
        chunks = [[empty] for _ in range(2 if self.config.has_z_log_var else 1)]

        def work(part: slice) -> list[Floats]:
            values = self._prepare(images[part])
            rows = None if metadata is None else metadata[part]
            return self._run_encoder(self._conditioned(values, "encoder", rows))

        for outputs in map_chunks(self._compiled.encoder, work, len(images)):
            if len(outputs) < len(chunks):  # found here where code connects the encoder
                raise ModelError(_NO_LOG_VAR)
            for chunk, output in zip(chunks, outputs[: len(chunks)], strict=True):
                if output.shape[1:] != empty.shape[1:]:
                    raise ModelError(
                        f"the encoder gives latents of shape {list(output.shape[1:])}, its "
                        f"{CONFIG_FILE} says [{self.config.latent_dim}]: put the original back"
                    )
                chunk.append(output)
        z_mean, *z_log_var = (np.concatenate(chunk).astype(np.float32) for chunk in chunks)
        if not all(np.isfinite(latents).all() for latents in (z_mean, *z_log_var)):
            raise ModelError("the encoder gave a latent that is not finite: check its weights")
        return z_mean, z_log_var[0] if z_log_var else None

    def decode(self, latents: Floats, metadata: RowsMetadata | None = None) -> Pixels:
        """The images of latents.

        Parameters
        ----------
        latents
            float32 ``[n, d]``.
        metadata
            As in `encode`.

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

        def work(part: slice) -> Pixels:
            batch = np.asarray(latents[part], np.float32)
            rows = None if metadata is None else metadata[part]
            values = self._run_decoder(self._conditioned(batch, "decoder", rows))
            if values.size != len(batch) * math.prod(spec.shape):
                raise ModelError(
                    f"the decoder gives images of shape {values.shape[1:]}: expected {spec.shape}"
                )
            return self._range.decoder.denormalize(values.reshape(len(batch), *spec.shape))

        chunks = map_chunks(self._compiled.decoder, work, len(latents))
        return np.concatenate([np.empty((0, *spec.shape), np.uint8), *chunks])

    def reconstruction_errors(self, images: Pixels, ranges: Sequence[str]) -> dict[str, RangeFit]:
        """How well images are reconstructed with each of some pixel ranges.

        Parameters
        ----------
        images
            uint8 ``[n, height, width, channels]``, one batch.
        ranges
            As in `latentdb.images.pixel_range`.

        Returns
        -------
        dict
            For each range the mean squared error in pixel values (0..255),
            infinite where a decoded value is not finite; the root mean square of
            z_mean; and the error with a sigmoid behind the decoder.
        """
        channels = self.config.preprocessing.channels
        return fit_ranges(self._run_encoder, self._run_decoder, images, ranges, channels)

    # --- for people --------------------------------------------------------------

    def summaries(self) -> str:
        """Keras's summaries of the encoder and the decoder.

        Raises
        ------
        ModelError
            If the model is no Keras model.
        """
        return summaries(*self._keras_models())

    def plot(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Draw the encoder and the decoder as one graph, as ``keras.utils.plot_model`` does.

        Raises
        ------
        AlreadyExistsError
            If the file exists, unless `overwrite` is set.
        MissingExtraError
            Without pydot.
        ModelError
            Without graphviz's program ``dot``, or if the model is no Keras model.
        """
        output = Output(os.fspath(path), overwrite)
        output.check()
        if self.config.condition is not None:
            raise ModelError("a conditional model cannot be drawn: info lists its layers")
        check_plot()
        plot(*self._keras_models(), output)

    def _keras_models(self) -> tuple[Any, Any]:
        if self.config.format != KERAS:
            raise ModelError(
                "this model is an ONNX file, which has no Keras layers to list: "
                "latentdb info says its sizes, and netron draws its graph"
            )
        decoder = self._decoder_bytes
        return (
            self._keras_model(self._encoder_bytes, "the encoder"),
            None if decoder is None else self._keras_model(decoder, "the decoder"),
        )
