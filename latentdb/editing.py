"""`Editing`: the metadata of an open store, changed; a base of `LatentDB`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latentdb.base.errors import InvalidInputError
from latentdb.saving import Saving
from latentdb.search.targets import IdLike, as_ids
from latentdb.store import edits
from latentdb.store.columns import Column, Value, check_key, make_column
from latentdb.store.edits import RetypeReport
from latentdb.stored_model import config_of


class Editing(Saving):
    """The calls of `LatentDB` that change metadata.

    Latents and row numbers stay, and with them the search index.
    """

    def update(
        self, rows: str | Sequence[IdLike], values: Mapping[str, Value | Sequence[Value]]
    ) -> int:
        """Give rows other metadata, in one commit.

        Parameters
        ----------
        rows
            An expression, or a list of different ids.
        values
            By key, one value for all these rows, or for ids a list with one for each; None
            erases it.  A new key makes a column.

        Returns
        -------
        int
            Number of rows.

        Raises
        ------
        InvalidInputError
            If a value is not of the type of its column: `retype_column` changes that.
        FilterError, IdNotFoundError
            If the expression is invalid, or an id not in the store; nothing is changed then.
        LockedError
            If another process is writing.
        """
        for key in values:
            check_key(key)
            self._check_no_condition(key, encoded=True)
        with self._writing(None) as writer:
            if isinstance(rows, str):
                numbers = self._rows(writer.snapshot, rows)
            else:
                numbers = writer.snapshot.find(as_ids(rows))
                if len(np.unique(numbers)) < len(numbers):
                    raise InvalidInputError("an id is given twice: give each row one value")
            listed = not isinstance(rows, str)
            columns = {
                key: _column(key, value, len(numbers), listed=listed)
                for key, value in values.items()
            }
            if len(numbers) and columns:
                edits.set_values(writer, numbers, columns)
        return len(numbers)

    def retype_column(self, key: str, type: str, *, lossy: bool = False) -> RetypeReport:
        """Convert a metadata column to another type.

        Parameters
        ----------
        key, type
            The column, and one of ``"str"``, ``"int"``, ``"float"``, ``"bool"``, ``"date"``
            (``2020-01-31``) and ``"datetime"``.
        lossy
            Values that do not fit become missing, instead of an error.

        Raises
        ------
        InvalidInputError
            If there is no such column or type, or a value does not fit.
        LockedError
            If another process is writing.
        """
        with self._writing(None) as writer:
            return edits.retype_column(writer, key, type, lossy=lossy)

    def rename_column(self, key: str, new: str) -> None:
        """Give a metadata column another key.

        Raises
        ------
        InvalidInputError
            If there is no such column, or one of the new key.
        LockedError
            If another process is writing.
        """
        with self._writing(None) as writer:
            self._check_no_condition(key)
            edits.rename_column(writer, key, new)

    def drop_column(self, key: str) -> None:
        """Remove a metadata column with all its values.

        Raises
        ------
        InvalidInputError
            If there is no such column.
        LockedError
            If another process is writing.
        """
        with self._writing(None) as writer:
            self._check_no_condition(key)
            edits.drop_columns(writer, key)

    def _check_no_condition(self, key: str, *, encoded: bool = False) -> None:
        """Refuse to change the condition of the model, or only one that latents depend on."""
        config = config_of(self._snapshot())
        condition = None if config is None else config.condition
        if condition is None or condition.key != key or (encoded and condition.encoder is None):
            return
        raise InvalidInputError(
            f"metadata {key!r} is the condition of this store's model, and cannot be edited: index "
            f"the images again with other values (--metadata FILE, --condition {key}=VALUE)"
        )


def _column(key: str, value: Any, count: int, *, listed: bool) -> Column | None:
    if not isinstance(value, list | tuple | np.ndarray):
        value = [value] * count
    elif not listed:
        raise InvalidInputError(f"metadata {key!r} is a list: give one value with an expression")
    elif len(value) != count:
        raise InvalidInputError(f"metadata {key!r} has {len(value)} values for {count} ids")
    return make_column(key, value)
