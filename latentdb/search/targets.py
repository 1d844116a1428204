"""Targets of a command as latents: an id in the store, an image file, a vector, a recipe."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import eq
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.lib.format import MAGIC_PREFIX
from numpy.typing import NDArray

from latentdb.base.errors import IdNotFoundError, InvalidInputError, NotFoundError
from latentdb.base.validate import as_latents, check_ids
from latentdb.base.wording import counted
from latentdb.search import recipes
from latentdb.search.recipes import Composed
from latentdb.search.results import Match, Row
from latentdb.search.text_tests import mask_texts
from latentdb.store.originals import file_digest, rows_of_content
from latentdb.store.rows import Floats
from latentdb.store.snapshot import Snapshot

if TYPE_CHECKING:
    from PIL import Image as PILImage

    from latentdb.images.values import ImageLike
    from latentdb.model.codec import Codec

TargetLike: TypeAlias = (
    "str | os.PathLike[str] | bytes | PILImage.Image | NDArray[Any] | Sequence[float] | Match | Row"
)
IdLike: TypeAlias = str | Match | Row

KINDS = ("id", "file", "npy", "recipe")  # each is a prefix too, as in id:cat/003.png
# Raised by numpy for damaged headers, as found by fuzzing.
_NPY_ERRORS = (
    OSError, ValueError, EOFError, TypeError, SyntaxError, TokenError, ArithmeticError,
    MemoryError, RecursionError,
)  # fmt: skip
_SUGGESTED_FROM = 10_000  # ids that a mistyped one is compared with
_COMPARED = 100  # those of them that difflib compares: it takes 0.3 ms for each


@dataclass(frozen=True, eq=False)
class Target:
    """A target with its latent.

    Attributes
    ----------
    kind
        ``"id"``, ``"file"``, ``"npy"``, ``"recipe"``, ``"vector"`` or ``"image"``, one in
        memory.
    name
        The id, the path or the recipe; ``"vector"`` or ``"image"`` for an array.
    vector
        float32 ``[d]``: its z_mean.
    log_var
        float32 ``[d]``: its z_log_var; None for a vector, and in a store without.
    """

    kind: str
    name: str
    vector: Floats
    log_var: Floats | None = None


def resolve(
    snapshot: Snapshot, codec: Callable[[], Codec], targets: Sequence[TargetLike]
) -> list[Target]:
    """The latents of targets: of ids first, then of files, unless a prefix says which.

    Parameters
    ----------
    snapshot
        Where ids are looked up.
    codec
        Returns the store's model; called only if there is an image to encode.
    targets
        Texts, paths (always files), arrays ``[d]``, images in memory, matches and rows.

    Raises
    ------
    IdNotFoundError
        If a text is neither an id nor a file.
    InvalidInputError, ImageError
        If a vector does not fit the store, or a file cannot be read.
    RecipeError
        If a recipe cannot be read.
    """
    parsed = [_parse(target) for target in targets]
    stored = _look_up(snapshot, [text for kind, text in parsed if kind in ("id", "any")])
    resolved: list[Target | None] = []
    images: list[tuple[str, str, ImageLike]] = []  # kind, name, path or image
    for target, (kind, text) in zip(targets, parsed, strict=True):
        if kind == "image":
            images.append((kind, kind, target))  # type: ignore[arg-type]
            resolved.append(None)
        elif kind == "vector":
            vector = _as_vector(target, snapshot.dim, "the vector")
            resolved.append(Target("vector", "vector", vector))
        elif kind == "recipe":
            resolved.append(_compose(snapshot, codec, text))
        elif text in stored and kind in ("id", "any"):
            resolved.append(stored[text])
        elif kind == "id" or (kind == "any" and not os.path.exists(text)):
            raise _not_found(snapshot, text, kind)
        elif kind == "npy" or (kind == "any" and text.endswith(".npy")):
            array = _read_npy(text, f"[{snapshot.dim}]")
            resolved.append(Target("npy", text, _as_vector(array, snapshot.dim, text)))
        else:
            images.append(("file", text, text))
            resolved.append(None)  # all images are encoded together, below
    encoded = iter(_encode(codec(), images) if images else ())
    return [next(encoded) if target is None else target for target in resolved]


def compose(snapshot: Snapshot, codec: Callable[[], Codec], text: str) -> Composed:
    """What a recipe comes to, with the targets in it resolved: see `latentdb.search.recipes`."""

    def look_up(names: Sequence[str]) -> list[Floats]:
        return [target.vector for target in resolve(snapshot, codec, names)]

    return recipes.compose(snapshot, look_up, text)


def _compose(snapshot: Snapshot, codec: Callable[[], Codec], text: str) -> Target:
    found = compose(snapshot, codec, text)
    for note in found.notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    return Target("recipe", found.text, found.vector)


def _parse(target: TargetLike) -> tuple[str, str]:
    """A target's kind ("any" for an id or a file) and its text without the prefix."""
    if isinstance(target, str):
        kind, colon, rest = target.partition(":")
        return (kind, rest) if colon and kind in KINDS else ("any", target)
    if isinstance(target, Match | Row):
        return "id", target.id
    if isinstance(target, os.PathLike):
        return ("npy" if os.fspath(target).endswith(".npy") else "file"), os.fspath(target)
    from latentdb.images.values import is_image

    return ("image" if is_image(target) else "vector"), ""


