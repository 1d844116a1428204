"""A file of ready-made rows, read in batches: what the readers of all formats share.

A file may come from a stranger: what it declares is compared with what it holds
before it is used, and whatever is wrong with it is reported in one line.
"""

from __future__ import annotations

import csv
import lzma
import tokenize
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.exact import too_large
from latentdb.base.errors import InvalidInputError, LatentDBError
from latentdb.base.files import os_reason
from latentdb.store.columns import DTYPES, Column, absent, check_key, make_column
from latentdb.store.dates import LIMITS
from latentdb.store.manifest import MAX_DIM
from latentdb.store.rows import Floats, Rows

BATCH_BYTES = 64 << 20  # of the vectors of a batch
BATCH_ROWS = 262_144
_MAX_LINE = 64 << 20  # characters


@contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Turn whatever a library raises for a bad file into one line that names the file.

    Raises
    ------
    InvalidInputError
        In place of any such error.
    """
    try:
        yield
    except LatentDBError:
        raise
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: its text is not UTF-8 ({error.reason})") from error
    except (
        OSError, ValueError, TypeError, RuntimeError, LookupError, ArithmeticError, EOFError,
        SyntaxError, tokenize.TokenError, csv.Error, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    ) as error:  # fmt: skip
        reason = os_reason(error) if isinstance(error, OSError) else str(error)
        short = " ".join(reason.split())[:200] or type(error).__name__
        raise InvalidInputError(f"{path}: cannot be read: {short}") from error


def read_lines(path: Path, stream: TextIO) -> Iterator[str]:
    """The lines of a text file.

    Raises
    ------
    InvalidInputError
        For a line so long that it would fill the memory.
    """
    while line := stream.readline(_MAX_LINE):
        if len(line) == _MAX_LINE:
            raise InvalidInputError(f"{path}: a line has {_MAX_LINE} characters, expected fewer")
        yield line


class RowReader(ABC):
    """An open file of rows.

    Attributes
    ----------
    path
        The file.
    dim
        Dimensions of z_mean.
    rows
        Number of rows; None where the whole file must be read to count them.
    has_log_var
        Whether the rows have z_log_var.
    fingerprint
        Fingerprint of the encoder that made the latents; None where the file has none.
    types
        ``"str"``, ``"int"``, ``"float"`` or ``"bool"`` for each metadata key.  Those of a
        .csv are known once `ids` is exhausted.
    named
        Names in the file of ``"id"`` and ``"z_mean"``, where they are others.
    is_own
        Whether it is laid out as an export; if not, what a store cannot hold is left out.
    left_out
        Columns that were left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dim = 0
        self.rows: int | None = None
        self.has_log_var = False
        self.fingerprint: str | None = None
        self.types: dict[str, str] = {}
        self.named: dict[str, str] = {}
        self.is_own = False
        self.left_out: list[str] = []

    @abstractmethod
    def ids(self) -> Iterator[list[str]]:
        """The ids of all rows in order, in batches."""

    @abstractmethod
    def pieces(self) -> Iterator[Rows]:
        """The rows in order, in pieces of any size; each piece has all metadata columns."""

    def fit(self, columns: Mapping[str, str]) -> None:
        """Use the types of a store's metadata columns where the file has no types itself."""
        del columns

    def close(self) -> None:
        """Close the file."""
        return

    @property
    def batch_rows(self) -> int:
        """Most rows in a batch."""
        row_bytes = 4 * self.dim * (2 if self.has_log_var else 1)
        return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, row_bytes)))

    def batches(self) -> Iterator[Rows]:
        """The rows in order: pieces joined into batches of at most `batch_rows`."""
        pieces: list[Rows] = []
        count = 0
        for piece in self.pieces():
            if pieces and count + len(piece) > self.batch_rows:
                yield Rows.concat(pieces)
                pieces, count = [], 0
            if len(piece):
                pieces.append(piece)
                count += len(piece)
        if pieces:
            yield Rows.concat(pieces)

    def name_columns(self, id_: str, vector: str) -> None:
        """Set which columns hold the ids and the vectors, and `is_own` by that."""
        self.named = {"id": id_, "z_mean": vector}
        self.is_own = (id_, vector) == ("id", "z_mean")

    def shown(self, role: str) -> str:
        """What the file calls ``"id"``, ``"z_mean"`` or another of its columns."""
        return self.named.get(role, role)

    def refuse(self, reason: str) -> InvalidInputError:
        """The error for something in the file that cannot be used."""
        return InvalidInputError(f"{self.path}: {reason}")

    def reading(self) -> AbstractContextManager[None]:
        """`reading_errors` of this file."""
        return reading_errors(self.path)

    def vectors(self, values: NDArray[Any], name: str, first: int) -> Floats:
        """Vectors as finite float32 ``[n, dim]``; `first` is the row number of the first.

        Raises
        ------
        InvalidInputError
            If a number is not finite in float32, or z_mean too large for float32 distances.
        """
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(values, np.float32)
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        shown = self.shown(name)
        if len(bad):
            raise self.refuse(f"{shown} of row {first + bad[0]} is not finite (float32)")
        reason = too_large(array, shown, first) if name == "z_mean" else None
        if reason is not None:
            raise self.refuse(reason)
        return array

    def check_dim(self, dim: int, name: str) -> None:
        """Set `dim` from z_mean, or compare it with that of z_log_var.

        Raises
        ------
        InvalidInputError
            If it is out of range, or differs.
        """
        if not 1 <= dim <= MAX_DIM:
            raise self.refuse(f"{self.shown(name)} has {dim} dimensions, expected 1 to {MAX_DIM}")
        if self.dim and dim != self.dim:
            raise self.refuse(f"{name} has {dim} dimensions and z_mean {self.dim}: make them equal")
        self.dim = dim

    def accepts(self, key: str) -> bool:
        """Whether a store can have a metadata key; one that it cannot is left out.

        Raises
        ------
        InvalidInputError
            If it cannot, in an export.
        """
        try:
            check_key(key)
        except InvalidInputError as error:
            if self.is_own:
                raise self.refuse(str(error)) from error
            self.left_out.append(key)
            return False
        return True


def text_column(key: str, values: Sequence[str | None]) -> Column:
    """A text column, even if every value is missing."""
    return make_column(key, values) or absent("str", len(values))


def number_column(
    type_: str, values: NDArray[Any], missing: NDArray[np.bool_] | None, name: str
) -> Column:
    """A column of numbers, booleans, or the numbers of dates; NaN is missing.

    Raises
    ------
    InvalidInputError
        If an integer does not fit 64 bits, or a date is not of the years 1 to 9999.
    """
    if type_ == "float":
        values = values.astype("<f8")
        missing = np.isnan(values) if missing is None else missing | np.isnan(values)
        values = np.where(missing, 0, values)
    elif type_ == "int" and values.dtype.kind == "u" and len(values) and values.max() >= 2**63:
        raise InvalidInputError(f"{name} has a whole number beyond 2**63 - 1: keep it as text")
    if type_ in LIMITS:
        least, most = LIMITS[type_]
        outside = (values < least) | (values > most)
        if (outside if missing is None else outside & ~missing).any():
            raise InvalidInputError(f"{name} has a {type_} beyond the years 1 to 9999")
    if missing is not None and not missing.any():
        missing = None
    return Column(type_, values.astype(DTYPES[type_]), missing)
