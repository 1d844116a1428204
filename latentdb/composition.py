"""`Composition`: latents made by arithmetic, and where they lie; a base of `Outputs`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latentdb.ann.metrics import L2
from latentdb.base.validate import as_latents
from latentdb.inspection import Inspection
from latentdb.store import recipes as saved_recipes
from latentdb.store.recipes import SavedRecipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from latentdb.insight.position import Position
    from latentdb.search.recipes import Composed
    from latentdb.store.rows import Floats

__all__ = ["Composition", "Latent", "SavedRecipe"]


@dataclass(frozen=True, eq=False)
class Latent:
    """A latent that a recipe came to.

    Attributes
    ----------
    recipe
        Its text.
    vector
        float32 ``[d]``.
    rows
        How many rows it was made of.
    position
        Where it lies beside the data.
    notes
        Of saved recipes in it whose rows are others now.
    """

    recipe: str
    vector: Floats
    rows: int
    position: Position
    notes: tuple[str, ...]


class Composition(Inspection):
    """The calls of `Reader` that make latents by arithmetic, and say where they lie."""

    def recipe(self, text: str) -> Latent:
        """The latent of a recipe, such as ``mean(label == "7") - mean(label == "3") + id:42``.

        A recipe is a target everywhere, as the text ``recipe:...``.

        Parameters
        ----------
        text
            Of: ``mean(EXPR)``, the mean of the rows for which an expression is true, or
            ``mean()``; ``id:X``, ``file:X``, ``npy:X``; ``axis(n)`` and ``pc(n)``, one
            standard deviation of z_mean along a dimension or a principal axis, from 0;
            ``@name``, a saved recipe; numbers, ``+ - * /``, parentheses; ``norm(a)``, scaled
            to length 1; ``slerp(a, b, t)``.

        Raises
        ------
        RecipeError, FilterError
            If it, or an expression in it, cannot be read.
        NotFoundError
            If an id or a saved recipe is missing, or no row matches an expression.
        ModelMismatchError
            If a saved recipe in it is of another model's latents.
        """
        found = self._compose(text)
        position = self.position(found.vector)
        return Latent(found.text, found.vector, found.rows, position, found.notes)

    def _compose(self, text: str) -> Composed:
        from latentdb.search.targets import compose

        return compose(self._snapshot(), lambda: self.codec, text)

    def position(self, vector: NDArray[np.float32]) -> Position:
        """Where a latent ``[d]`` lies beside the data: length, drift, nearest rows."""
        from latentdb.insight.position import locate

        snapshot = self._snapshot()
        codec = self.codec if self._has_decoder(snapshot) else None
        return locate(
            snapshot,
            self._index_manager.searcher(snapshot, L2),
            as_latents(np.asarray(vector)[None], snapshot.dim, "the vector")[0],
            None if codec is None else codec.decode,
            None if codec is None else codec.encode,
        )

    def recipes(self) -> tuple[SavedRecipe, ...]:
        """The saved recipes and directions, by name.

        Raises
        ------
        ModelMismatchError, CorruptStoreError
            If one is of another model's latents, or damaged.
        """
        snapshot = self._snapshot()
        names = saved_recipes.names(snapshot.folder)
        return tuple(saved_recipes.load(snapshot, name) for name in names)
