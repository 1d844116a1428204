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
from latentdb.model.config import KERAS, ONNX
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


def encoder_fingerprint(encoder: ModelFile, spec: Preprocessing, *, version: int = VERSION) -> str:
    """The fingerprint of an encoder and its preprocessing.

    Raises
    ------
    ModelError
        If the configuration of the file is not one that keras writes.
    """
    return _fingerprint(encoder, spec.to_record(), ENCODER_OUTPUTS, version)


def decoder_fingerprint(decoder: ModelFile, spec: Preprocessing, *, version: int = VERSION) -> str:
    """The fingerprint of a decoder and its pixel range; raises as `encoder_fingerprint`."""
    return _fingerprint(decoder, spec.pixel_range, 1, version)


def onnx_fingerprint(data: bytes, name: str, part: object) -> str:
    """The fingerprint of an ONNX encoder or decoder.

    Parameters
    ----------
    data, name
        The .onnx file, and its name in error messages.
    part
        The record of the preprocessing, or the pixel range of a decoder.
    """
    return f"v{VERSION}:{_digest(['onnx', graph_digest(data, name), part])}"


def fingerprints(
    encoder: bytes, decoder: bytes | None, spec: Preprocessing, name: str, format: str = KERAS
) -> tuple[str, str | None]:
    """Fingerprints of an encoder and of a decoder, in the current version.

    Raises
    ------
    ModelError
        If a file is none of the format.
    """
    if format == ONNX:
        one = onnx_fingerprint(encoder, f"the encoder in {name}", spec.to_record())
        if decoder is None:
            return one, None
        return one, onnx_fingerprint(decoder, f"the decoder in {name}", spec.pixel_range)
    first = encoder_fingerprint(parse(encoder, f"the encoder in {name}"), spec)
    if decoder is None:
        return first, None
    return first, decoder_fingerprint(parse(decoder, f"the decoder in {name}"), spec)


def _fingerprint(file: ModelFile, part: object, outputs: int, version: int) -> str:
    parts = [file.weights.digest(), part]
    if version == 1:
        return _digest(parts)
    return f"v{version}:{_digest([*parts, canonical(file, outputs)])}"


def _digest(parts: list[object]) -> str:
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
