"""Where a long run stands: shown to people, never needed for the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """What a long run tells from time to time.

    Attributes
    ----------
    stage
        What is being done, in a word or two.
    done
        Items so far.
    total
        Of how many; None while not known.
    bad
        Items skipped as unreadable.
    """

    stage: str
    done: int
    total: int | None
    bad: int = 0


Report = Callable[[Progress], None]