def as_ids(ids: Sequence[IdLike]) -> list[str]:
    """Ids as a list of texts, from ids, matches or rows, any of them more than once.

    Raises
    ------
    InvalidInputError
        If one cannot be an id.
    """
    if isinstance(ids, str):
        return check_ids(ids, unique=False)  # says what is wrong
    names = [one.id if isinstance(one, Match | Row) else one for one in ids]
    return check_ids(names, unique=False)


def _look_up(snapshot: Snapshot, names: Sequence[str]) -> dict[str, Target]:
    """Those of the names that are ids in the store."""
    if not names:
        return {}
    found = dict(zip(names, snapshot.locate(names).tolist(), strict=True))
    ids = [name for name, row in found.items() if row >= 0]
    if not ids:
        return {}
    latents = snapshot.latents(np.array([found[name] for name in ids], np.int64))
    return {target.name: target for target in _make_targets("id", ids, *latents)}


def _encode(codec: Codec, images: Sequence[tuple[str, str, ImageLike]]) -> Iterable[Target]:
    from latentdb.images.values import to_pixels

    spec = codec.config.preprocessing
    pixels = np.stack([to_pixels(image, spec, "the image") for _, _, image in images])
    targets = _make_targets("file", [name for _, name, _ in images], *codec.encode(pixels))
    for (kind, _, _), target in zip(images, targets, strict=True):
        yield replace(target, kind=kind)


def _make_targets(
    kind: str, names: Sequence[str], means: Floats, log_vars: Floats | None
) -> Iterable[Target]:
    for position, name in enumerate(names):
        log_var = None if log_vars is None else log_vars[position]
        yield Target(kind, name, means[position], log_var)


def read_targets(file: str | os.PathLike[str], dim: int) -> list[str] | Floats:
    """Targets of a file: one per line, or the rows of a ``.npy`` of shape ``[n, dim]``.

    Raises
    ------
    NotFoundError, InvalidInputError
        If the file does not exist, or holds something else.
    """
    path = os.fspath(file)
    if path.endswith(".npy"):
        return as_latents(_read_npy(path, f"[n, {dim}]"), dim, path)
    try:
        with open(path, encoding="utf-8-sig") as text:
            lines = [line.strip() for line in text]
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist: expected a file of targets") from error
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InvalidInputError(
            f"{path} is not a text file with one target per line: {_one_line(error)}"
        ) from error
    return [line for line in lines if line]


def combine(near: Sequence[Target], far: Sequence[Target] = ()) -> tuple[Floats, Floats | None]:
    """One query out of examples: the mean of `near`, moved away from the mean of `far`.

    ``2 mean(near) - mean(far)`` (Rocchio 1971).

    Returns
    -------
    z_mean, z_log_var
        ``[1, d]`` each.  Only a single target has z_log_var: a mean of several has
        no posterior.
    """
    if len(near) == 1 and not far:
        log_var = near[0].log_var
        return near[0].vector[None], None if log_var is None else log_var[None]
    mean = _mean(near)
    if far:
        mean = 2 * mean - _mean(far)
    return mean.astype(np.float32)[None], None


def is_row(examples: Sequence[Target]) -> bool:
    """Whether a query of these is one row; anything else may be unlike the rows.

    A new image is: among rows that are near-copies of each other (frames, augmented images),
    whose neighbours lie in one inverted list, it has none.
    """
    return len(examples) == 1 and examples[0].kind == "id"


