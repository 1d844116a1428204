"""The model inside a store, and what a store is altogether."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from latentdb.base.errors import (
    CorruptStoreError,
    InvalidInputError,
    ModelError,
    ModelMismatchError,
    NotFoundError,
    StoreError,
)
from latentdb.model.calibration import import_model, is_file
from latentdb.model.codec import CONFIG_FILE, DECODER_FILE, ENCODER_FILE, Codec
from latentdb.model.config import ModelConfig, ModelOptions
from latentdb.onnx.compiled import ENCODER_ONNX, NAMES, compiled_name
from latentdb.search.results import Info
from latentdb.store.snapshot import Snapshot
from latentdb.store.writer import Writer

PathLike = str | os.PathLike[str]
ModelLike = str | os.PathLike[str] | Codec


def load_model(
    model: ModelLike,
    *,
    options: ModelOptions | None = None,
    images: Sequence[PathLike] | None = None,
) -> Codec:
    """A model folder, a file with a whole VAE, or a codec as it is.

    Parameters
    ----------
    model
        One of these.
    options, images
        For a file: see `latentdb.model.calibration.import_model`.
    """
    if not isinstance(model, Codec) and is_file(model):
        return import_model(model, options=options, images=images)
    if options is not None and replace(options, trust_model=False) != ModelOptions():
        raise InvalidInputError(
            "z_mean, z_log_var, image_size, channels, pixel_range and resize are of a file or an "
            "encoder made elsewhere: a model folder says its own, leave them out"
        )
    if isinstance(model, Codec):
        return model
    return Codec.from_folder(model, trust_model=options is not None and options.trust_model)


def config_of(snapshot: Snapshot) -> ModelConfig | None:
    """The config of a store's model; None if it has no model."""
    model = snapshot.manifest.model
    if model is None:
        return None
    name = f"model/{CONFIG_FILE}"
    entry = next((file for file in model.files if file.name == name), None)
    if entry is None:
        raise CorruptStoreError(f"{snapshot.folder}: its manifest names no {name}")
    return ModelConfig.from_json(bytes(snapshot.file(entry)).decode(errors="replace"), name)


def codec_of(snapshot: Snapshot, *, trust_model: bool = False) -> Codec:
    """The model of a store, ready to be used; `trust_model` runs code that is in it.

    Raises
    ------
    ModelError
        If the store was made without one.
    CorruptStoreError
        If its files are not those the manifest speaks of.
    """
    model, config = snapshot.manifest.model, config_of(snapshot)
    if model is None or config is None:
        raise ModelError(
            "this store has no model: it holds ready-made vectors, which can be queried "
            "by id or vector but not decoded; create it with a model to do both"
        )
    files = {}
    for entry in model.files:
        made = compiled_name(entry.name)
        try:
            files[made or Path(entry.name).name] = bytes(snapshot.file(entry))
        except (CorruptStoreError, NotFoundError) as error:
            if made is None:
                raise
            warnings.warn(
                f"{error}; tensorflow is used instead, latentdb verify --repair drops the file",
                RuntimeWarning,
                stacklevel=3,
            )
    stated = (model.encoder_fingerprint, model.decoder_fingerprint)
    name = str(snapshot.folder / "model")
    if ENCODER_FILE not in files or stated != (
        config.encoder_fingerprint,
        config.decoder_fingerprint,
    ):
        raise CorruptStoreError(f"{name} is not the model the manifest speaks of")
    return Codec.from_bytes(
        config,
        files[ENCODER_FILE],
        files.get(DECODER_FILE),
        name=name,
        compiled=files,
        trust_model=trust_model,
    )


def store_compiled(writer: Writer, codec: Codec) -> Codec:
    """Compile the model of a store that was made without, where that can be done.

    Only after tensorflow was used: loading it takes longer than compiling.
    """
    if not codec.used_tensorflow:
        return codec
    made = codec.compiled()
    files = {name: data for name, data in made.files.items() if name in NAMES}
    if made is not codec and files:
        try:
            writer.set_compiled(files)
        except StoreError as error:
            # The rows are committed: what was asked for is done.
            warnings.warn(
                f"the compiled model was not kept ({error})", RuntimeWarning, stacklevel=3
            )
    return made


def check_same_model(snapshot: Snapshot, codec: Codec) -> None:
    """Refuse any model but the store's own.

    Raises
    ------
    ModelMismatchError
        Names both fingerprints.
    """
    own, config = snapshot.manifest.model, codec.config
    if own is None:
        raise ModelMismatchError(
            f"this store has no model, received one with encoder {config.encoder_fingerprint}: "
            "index into a store that was created with it"
        )
    for half, stated, given in (
        ("encoder", own.encoder_fingerprint, config.encoder_fingerprint),
        ("decoder", own.decoder_fingerprint, config.decoder_fingerprint),
    ):
        if stated != given:
            raise ModelMismatchError(
                f"the {half} received has fingerprint {given}, this store's latents are of "
                f"{half} {stated}: leave --model out to use the store's own, "
                "or index into a new store"
            )


def describe(snapshot: Snapshot) -> Info:
    """What a store is and how it is searched."""
    manifest = snapshot.manifest
    entry = manifest.index
    sizes = [segment.file.bytes for segment in manifest.segments]
    sizes += [] if entry is None else [entry.file.bytes]
    sizes += [] if manifest.deletions is None else [manifest.deletions.file.bytes]
    sizes += [] if manifest.model is None else [file.bytes for file in manifest.model.files]
    return Info(
        path=str(snapshot.folder),
        uuid=manifest.uuid,
        version=manifest.version,
        rows=manifest.rows,
        deleted_rows=manifest.deleted_rows,
        dim=manifest.dim,
        segments=len(manifest.segments),
        bytes=sum(sizes),
        columns=manifest.columns,
        model=config_of(snapshot),
        compiled=any(compiled_name(name) == ENCODER_ONNX for name in manifest.file_names()),
        recall_target=manifest.settings.recall,
        search="exact scan" if entry is None else entry.kind,
        index=entry,
        covered_rows=0 if entry is None else entry.rows,
    )
