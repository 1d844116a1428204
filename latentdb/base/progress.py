"""Progress of a long run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a long run has come.

    Attributes
    ----------
    stage
        What is being done, in a word or two.
    done
        Items processed so far.
    total
        Items altogether; None while unknown.
    bad
        Items skipped as unreadable.
    """

    stage: str
    done: int
    total: int | None
    bad: int = 0


Report = Callable[[Progress], None]


def report_stage(report: Report | None, stage: str) -> Callable[[int, int], None]:
    """A function of items done and their number, which reports them as those of a stage."""

    def count(done: int, total: int) -> None:
        if report is not None:
            report(Progress(stage, done, total))

    return count