def _mean(targets: Sequence[Target]) -> NDArray[np.float64]:
    vectors = np.stack([target.vector for target in targets]).astype(np.float64)
    return np.asarray(vectors.mean(axis=0))


def stored_rows(snapshot: Snapshot, targets: Sequence[Target]) -> list[set[int]]:
    """Row numbers of each target in the store: of its id, or of the image in its file.

    That is the image at its path, or those of its content where it was moved since.
    """
    rows: list[set[int]] = [set() for _ in targets]
    ids: list[tuple[str, set[int]]] = []
    files: dict[str, list[set[int]]] = {}
    for target, of_target in zip(targets, rows, strict=True):
        if target.kind == "id":
            ids.append((target.name, of_target))
        elif target.kind == "file":
            files.setdefault(os.path.abspath(target.name), []).append(of_target)
    found = snapshot.locate([name for name, _ in ids]).tolist() if ids else []
    for (_, of_target), row in zip(ids, found, strict=True):
        of_target.add(row)
    for segment in snapshot.segments if files else ():
        if segment.paths is None:
            continue
        positions = np.flatnonzero(
            mask_texts(*segment.paths.utf8(), lambda texts: texts.is_in(files))
        )
        numbers = segment.numbers(positions).tolist()
        for number, path in zip(numbers, segment.paths.take(positions), strict=True):
            for of_target in files[path]:
                of_target.add(number)
    for path, of_targets in files.items():
        digest = file_digest(path)
        same = set() if digest is None else set(rows_of_content(snapshot, digest).tolist())
        for of_target in of_targets:
            if not of_target & same:
                of_target |= same
    return rows


def _as_vector(values: Any, dim: int, name: str) -> Floats:
    """A vector given as [d] or [1, d]."""
    try:
        array = np.asanyarray(values)  # keeps a mask, which as_latents refuses
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"{name} is not numbers ({error}): expected [{dim}]") from error
    if isinstance(values, list | tuple) and array.dtype.kind == "U":
        raise InvalidInputError(
            f"{name} is a list of texts, not numbers: expected one target (an id, an image file, a "
            f"vector [{dim}]); query_many and decode take several"
        )
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or len(array) != 1:
        raise InvalidInputError(f"{name} has shape {list(array.shape)}: expected [{dim}]")
    vector: Floats = as_latents(array, dim, name)[0]
    return vector


def _read_npy(path: str, shape: str) -> NDArray[Any]:
    if not os.path.isfile(path):
        raise NotFoundError(f"{path} does not exist: expected a .npy file of shape {shape}")
    try:
        with open(path, "rb") as file:
            if file.read(len(MAGIC_PREFIX)) != MAGIC_PREFIX:
                raise ValueError("its signature is missing")
            file.seek(0)
            return np.asarray(np.load(file, allow_pickle=False))
    except _NPY_ERRORS as error:
        raise InvalidInputError(
            f"{path} is not a .npy file of numbers: {_one_line(error)}"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _not_found(snapshot: Snapshot, text: str, kind: str) -> IdNotFoundError:
    problem = "no id" if kind == "id" else "neither an id nor a file:"
    ids = snapshot.ids(snapshot.live_rows()[:_SUGGESTED_FROM])
    close = _close(text, ids)
    if close:
        hint = f"did you mean {' or '.join(map(repr, close))}?"
    elif ids:
        hint = f"ids look like {ids[0]!r}"
    else:
        hint = "the store is empty: add images with latentdb index"
    return IdNotFoundError(f"{problem} {text!r} among {counted(len(snapshot), 'row')}; {hint}")


def _close(text: str, ids: Sequence[str]) -> list[str]:
    """Up to three ids that a text may be a typing error of, the likeliest first."""
    import difflib
    import heapq

    # Characters that agree, counted from both ends: one may be missing between.
    nearest = heapq.nlargest(
        _COMPARED,
        ids,
        key=lambda name: sum(map(eq, text, name)) + sum(map(eq, text[::-1], name[::-1])),
    )
    matcher = difflib.SequenceMatcher(b=text)
    scores = {}
    for name in nearest:
        matcher.set_seq1(name)
        scores[name] = matcher.ratio()
    # get_close_matches would order equal ones by the alphabet, not by what agrees.
    return [
        name for name in heapq.nlargest(3, nearest, key=scores.__getitem__) if scores[name] > 0.6
    ]
