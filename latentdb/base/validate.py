"""Checks of arguments that come from a caller, before any is used."""

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
    """Vectors as contiguous float32 ``[n, dim]``, all finite.

    Parameters
    ----------
    name
        What to call the argument in an error, in the plural.

    Raises
    ------
    InvalidInputError
        If they have another shape, or are no finite numbers.
    """
    ready = type(values) is np.ndarray and values.dtype is _FLOAT32 and values.flags.c_contiguous
    try:
        array = values if ready else _as_floats(values)
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
        raise TypeError("some values are masked")
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"type {array.dtype}")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32)


def check_target_list(values: Any, name: str) -> None:
    """Refuse a single text or path where a list of targets is expected.

    Raises
    ------
    InvalidInputError
        If it is one: iterating over a text gives its letters.
    """
    if isinstance(values, str | bytes | os.PathLike):
        raise InvalidInputError(f"{name} is the single target {values!r}: give a list of targets")


def check_ids(ids: Sequence[str], *, unique: bool = True) -> list[str]:
    """Ids as a list of texts: not empty, valid Unicode, each given once.

    Raises
    ------
    InvalidInputError
        If one is not; the message names the first.
    """
    if isinstance(ids, str):
        raise InvalidInputError(f"ids is the single text {ids!r}: give a list of ids")
    try:
        checked = list(ids)
    except TypeError as error:
        raise InvalidInputError(f"ids {ids!r} is not a list: give a list of ids") from error
    seen: set[str] = set()
    for id_ in checked:
        if not isinstance(id_, str) or not id_ or "\0" in id_:
            raise InvalidInputError(
                f"id {id_!r} cannot be used: give text that is not empty, without null characters"
            )
        try:
            id_.encode()
        except UnicodeEncodeError as error:
            raise InvalidInputError(f"id {id_!r} is not valid Unicode") from error
        if unique and id_ in seen:
            raise InvalidInputError(f"id {id_!r} is given twice: give each once")
        seen.add(id_)
    return checked
