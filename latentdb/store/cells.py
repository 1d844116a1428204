"""Values of text cells, which have no types: the narrowest type that a whole column fits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

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

    @property
    def name(self) -> str:
        """``"str"``, ``"int"``, ``"float"`` or ``"bool"``."""
        if self._whole:
            # Beyond 64 bits they are names: as numbers they would lose their last digits.
            return "int" if self._fits else "str"
        return "float" if self._number else "bool" if self._truth else "str"


def parse_cells(cells: Sequence[str]) -> list[Any]:
    """The values of a column's cells, of the narrowest type; those of `MISSING` are None."""
    # Not in CellType: a store's own export writes the text "NA" as such.
    present = [None if cell in MISSING else cell for cell in cells]
    guess = CellType()
    for cell in present:
        guess.add(cell or "")
    parsers: dict[str, Any] = {"int": int, "float": float, "bool": lambda c: c.lower() == "true"}
    parse = parsers.get(guess.name, str)
    return [None if cell is None else parse(cell) for cell in present]
