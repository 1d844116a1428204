"""The condition of a conditional VAE: which metadata it is, and how its networks take it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.condition import FORMS, INDEX, NUMBER, ONE_HOT, ConditionInput
from latentdb.base.errors import InvalidInputError, ModelError
from latentdb.base.wording import clipped, counted, quoted

Floats = NDArray[np.float32]
_SHOWN = 12  # categories that a message names
_MAX_CATEGORIES = 100_000


@dataclass(frozen=True)
class Condition:
    """What a conditional VAE is conditioned on.

    Attributes
    ----------
    key
        The metadata column.
    categories
        Its values, in the order of the model's classes; empty if the condition is a number.
    encoder, decoder
        How each network takes it, of `latentdb.base.condition.FORMS`; None for one that
        takes none.
    """

    key: str
    categories: tuple[str, ...]
    encoder: str | None
    decoder: str | None

    @classmethod
    def of(
        cls,
        key: str,
        categories: Sequence[str] | None,
        encoder: ConditionInput | None,
        decoder: ConditionInput | None,
    ) -> Condition:
        """The condition of an imported model, given what its networks take.

        Raises
        ------
        ModelError, InvalidInputError
            If no network takes one, or the categories are not as many as its classes.
        """
        found = [one for one in (encoder, decoder) if one is not None]
        if not found:
            raise ModelError(
                f"condition {quoted(key)}: neither encoder nor decoder has a second input, which "
                "a conditional model has: leave --condition out"
            )
        forms = (encoder and encoder.form, decoder and decoder.form)
        if any(one.form == NUMBER for one in found):
            if any(one.form != NUMBER for one in found) or categories:
                raise InvalidInputError(
                    "a number is the condition of this model, which has no categories: leave "
                    "--categories out"
                    if categories
                    else "the encoder and the decoder are of two models: one takes a number as "
                    "its condition, the other a class"
                )
            return cls(key, (), *forms)
        counts = [one.classes for one in found if one.classes is not None]
        count = max((len(categories or ()), *counts))
        if count > _MAX_CATEGORIES:
            raise ModelError(f"a condition of {count:,} classes: at most {_MAX_CATEGORIES:,}")
        if not counts and not categories:
            raise InvalidInputError(
                "the files do not say how many classes the model has: give --categories, such as "
                "0,1,2"
            )
        named = tuple(categories or map(str, range(min(counts))))
        if len(set(named)) < len(named) or not all(named):
            raise InvalidInputError(f"categories {clipped(list(named))} are not all different")
        for one in found:
            fits = one.classes in (None, len(named)) or (
                one.form == INDEX and len(named) < (one.classes or 0)
            )
            if not fits:
                raise InvalidInputError(
                    f"the model has {counted(one.classes or 0, 'class', 'classes')}, for "
                    f"{counted(len(named), 'category', 'categories')}: give --categories, its "
                    "classes in their order"
                )
        return cls(key, named, *forms)

    @classmethod
    def from_record(cls, values: Any) -> Condition:
        """The condition of `to_record`; raises ValueError or TypeError if it is none."""
        found = cls(**{**values, "categories": tuple(values["categories"])})
        forms = [form for form in (found.encoder, found.decoder) if form is not None]
        numbers = [form == NUMBER for form in forms]
        if not forms or not set(forms) <= set(FORMS) or any(numbers) != all(numbers):
            raise ValueError(f"condition: forms {forms!r} are not of {', '.join(FORMS)}")
        texts = [found.key, *found.categories]
        if not all(type(text) is str and text for text in texts):
            raise ValueError("condition: its key and its categories are not all text")
        count = len(found.categories)
        if any(numbers) == bool(count) or count > _MAX_CATEGORIES:
            raise ValueError(f"condition: {counted(count, 'category', 'categories')}")
        return found

    def to_record(self) -> dict[str, Any]:
        """For `model.json`."""
        return {**asdict(self), "categories": list(self.categories)}

    @property
    def accepted(self) -> str:
        """The accepted values, for messages."""
        if not self.categories:
            return "a number"
        shown = ", ".join(map(clipped, self.categories[:_SHOWN]))
        more = len(self.categories) - _SHOWN
        return f"one of {shown}" + (f" and {more:,} more" if more > 0 else "")

    def parse(self, value: object) -> float:
        """The number of the class that a value names, or the number that it is.

        Raises
        ------
        InvalidInputError
            If it is none of the accepted ones, which the error names.
        """
        if self.categories:
            name = _name(value)
            if name in self.categories:
                return float(self.categories.index(name))
        else:
            try:
                number = float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError, OverflowError):
                number = math.nan
            if abs(number) <= float(np.finfo(np.float32).max):
                return number
        raise InvalidInputError(
            f"{self.key} {quoted(value)} is no condition of this model: expected {self.accepted}"
        )

    def of_row(self, metadata: Mapping[str, Any]) -> float:
        """The value of a row by its metadata: see `parse`.

        Raises
        ------
        InvalidInputError
            If it has none, or one that is not accepted.
        """
        value = metadata.get(self.key)
        if value is None:
            raise InvalidInputError(
                f"no {quoted(self.key)} in the metadata, which is the model's condition: expected "
                f"{self.accepted}; --condition gives one"
            )
        return self.parse(value)

    def form(self, network: str) -> str | None:
        """How ``"encoder"`` or ``"decoder"`` takes the condition; None if it takes none."""
        return self.encoder if network == "encoder" else self.decoder

    def input(
        self,
        network: str,
        values: Floats,
        metadata: Sequence[Mapping[str, Any]] | None,
        value: float | None = None,
    ) -> Floats:
        """The input of a network, float32 ``[n, m]``: images or latents, and the condition.

        Parameters
        ----------
        network
            ``"encoder"`` or ``"decoder"``; one without a condition gets the values alone.
        values
            ``[n, ...]``.
        metadata
            Of each of the n; None if they are no rows.
        value
            A result of `parse`, for all of them.

        Raises
        ------
        InvalidInputError
            If a value is missing or not accepted.
        """
        if self.form(network) is None:
            return values
        if value is not None:
            return self._joined(network, values, [value] * len(values))
        if metadata is None:
            raise InvalidInputError(
                f"this model's {network} is conditional, and what is no row has no "
                f"{quoted(self.key)}: give --condition VALUE (with_condition in Python), "
                f"{self.accepted}"
            )
        return self._joined(network, values, list(map(self.of_row, metadata)))

    def in_turn(self, network: str, values: Floats) -> Floats:
        """The same under each class in turn, to try a network."""
        count = max(1, len(self.categories))
        return self._joined(network, values, [number % count for number in range(len(values))])

    def _joined(self, network: str, values: Floats, numbers: Sequence[float]) -> Floats:
        form = self.form(network)
        if form is None:
            return values
        columns = np.array(numbers, np.float32).reshape(-1, 1)
        if form == ONE_HOT:
            columns = (columns == np.arange(len(self.categories))).astype(np.float32)
        return np.concatenate([values.reshape(len(values), -1), columns], axis=1)


def _name(value: object) -> str:
    """A value of a metadata column as a category: 3, 3.0 and "3" are one, True is "true"."""
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)
