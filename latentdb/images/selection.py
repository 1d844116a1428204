"""Which files of a folder are wanted: patterns of names, and links out of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache

from latentdb.base.errors import InvalidInputError


@dataclass(frozen=True)
class Selection:
    """Which files are wanted, by their paths below the folder that is searched.

    A pattern without ``/`` is matched with the last part of a path, one with ``/`` with
    the whole of it; ``*`` matches ``/`` too.

    Attributes
    ----------
    include
        If there are any, only files that one of these patterns matches.
    exclude
        No file, and nothing in a folder, that one of these patterns matches.
    follow_links
        Follow links that lead out of the folder.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow_links: bool = True

    @property
    def is_all(self) -> bool:
        """Whether everything is wanted."""
        return self.follow_links and not self.include and not self.exclude

    def takes(self, path: str) -> bool:
        """Whether a file is wanted."""
        return (not self.include or _any(self.include, path)) and not _any(self.exclude, path)

    def enters(self, path: str) -> bool:
        """Whether files in a folder may be wanted."""
        return not _any(self.exclude, path)


EVERYTHING = Selection()


def make_selection(
    include: Sequence[str], exclude: Sequence[str], *, follow_links: bool
) -> Selection:
    """A selection of checked patterns; ``./`` in front of one, and ``/`` behind it, are no matter.

    Raises
    ------
    InvalidInputError
        If a pattern is empty, absolute, or a text where a list of them is expected.
    """
    checked = []
    for name, patterns in (("include", include), ("exclude", exclude)):
        if isinstance(patterns, str):
            raise InvalidInputError(f"{name} {patterns!r} is one text: give a list of patterns")
        clean = tuple(pattern.removeprefix("./").rstrip("/") for pattern in patterns)
        for pattern in clean:
            if not pattern or pattern.startswith("/"):
                raise InvalidInputError(
                    f"{name} {pattern!r}: give a pattern such as '*.png' or 'cat/*', relative to "
                    "the folder that is indexed"
                )
        checked.append(clean)
    return Selection(checked[0], checked[1], follow_links)


def _any(patterns: Sequence[str], path: str) -> bool:
    name = path.rpartition("/")[2]
    return any(
        _compiled(pattern).match(path if "/" in pattern else name) is not None
        for pattern in patterns
    )


@lru_cache(256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))
