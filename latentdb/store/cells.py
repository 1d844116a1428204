"""Values of text cells, which have no types: the narrowest type that a whole column fits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from typing import Any

from latentdb.store import dates
from latentdb.store.columns import Value

MISSING = frozenset(
    ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NaT", "null", "NULL", "None")
)
WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)\Z")
NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\Z")


class CellType:
    """The narrowest type that all cells of a CSV column fit; an empty cell is missing.

    Parameters
    ----------
    infinities
        Whether ``inf`` and ``-inf`` are numbers, and not text.
    """

    def __init__(self, *, infinities: bool = False) -> None:
        self.filled = False
        self._infinities = ("inf", "-inf") if infinities else ()
        self._whole = self._fits = self._number = self._truth = True
        self._dates: str | None = ""  # the kind that all are so far

    def add(self, cell: str) -> None:
        """Look at one more cell."""
        if not cell:
            return
        self.filled = True
        if self._whole:
            self._whole = WHOLE.match(cell) is not None
            self._fits &= self._whole and len(cell) < 21 and -(2**63) <= int(cell) < 2**63
        if self._number:
            self._number = NUMBER.match(cell) is not None or cell in self._infinities
        if self._truth:
            self._truth = cell.lower() in ("true", "false")
        if self._dates is not None:
            found = dates.parse(cell)
            kind = None if found is None else found[0]
            self._dates = kind if self._dates in ("", kind) else None

    @property
    def name(self) -> str:
        """One of `latentdb.store.columns.COLUMN_TYPES`."""
        if self._whole:
            # Beyond 64 bits they are names: as numbers they would lose their last digits.
            return "int" if self._fits else "str"
        if self._number or self._truth:
            return "float" if self._number else "bool"
        return self._dates or "str"


def parse_cell(type_: str, cell: str) -> Any:
    """The value of a cell that fits a type.

    Raises
    ------
    ValueError
        If it does not.
    """
    if type_ in ("date", "datetime"):
        found = dates.parse(cell)
        if found is None or found[0] != type_:
            raise ValueError(f"{cell!r} is no {type_}")
        return dates.to_value(*found)
    if type_ == "bool":
        if cell.lower() not in ("true", "false"):
            raise ValueError(f"{cell!r} is neither true nor false")
        return cell.lower() == "true"
    return {"str": str, "int": int, "float": float}[type_](cell)


def format_cell(value: Value) -> str:
    """The cell of a value, from which `parse_cell` gives it back; empty where it is missing."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date):
        return value.isoformat()
    return "" if value is None else str(value)


def parse_cells(cells: Sequence[str], type_: str | None = None) -> list[Any]:
    """The values of a column's cells, of the narrowest type or a given one that they fit.

    The cells of `MISSING` are None.
    """
    # Not in CellType: a store's own export writes the text "NA" as such.
    present = [None if cell in MISSING else cell for cell in cells]
    if type_ is None:
        guess = CellType()
        for cell in present:
            guess.add(cell or "")
        type_ = guess.name
    return [None if cell is None else parse_cell(type_, cell) for cell in present]
