"""Which columns of a file that another program wrote hold the ids and the vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from latentdb.base.errors import InvalidInputError
from latentdb.exchange.tables import ID_COLUMNS

VECTOR_COLUMNS = ("z_mean", "embedding", "feature", "vector", "latent")
_SHOWN = 8  # names that an error lists
Refuse = Callable[[str], InvalidInputError]
Holds = Callable[[str], bool]


@dataclass(frozen=True)
class ColumnNames:
    """The columns that the caller names; those that are None are found by their names."""

    id: str | None = None
    vector: str | None = None

    def find_id(
        self, names: Sequence[str], refuse: Refuse, *, noun: str, holds: Holds = lambda _: True
    ) -> str | None:
        """The column of ids: the one named, or the first of `ID_COLUMNS`; None if there is none.

        Parameters
        ----------
        names
            All columns.
        refuse
            Makes an error of a reason.
        noun
            What the format calls a column.
        holds
            Whether what a column holds could be ids.

        Raises
        ------
        InvalidInputError
            If the one named is not there.
        """
        if self.id is not None and self.id not in names:
            raise refuse(f"has no {noun} {self.id!r} among {_listed(names)}")
        return self.id or next(iter(_like(names, ID_COLUMNS, holds)), None)

    def require_id(
        self, names: Sequence[str], refuse: Refuse, *, noun: str, holds: Holds = lambda _: True
    ) -> str:
        """As `find_id`, in a file that must have ids.

        Raises
        ------
        InvalidInputError
            If there are none.
        """
        found = self.find_id(names, refuse, noun=noun, holds=holds)
        if found is None:
            raise refuse(
                f"has no {noun} 'id', nor path or filename, among {_listed(names)}: "
                "name the one of the ids with id-column"
            )
        return found

    def find_vector(self, names: Sequence[str], refuse: Refuse, *, noun: str, holds: Holds) -> str:
        """The column of vectors: the one named, or like one of `VECTOR_COLUMNS`.

        Raises
        ------
        InvalidInputError
            If there is none, or if two could be it and none is ``z_mean``.
        """
        if self.vector is not None and self.vector not in names:
            raise refuse(f"has no {noun} {self.vector!r} among {_listed(names)}")
        found = [self.vector] if self.vector else _like(names, VECTOR_COLUMNS, holds)
        if not found:
            raise refuse(
                f"has no {noun} 'z_mean', nor embeddings, features or vectors, among "
                f"{_listed(names)}: name the one of the vectors with vector-column"
            )
        if len(found) > 1:
            raise refuse(f"{_listed(found)} could each be the vectors: say which by vector-column")
        return found[0]


def _like(names: Sequence[str], wanted: Sequence[str], holds: Callable[[str], bool]) -> list[str]:
    """Names that are wanted, in that order: in any case, and in the plural.

    The first of `wanted` in its own spelling is taken whatever it holds: its error says more.
    """
    if wanted[0] in names:
        return [wanted[0]]
    spelled = {name: name.casefold() for name in names}
    return [
        name
        for word in wanted
        for name, folded in spelled.items()
        if folded in (word, word + "s") and holds(name)
    ]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "none") + more
