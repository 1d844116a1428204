"""The model inside a store: loaded, compiled, compared; and a summary of the store."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

from latentdb.ann.metrics import CENTERED_COSINE
from latentdb.base.errors import (
    CorruptStoreError,
    InvalidInputError,
    ModelError,
    ModelMismatchError,
    NotFoundError,
    StoreError,
)
from latentdb.kerasfile.container import parse
from latentdb.model.calibration import import_model, is_file
from latentdb.model.codec import Codec
from latentdb.model.config import CONFIG_FILE, KERAS, NETWORK_FILES, ONNX, ModelConfig, ModelOptions
from latentdb.model.fingerprint import VERSION, encoder_fingerprint, version_of
from latentdb.model.live import LiveModel, is_live, live_model
from latentdb.onnx.compiled import ENCODER_ONNX, ONNX_FILES, compiled_name
from latentdb.search.results import Info
from latentdb.store.manifest import Settings
from latentdb.store.snapshot import Snapshot
from latentdb.store.writer import Writer

PathLike = str | os.PathLike[str]
# Two Keras models, a VAE of Keras, or a function that returns one of these: keras is not imported.
LiveLike = Callable[[], object] | tuple[Any, Any]
ModelLike = str | os.PathLike[str] | tuple[PathLike, PathLike] | Codec | LiveModel | LiveLike


def load_model(
    model: ModelLike,
    *,
    options: ModelOptions | None = None,
    images: Sequence[PathLike] | None = None,
) -> Codec:
    """The codec of a model folder, of a file with a whole VAE, of two files, or the given one.

    Parameters
    ----------
    model
        One of these; two files are the encoder's and the decoder's.  Or Keras models in
        memory, or a function that returns them: see `latentdb.model.live.live_model`.
    options, images
        Of a file: see `latentdb.model.calibration.import_model`.
    """
    live = _live(model)
    if live is not None:
        return import_model(live, options=options, images=images)
    if isinstance(model, tuple):
        encoder, decoder = model
        return import_model(encoder, decoder, options=options, images=images)
    if not isinstance(model, Codec) and is_file(model):
        return import_model(cast(PathLike, model), options=options, images=images)
    if options is not None and replace(options, trust_model=False) != ModelOptions():
        names = [field.name for field in fields(options) if field.name != "trust_model"]
        raise InvalidInputError(
            f"{', '.join(names[:-1])} and {names[-1]} describe a model file made elsewhere: a "
            "model folder states its own, leave them out"
        )
    if isinstance(model, Codec):
        return model
    return Codec.from_folder(
        cast(PathLike, model), trust_model=options is not None and options.trust_model
    )


def _live(model: object) -> LiveModel | None:
    """The Keras models in memory that were given; None for another model."""
    if isinstance(model, LiveModel):
        return model
    return live_model(model) if not isinstance(model, Codec) and is_live(model) else None


def config_of(snapshot: Snapshot) -> ModelConfig | None:
    """The config of a store's model; None if the store has no model."""
    model = snapshot.manifest.model
    if model is None:
        return None
    name = f"model/{CONFIG_FILE}"
    entry = next((file for file in model.files if file.name == name), None)
    if entry is None:
        raise CorruptStoreError(f"{snapshot.folder}: its manifest names no {name}")
    return ModelConfig.from_json(bytes(snapshot.file(entry)).decode(errors="replace"), name)


def codec_of(snapshot: Snapshot, *, trust_model: bool = False) -> Codec:
    """The codec of a store's model; `trust_model` runs code that its files contain.

    Raises
    ------
    ModelError
        If the store has no model.
    CorruptStoreError
        If a file is damaged, or differs from the fingerprint in the manifest.
    """
    model, config = snapshot.manifest.model, config_of(snapshot)
    if model is None or config is None:
        raise ModelError(
            "this store has no model: its ready-made vectors can be queried by id or vector, "
            "but not decoded; create a store with a model to encode and decode"
        )
    files = {}
    for entry in model.files:
        compiled = compiled_name(entry.name)
        try:
            files[compiled or Path(entry.name).name] = bytes(snapshot.file(entry))
        except (CorruptStoreError, NotFoundError) as error:
            if compiled is None:
                raise
            warnings.warn(
                f"{error}; tensorflow is used instead, latentdb verify --repair deletes the file",
                RuntimeWarning,
                stacklevel=3,
            )
    stated = (model.encoder_fingerprint, model.decoder_fingerprint)
    name = str(snapshot.folder / "model")
    first, second = NETWORK_FILES[config.format]
    if first not in files or stated != (
        config.encoder_fingerprint,
        config.decoder_fingerprint,
    ):
        raise CorruptStoreError(f"{name} is not the model that the manifest names")
    return Codec.from_bytes(
        config,
        files[first],
        files.get(second),
        name=name,
        compiled=files,
        trust_model=trust_model,
    )


