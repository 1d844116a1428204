"""Checks of what comes from outside, before any of it is used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError

Floats = NDArray[np.float32]
_FLOAT32 = np.dtype(np.float32)


def as_latents(values: Any, dim: int, name: str) -> Floats:
    """Check vectors that come from outside: float32 ``[n, dim]``, all finite.

    Raises
    ------
    InvalidInputError
        If they are not.
    """
    plain = type(values) is np.ndarray and values.dtype is _FLOAT32 and values.flags.c_contiguous
    try:
        array = values if plain else _as_floats(values)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{name} are not numbers ({error}): expected [n, {dim}]") from error
    if array.ndim != 2 or array.shape[1] != dim:
        raise InvalidInputError(
            f"{name} have shape {list(array.shape)}: expected [n, {dim}], the dim of this store"
        )
    finite = np.isfinite(array)
    if not finite.all():
        bad = np.flatnonzero(~finite.all(axis=1))
        raise InvalidInputError(f"{name} are not finite in row {bad[0]} (float32)")
    return array


def _as_floats(values: Any) -> Floats:
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError("some are masked")
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"type {array.dtype}")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32)


def check_several(values: Any, name: str) -> None:
    """Refuse a single text or path where several targets are wanted.

    Raises
    ------
    InvalidInputError
        A text would be taken for its letters.
    """
    if isinstance(values, str | bytes | os.PathLike):
        raise InvalidInputError(f"{name} is the single target {values!r}: give a list of targets")


def check_ids(ids: Sequence[str], *, unique: bool = True) -> list[str]:
    """Check ids: texts that are not empty, valid Unicode, each given once.

    Raises
    ------
    InvalidInputError
        Names the first that is not.
    """
    if isinstance(ids, str):
        raise InvalidInputError(f"ids is the single text {ids!r}: give a list of ids")
    try:
        names = list(ids)
    except TypeError as error:
        raise InvalidInputError(f"ids {ids!r} are no list: give a list of ids") from error
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not name or "\0" in name:
            raise InvalidInputError(f"id {name!r} cannot be used: give text that is not empty")
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise InvalidInputError(f"id {name!r} is not valid Unicode") from error
        if unique and name in seen:
            raise InvalidInputError(f"id {name!r} is given twice: give each once")
        seen.add(name)
    return names
