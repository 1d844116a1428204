"""How many files of a run may be unreadable before the run counts as failed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from latentdb.base.errors import InvalidInputError

DEFAULT_ALLOWANCE = "50%"


@dataclass(frozen=True)
class Allowance:
    """A number of files, or a share of them in percent."""

    limit: float
    is_share: bool

    def permits(self, bad: int, files: int) -> bool:
        """Whether so many of the files of a run may be unreadable."""
        return bad <= (self.limit / 100 * files if self.is_share else self.limit)


def parse_allowance(value: int | str) -> Allowance:
    """The allowance that ``N`` or ``"P%"`` stands for.

    Raises
    ------
    InvalidInputError
        If it is neither.
    """
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)(%?)", str(value).strip())
    if isinstance(value, bool) or found is None or (not found[2] and "." in found[1]):
        raise InvalidInputError(f"allow-bad {value!r}: give a number of files, or P% of them")
    limit = float(found[1])
    if found[2] and limit > 100:
        raise InvalidInputError(f"allow-bad {value!r}: give at most 100%")
    return Allowance(limit, bool(found[2]))