def search_settings(config: ModelConfig, recall: float) -> Settings:
    """How a new store of a model is searched: by the metric that its training chose."""
    metric, centre = config.about.get("metric"), config.about.get("centre")
    if metric != CENTERED_COSINE or not isinstance(centre, list):
        return Settings(recall=recall)
    numbers = [value for value in centre if type(value) in (int, float) and math.isfinite(value)]
    if len(centre) != config.latent_dim or len(numbers) != len(centre):
        return Settings(recall=recall)
    return Settings(
        recall=recall,
        metric=CENTERED_COSINE,
        centre=tuple(map(float, numbers)),
        default_metric=CENTERED_COSINE,
    )


def store_compiled(writer: Writer, codec: Codec) -> Codec:
    """Compile the model of a store that has no compiled form, and store the files.

    Only after tensorflow was used: loading it would take longer than compiling.
    """
    if not codec.used_tensorflow:
        return codec
    compiled = codec.compiled()
    files = {name: data for name, data in compiled.files.items() if name in ONNX_FILES}
    if compiled is not codec and files:
        try:
            writer.set_compiled(files)
        except StoreError as error:
            # Not an error: the rows themselves are committed.
            warnings.warn(
                f"the compiled model was not stored ({error})", RuntimeWarning, stacklevel=3
            )
    return compiled


def check_same_model(snapshot: Snapshot, codec: Codec) -> None:
    """Refuse any model other than the store's.

    Raises
    ------
    ModelMismatchError
        If a fingerprint differs; names both.
    """
    model, config = snapshot.manifest.model, codec.config
    if model is None:
        raise ModelMismatchError(
            f"this store has no model, received one with encoder {config.encoder_fingerprint}: "
            "index into a store that was created with it"
        )
    own = (model.encoder_fingerprint, model.decoder_fingerprint)
    other = (config.encoder_fingerprint, config.decoder_fingerprint)
    if any(version_of(one) < VERSION for one in (*own, *other) if one is not None):
        # Old fingerprints do not cover the architecture: compare current ones.
        own, other = codec_of(snapshot).current_fingerprints(), codec.current_fingerprints()
    for network, stated, given in zip(("encoder", "decoder"), own, other, strict=True):
        if stated != given:
            raise ModelMismatchError(
                f"the {network} received has fingerprint {given}, this store's latents are of "
                f"{network} {stated}: leave the model out to use the store's, "
                "or index into a new store"
            )


def is_own_encoder(snapshot: Snapshot, fingerprint: str) -> bool:
    """Whether a fingerprint, of whichever version, is that of the store's encoder."""
    model = snapshot.manifest.model
    if model is None or version_of(fingerprint) == version_of(model.encoder_fingerprint):
        return model is not None and fingerprint == model.encoder_fingerprint
    codec = codec_of(snapshot)
    if codec.config.format != KERAS:
        return False  # there was no other format before version 2
    name = NETWORK_FILES[KERAS][0]
    file, spec = parse(codec.files[name], name), codec.config.preprocessing
    return fingerprint == encoder_fingerprint(
        file, spec, codec.config.condition, version=version_of(fingerprint)
    )


def describe(snapshot: Snapshot) -> Info:
    """Size, model and search index of a store."""
    manifest = snapshot.manifest
    entry = manifest.index
    return Info(
        path=str(snapshot.folder),
        uuid=manifest.uuid,
        version=manifest.version,
        rows=manifest.rows,
        deleted_rows=manifest.deleted_rows,
        dim=manifest.dim,
        segments=len(manifest.segments),
        bytes=sum(file.bytes for file in manifest.files()),
        columns=manifest.columns,
        model=config_of(snapshot),
        compiled=any(
            compiled_name(name) == ENCODER_ONNX or Path(name).name == NETWORK_FILES[ONNX][0]
            for name in manifest.file_names()
        ),
        recall_target=manifest.settings.recall,
        search="exact scan" if entry is None else entry.kind,
        index=entry,
        covered_rows=0 if entry is None else entry.rows,
        default_metric=manifest.settings.default_metric,
        roots=manifest.roots,
        buried=0 if manifest.tombstones is None else manifest.tombstones.rows,
        dtype=manifest.dtype,
    )


def load_other_model(
    snapshot: Snapshot,
    model: ModelLike | None = None,
    *,
    encoder: PathLike | None = None,
    decoder: PathLike | None = None,
    options: ModelOptions | None = None,
) -> Codec:
    """A model to compare with the store's: see `check_same_model`.

    Parameters
    ----------
    model, encoder, decoder
        As in `LatentDB.create`.
    options
        Where they say nothing of how images are read, a file is used with the store's rules.
    """
    options = options or ModelOptions()
    config = config_of(snapshot)
    model = _live(model) or model
    is_foreign = isinstance(model, tuple | LiveModel) or is_file(model)
    if config is not None and (encoder is not None or is_foreign):
        options = options.with_defaults(config.preprocessing)
    if encoder is not None:
        return import_model(encoder, decoder, options=options)
    return load_model(model or "", options=options)
