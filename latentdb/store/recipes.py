"""Saved recipes: named vectors in the folder of a store, with what they were made of.

Each is a JSON file of its own, ``recipes/NAME.json``, replaced atomically.  They belong to no
version: rows come and go, and a recipe stays what it was.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from latentdb.base.errors import (
    AlreadyExistsError,
    CorruptStoreError,
    InvalidInputError,
    ModelMismatchError,
    NotFoundError,
    StoreError,
)
from latentdb.base.files import make_folder, read_limited, replace_atomically, sync_folder
from latentdb.store.manifest import RECIPES
from latentdb.store.rows import Floats
from latentdb.store.snapshot import Snapshot

MAX_RECIPES = 1_000
_FORMAT = 1
_MAX_BYTES = 4 << 20  # 65,536 dimensions take 1.5 MiB, the longest text 80 kB
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")  # a file of its own on every file system


@dataclass(frozen=True, eq=False)
class SavedRecipe:
    """A named vector of a store.

    Attributes
    ----------
    name
        1 to 64 lower-case letters, digits and ``_``, a letter first.
    text
        The recipe; of a direction, its two expressions.
    vector
        float32 ``[d]``: what it came to when it was saved.
    rows, digest
        How many rows it was made of, and the xxh3-128 of their latents in order.
    made_of
        Fingerprint of the encoder; of a store without a model, the store's own.
    method, source, target, auc
        Of a direction: how it was made, between the rows of which expressions, and how
        well it separates held-out ones.  None for a recipe.
    """

    name: str
    text: str
    vector: Floats
    rows: int
    digest: str
    made_of: str
    method: str | None = None
    source: str | None = None
    target: str | None = None
    auc: float | None = None


def fingerprint(snapshot: Snapshot) -> str:
    """What the latents are of: the encoder, or the store itself."""
    model = snapshot.manifest.model
    return snapshot.manifest.uuid if model is None else model.encoder_fingerprint


def check_name(name: str) -> str:
    """Refuse what cannot be the name of a recipe."""
    if not isinstance(name, str) or _NAME.match(name) is None:
        raise InvalidInputError(
            f"{name!r} cannot name a recipe: give 1 to 64 lower-case letters, digits and _, "
            "a letter first"
        )
    return name


def names(folder: Path) -> list[str]:
    """Names of the recipes in the folder of a store, sorted."""
    try:
        files = list((folder / RECIPES).iterdir())
    except OSError:
        return []
    stems = (file.name.removesuffix(".json") for file in files if file.suffix == ".json")
    return sorted(stem for stem in stems if _NAME.match(stem))


def load_all(snapshot: Snapshot) -> tuple[SavedRecipe, ...]:
    """The saved recipes of a store, by name; raises as `load`."""
    return tuple(load(snapshot, name) for name in names(snapshot.folder))


def load(snapshot: Snapshot, name: str) -> SavedRecipe:
    """A recipe of a store.

    Raises
    ------
    NotFoundError
        If there is none of that name; names those that are there.
    ModelMismatchError
        If it was made of another model's latents.
    CorruptStoreError
        If its file is damaged.
    """
    path = snapshot.folder / RECIPES / f"{check_name(name)}.json"
    try:
        data = read_limited(path, _MAX_BYTES)
    except NotFoundError as error:
        known = ", ".join(f"@{other}" for other in names(snapshot.folder)[:20])
        raise NotFoundError(
            f"no recipe @{name} in this store: "
            + (f"there are {known}" if known else "save one with latentdb decode --recipe --save")
        ) from error
    saved = _parse(data, path, name)
    if saved.made_of != fingerprint(snapshot):
        raise ModelMismatchError(
            f"recipe @{name} is of latents of {saved.made_of[:16]}, this store's are of "
            f"{fingerprint(snapshot)[:16]}: save it anew in this store"
        )
    if len(saved.vector) != snapshot.dim:
        raise CorruptStoreError(
            f"{path} is damaged: it has {len(saved.vector)} dimensions, expected {snapshot.dim}"
        )
    return saved


def _parse(data: bytes, path: Path, name: str) -> SavedRecipe:
    try:
        document = json.loads(data.decode())
        body = document["recipe"]
        if document["format"] != _FORMAT:
            raise ValueError(f"its format is {document['format']!r}, this latentdb reads {_FORMAT}")
        if document["checksum"] != _checksum(body):
            raise ValueError("its checksum does not match")
        vector = np.array(body["vector"], np.float32)
        if vector.ndim != 1 or not np.isfinite(vector).all():
            raise ValueError("its vector is none")
        return SavedRecipe(**{**body, "vector": vector, "name": name})
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CorruptStoreError(f"{path} is damaged ({reason}): save it again") from error


def save(snapshot: Snapshot, saved: SavedRecipe, *, overwrite: bool = False) -> None:
    """Write a recipe, durably; the lock of the store is held.

    Raises
    ------
    AlreadyExistsError
        If there is one of that name, unless it is to be overwritten.
    StoreError
        If it cannot be written; one that was there is unchanged then.
    """
    folder = snapshot.folder / RECIPES
    path = folder / f"{check_name(saved.name)}.json"
    if path.exists() and not overwrite:
        raise AlreadyExistsError(
            f"there is a recipe @{saved.name}: give another name, or --force (overwrite=True)"
        )
    if not path.exists() and len(names(snapshot.folder)) >= MAX_RECIPES:
        raise InvalidInputError(
            f"a store has at most {MAX_RECIPES:,} recipes: delete one with latentdb recipes"
        )
    body = {**asdict(saved), "vector": saved.vector.tolist()}
    document = {"format": _FORMAT, "checksum": _checksum(body), "recipe": body}
    made = not folder.exists()
    make_folder(folder)
    if made:
        sync_folder(snapshot.folder)
    replace_atomically(path, json.dumps(document, indent=1).encode())


def delete(folder: Path, name: str) -> None:
    """Delete a recipe, durably; the lock of the store is held.

    Raises
    ------
    NotFoundError
        If there is none of that name.
    """
    if check_name(name) not in names(folder):
        known = ", ".join(names(folder)[:20]) or "none"
        raise NotFoundError(f"no recipe @{name} in this store: it has {known}")
    try:
        (folder / RECIPES / f"{name}.json").unlink()
    except OSError as error:
        raise StoreError(f"recipe @{name} cannot be deleted: {error.strerror}") from error
    sync_folder(folder / RECIPES)


def copy_all(source: Path, target: Path) -> None:
    """Copy the recipes of a store into a new one; `target` is the folder of the latter."""
    found = names(source)
    if not found:
        return
    make_folder(target / RECIPES)
    for name in found:
        data = read_limited(source / RECIPES / f"{name}.json", _MAX_BYTES)
        replace_atomically(target / RECIPES / f"{name}.json", data)


def _checksum(body: Any) -> str:
    return sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
