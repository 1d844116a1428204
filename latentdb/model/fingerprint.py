"""Fingerprints: which encoder with which preprocessing, and which decoder with which pixel range.

They cover weights as arrays and not the bytes of a file.  Since version 2
(``v2:`` and 16 hex digits) they cover what the layers compute too: in version 1
(16 hex digits) the same weights under relu and under tanh share one.  A model
keeps the version that its ``model.json`` states.
"""

from __future__ import annotations

import json
import re
from hashlib import sha256

from latentdb.base.errors import ModelError
from latentdb.images.decode import Preprocessing
from latentdb.kerasfile.canonical import canonical
from latentdb.kerasfile.container import ModelFile, parse
from latentdb.model.condition import Condition
from latentdb.model.config import CONFIG_FILE, KERAS, ONNX, ModelConfig
from latentdb.onnx.adopt import graph_digest

VERSION = 2
ENCODER_OUTPUTS = 2  # z_mean and z_log_var: nothing else of an encoder is used
_VERSIONED = re.compile(r"v(\d{1,9}):")


def version_of(fingerprint: str) -> int:
    """The version of a fingerprint.

    Raises
    ------
    ModelError
        If this version of latentdb does not know it.
    """
    found = _VERSIONED.match(fingerprint)
    version = int(found[1]) if found else 1
    if version > VERSION:
        raise ModelError(
            f"fingerprint {fingerprint!r} has version {version}, this latentdb knows versions "
            f"up to {VERSION}: use a newer latentdb"
        )
    return version


def encoder_fingerprint(
    encoder: ModelFile,
    spec: Preprocessing,
    condition: Condition | None = None,
    *,
    version: int = VERSION,
) -> str:
    """The fingerprint of an encoder, its preprocessing, and its condition if it has one.

    Raises
    ------
    ModelError
        If the configuration of the file is not one that keras writes.
    """
    return _fingerprint(encoder, _encoder_part(spec, condition), ENCODER_OUTPUTS, version)


def decoder_fingerprint(
    decoder: ModelFile,
    spec: Preprocessing,
    condition: Condition | None = None,
    *,
    version: int = VERSION,
) -> str:
    """The fingerprint of a decoder and its pixel range; raises as `encoder_fingerprint`."""
    return _fingerprint(decoder, _decoder_part(spec, condition), 1, version)


def _encoder_part(spec: Preprocessing, condition: Condition | None) -> object:
    if condition is None or condition.encoder is None:
        return spec.to_record()
    return [spec.to_record(), condition.to_record()]


def _decoder_part(spec: Preprocessing, condition: Condition | None) -> object:
    if condition is None or condition.decoder is None:
        return spec.pixel_range
    return [spec.pixel_range, condition.to_record()]


def onnx_fingerprint(data: bytes, name: str, part: object) -> str:
    """The fingerprint of an ONNX encoder or decoder.

    Parameters
    ----------
    data, name
        The .onnx file, and its name in error messages.
    part
        The record of the preprocessing, or the pixel range of a decoder; and its condition.
    """
    return f"v{VERSION}:{_digest(['onnx', graph_digest(data, name), part])}"


def fingerprints(
    encoder: bytes,
    decoder: bytes | None,
    spec: Preprocessing,
    name: str,
    format: str = KERAS,
    condition: Condition | None = None,
) -> tuple[str, str | None]:
    """Fingerprints of an encoder and of a decoder, in the current version.

    Raises
    ------
    ModelError
        If a file is none of the format.
    """
    if format == ONNX:
        part = _encoder_part(spec, condition)
        one = onnx_fingerprint(encoder, f"the encoder in {name}", part)
        if decoder is None:
            return one, None
        part = _decoder_part(spec, condition)
        return one, onnx_fingerprint(decoder, f"the decoder in {name}", part)
    first = encoder_fingerprint(parse(encoder, f"the encoder in {name}"), spec, condition)
    if decoder is None:
        return first, None
    return first, decoder_fingerprint(parse(decoder, f"the decoder in {name}"), spec, condition)


def check_fingerprints(
    config: ModelConfig, encoder: bytes, decoder: bytes | None, name: str
) -> ModelFile | None:
    """Refuse an encoder or a decoder that is not the one of its config.

    Returns
    -------
    ModelFile or None
        The encoder as it was read; None of ONNX.

    Raises
    ------
    ModelError
        If a fingerprint differs from the config's, or a file is none of its format.
    """
    spec, condition = config.preprocessing, config.condition
    stated = (config.encoder_fingerprint, config.decoder_fingerprint)
    file: ModelFile | None = None
    if config.format == ONNX:
        found = fingerprints(encoder, decoder, spec, name, ONNX, condition)
    else:
        versions = [version_of(one or "") for one in stated]
        file, second = parse(encoder, f"the encoder in {name}"), None
        if decoder is not None:
            parsed = parse(decoder, f"the decoder in {name}")
            second = decoder_fingerprint(parsed, spec, condition, version=versions[1])
        found = encoder_fingerprint(file, spec, condition, version=versions[0]), second
    for network, one, actual in zip(("encoder", "decoder"), stated, found, strict=True):
        if one != actual:
            raise ModelError(
                f"the {network} in {name} has fingerprint {actual}, its {CONFIG_FILE} says "
                f"{one}: the files are of different models; put the original file back, or "
                "give encoder and decoder as files of their own (--encoder, --decoder)"
            )
    return file


def _fingerprint(file: ModelFile, part: object, outputs: int, version: int) -> str:
    parts = [file.weights.digest(), part]
    if version == 1:
        return _digest(parts)
    return f"v{version}:{_digest([*parts, canonical(file, outputs)])}"


def _digest(parts: list[object]) -> str:
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
