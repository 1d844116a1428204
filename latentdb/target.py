"""What a command is about: an id in the store, an image file, or a vector."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from tokenize import TokenError
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.format import MAGIC_PREFIX
from numpy.typing import NDArray

from latentdb.codec import Codec
from latentdb.errors import InvalidInputError, NotFoundError
from latentdb.images import read_image
from latentdb.inputs import as_latents
from latentdb.segment import Floats
from latentdb.store import Snapshot

TargetLike: TypeAlias = str | os.PathLike[str] | NDArray[Any] | Sequence[float]

# What numpy is known to raise for a damaged header.
_NOT_NPY = (
    OSError, ValueError, EOFError, TypeError, SyntaxError, TokenError, ArithmeticError,
    MemoryError, RecursionError,
)  # fmt: skip
KINDS = ("id", "file", "npy")
_LOOKED_AT = 10_000  # ids that are compared with a mistyped one


@dataclass(frozen=True, eq=False)
class Target:
    """A target that was found.

    Attributes
    ----------
    kind
        ``"id"``, ``"file"``, ``"npy"`` or ``"vector"``.
    name
        The id or the path; ``"vector"`` for an array.
    vector
        float32 ``[d]``: its z_mean.
    """

    kind: str
    name: str
    vector: Floats


def resolve(
    snapshot: Snapshot, codec: Callable[[], Codec], targets: Sequence[TargetLike]
) -> list[Target]:
    """Find targets: ids first, then files; ``id:``, ``file:`` and ``npy:`` settle a doubt.

    Parameters
    ----------
    snapshot
        The version to look ids up in.
    codec
        Gives the store's model; called only if there is an image to encode.
    targets
        Texts, paths (always files) and arrays ``[d]``.

    Raises
    ------
    NotFoundError
        If a text is neither an id nor a file.
    InvalidInputError, ImageError
        If a vector does not fit the store, or a file cannot be read.
    """
    split = [_split(target) for target in targets]
    names = [text for kind, text in split if kind in ("id", "any")]
    rows = dict(zip(names, snapshot.locate(names).tolist(), strict=True)) if names else {}
    known = [name for name, row in rows.items() if row >= 0]
    vectors = snapshot.vectors(np.array([rows[name] for name in known], np.int64))
    by_id = dict(zip(known, vectors, strict=True))
    found: list[Target | None] = []
    images: list[str] = []
    for target, (kind, text) in zip(targets, split, strict=True):
        if kind == "vector":
            found.append(Target("vector", "vector", _one(target, snapshot.dim, "the vector")))
        elif text in by_id and kind in ("id", "any"):
            found.append(Target("id", text, by_id[text]))
        elif kind == "id" or (kind == "any" and not os.path.exists(text)):
            raise _not_found(snapshot, text, kind)
        elif kind == "npy" or (kind == "any" and text.endswith(".npy")):
            found.append(Target("npy", text, _load(text, snapshot.dim)))
        else:
            images.append(text)
            found.append(None)
    if images:
        model = codec()
        spec = model.card.preprocessing
        means = model.encode(np.stack([read_image(name, spec) for name in images]))[0]
        fill = iter(Target("file", n, mean) for n, mean in zip(images, means, strict=True))
        return [next(fill) if target is None else target for target in found]
    return [target for target in found if target is not None]


def _split(target: TargetLike) -> tuple[str, str]:
    if isinstance(target, str):
        kind, colon, rest = target.partition(":")
        return (kind, rest) if colon and kind in KINDS else ("any", target)
    if isinstance(target, os.PathLike):
        return ("npy" if os.fspath(target).endswith(".npy") else "file"), os.fspath(target)
    return "vector", ""


def _one(values: Any, dim: int, name: str) -> Floats:
    """A vector given as [d] or [1, d]."""
    try:
        array = np.asanyarray(values)  # a mask is told by as_latents
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"{name} is not numbers ({error}): expected [{dim}]") from error
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or len(array) != 1:
        raise InvalidInputError(f"{name} has shape {list(array.shape)}: expected [{dim}]")
    only: Floats = as_latents(array, dim, name)[0]
    return only


def _load(path: str, dim: int) -> Floats:
    if not os.path.isfile(path):
        raise NotFoundError(f"{path} does not exist: expected a .npy file of shape [{dim}]")
    try:
        with open(path, "rb") as file:
            if file.read(len(MAGIC_PREFIX)) != MAGIC_PREFIX:
                raise ValueError("it begins otherwise")
            file.seek(0)
            array = np.load(file, allow_pickle=False)
    except _NOT_NPY as error:
        told = " ".join(str(error).split())
        raise InvalidInputError(f"{path} is not a .npy file of numbers: {told}") from error
    return _one(array, dim, path)


def _not_found(snapshot: Snapshot, text: str, kind: str) -> NotFoundError:
    what = "no id" if kind == "id" else "neither an id nor a file:"
    ids = snapshot.ids(snapshot.live_rows()[:_LOOKED_AT])
    close = difflib.get_close_matches(text, ids, n=3)
    if close:
        hint = f"did you mean {' or '.join(map(repr, close))}?"
    elif ids:
        hint = f"ids look like {ids[0]!r}"
    else:
        hint = "the store is empty, latentdb index fills it"
    return NotFoundError(f"{what} {text!r} among {len(snapshot)} rows; {hint}")
