"""The second input of a conditional encoder or decoder: how it takes its condition."""

from __future__ import annotations

from typing import NamedTuple

ONE_HOT, INDEX, NUMBER = "one_hot", "index", "number"
FORMS = (ONE_HOT, INDEX, NUMBER)
CONDITION_HINT = "of a conditional VAE, --condition KEY names the metadata that is its condition"


class ConditionInput(NamedTuple):
    """What the condition's input of a network takes.

    Attributes
    ----------
    form
        ``"one_hot"``: a vector, 1 at the class; ``"index"``: the number of the class, which the
        network looks up in an embedding; ``"number"``: a number as it is.
    classes
        How many classes there are; None if the file does not say, and of a number.
    """

    form: str
    classes: int | None = None

    def note(self, name: str) -> str:
        """For people: which input it is, by its name in quotes, and what it takes."""
        what = "a number" if self.form == NUMBER else f"{self.classes or 'some'} classes"
        return f"the condition is the input {name}, {what}"
