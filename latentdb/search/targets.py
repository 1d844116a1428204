"""What a command is about: an id in the store, an image file, or a vector."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.lib.format import MAGIC_PREFIX
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.base.validate import as_latents
from latentdb.store.segment import Floats
from latentdb.store.snapshot import Snapshot

if TYPE_CHECKING:
    from latentdb.model.codec import Codec

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
    log_var
        float32 ``[d]``: its z_log_var; None of a vector, and in a store without.
    """

    kind: str
    name: str
    vector: Floats
    log_var: Floats | None = None


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
    numbers = np.array([rows[name] for name in known], np.int64)
    log_vars = snapshot.log_vars(numbers)
    by_id = {
        name: Target("id", name, vector, None if log_vars is None else log_vars[place])
        for place, (name, vector) in enumerate(zip(known, snapshot.vectors(numbers), strict=True))
    }
    found: list[Target | None] = []
    images: list[str] = []
    for target, (kind, text) in zip(targets, split, strict=True):
        if kind == "vector":
            found.append(Target("vector", "vector", _one(target, snapshot.dim, "the vector")))
        elif text in by_id and kind in ("id", "any"):
            found.append(by_id[text])
        elif kind == "id" or (kind == "any" and not os.path.exists(text)):
            raise _not_found(snapshot, text, kind)
        elif kind == "npy" or (kind == "any" and text.endswith(".npy")):
            found.append(Target("npy", text, _load(text, snapshot.dim)))
        else:
            images.append(text)
            found.append(None)
    if images:
        from latentdb.images.decode import read_image

        model = codec()
        spec = model.config.preprocessing
        means, spreads = model.encode(np.stack([read_image(name, spec) for name in images]))
        fill = iter(
            Target("file", name, mean, None if spreads is None else spreads[place])
            for place, (name, mean) in enumerate(zip(images, means, strict=True))
        )
        return [next(fill) if target is None else target for target in found]
    return [target for target in found if target is not None]


def read_targets(file: str | os.PathLike[str], dim: int) -> list[str] | Floats:
    """Targets of a file: a line each, or the rows of a ``.npy`` of shape ``[n, dim]``.

    Raises
    ------
    NotFoundError, InvalidInputError
        If it is not there, or holds something else.
    """
    path = os.fspath(file)
    if path.endswith(".npy"):
        return as_latents(_array(path, f"[n, {dim}]"), dim, path)
    try:
        with open(path, encoding="utf-8-sig") as lines:
            found = [line.strip() for line in lines]
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist: expected a file of targets") from error
    except (OSError, UnicodeDecodeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise InvalidInputError(f"{path} is no text file with a target a line: {told}") from error
    return [line for line in found if line]


def combined(targets: Sequence[Target], liked: int) -> tuple[Floats, Floats | None]:
    """One z_mean and z_log_var, ``[1, d]``, out of targets to be near to and to be far from.

    Parameters
    ----------
    targets
        First those to be near to, then those to be far from.
    liked
        How many the former are.

    Returns
    -------
    z_mean, z_log_var
        Of several targets there is no z_log_var: their mean has no posterior.
    """
    if len(targets) == 1:
        log_var = targets[0].log_var
        return targets[0].vector[None], None if log_var is None else log_var[None]
    vectors = np.stack([target.vector for target in targets]).astype(np.float64)
    mean = vectors[:liked].mean(axis=0)
    if len(targets) > liked:
        mean = 2 * mean - vectors[liked:].mean(axis=0)
    return mean.astype(np.float32)[None], None


def own_rows(snapshot: Snapshot, targets: Sequence[Target]) -> list[set[int]]:
    """Row numbers of each target that is in the store: by id, or by the path of an image."""
    found: list[set[int]] = [set() for _ in targets]
    ids = [place for place, target in enumerate(targets) if target.kind == "id"]
    rows = snapshot.locate([targets[place].name for place in ids]).tolist() if ids else []
    for place, row in zip(ids, rows, strict=True):
        found[place].add(row)
    files: dict[str, list[set[int]]] = {}
    for target, own in zip(targets, found, strict=True):
        if target.kind == "file":
            files.setdefault(os.path.abspath(target.name), []).append(own)
    for segment in snapshot.segments if files else ():
        if segment.paths is None:
            continue
        named = [(place, path) for place, path in enumerate(segment.paths) if path in files]
        numbers = segment.numbers(np.array([place for place, _ in named], np.int64)).tolist()
        for number, (_, path) in zip(numbers, named, strict=True):
            for own in files[path]:
                own.add(number)
    return found


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
    return _one(_array(path, f"[{dim}]"), dim, path)


def _array(path: str, shape: str) -> NDArray[Any]:
    if not os.path.isfile(path):
        raise NotFoundError(f"{path} does not exist: expected a .npy file of shape {shape}")
    try:
        with open(path, "rb") as file:
            if file.read(len(MAGIC_PREFIX)) != MAGIC_PREFIX:
                raise ValueError("it begins otherwise")
            file.seek(0)
            return np.asarray(np.load(file, allow_pickle=False))
    except _NOT_NPY as error:
        told = " ".join(str(error).split())
        raise InvalidInputError(f"{path} is not a .npy file of numbers: {told}") from error


def _not_found(snapshot: Snapshot, text: str, kind: str) -> NotFoundError:
    import difflib

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
