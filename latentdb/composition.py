"""`Composition`: latents made by arithmetic, and where they lie; a base of `Outputs`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latentdb.ann.metrics import L2
from latentdb.base.errors import InvalidInputError
from latentdb.base.validate import as_latents
from latentdb.inspection import Inspection
from latentdb.store.recipes import SavedRecipe, load_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from latentdb.insight.directions import Axis, Direction
    from latentdb.insight.position import Position
    from latentdb.model.posterior import PrincipalAxes
    from latentdb.search.recipes import Composed
    from latentdb.store.rows import Floats, Ints
    from latentdb.store.snapshot import Snapshot

PathLike = str | os.PathLike[str]
_SHEET_AXES, _SHEET_ROWS = 12, 4
_SIDES = 2.0  # standard deviations to either side, on the picture of the axes
_STRENGTHS = (-1.0, 0.0, 0.5, 1.0, 1.5, 2.0)

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
        decode = self._decode(snapshot)
        return locate(
            snapshot,
            self._index_manager.searcher(snapshot, L2),
            as_latents(np.asarray(vector)[None], snapshot.dim, "the vector")[0],
            decode,
            None if decode is None else self.codec.encode,
        )

    def directions(
        self,
        n: int | None = None,
        *,
        out: PathLike | None = None,
        overwrite: bool = False,
        seed: int = 0,
    ) -> tuple[Axis, ...]:
        """The principal axes of z_mean, the one that changes the picture most first.

        They are found without labels; ``pc(number)`` is one in a recipe.

        Parameters
        ----------
        n
            At most so many.
        out
            A picture of the first 12: the mean latent and two rows, two standard deviations
            to either side along each axis.
        overwrite
            Replace a picture that exists.
        seed
            Of the rows around which the change is measured.

        Raises
        ------
        NotFoundError
            If there are fewer than two rows.
        InvalidInputError
            If there are over 4,096 dimensions.
        """
        from latentdb.insight.directions import find_axes

        if n is not None and n < 1:
            raise InvalidInputError(f"{n} directions cannot be found: give 1 or more")
        out = self._picture(out, overwrite=overwrite)
        snapshot = self._snapshot()
        rows = self._rows(snapshot, None)
        decode = self._decode(snapshot)
        found, axes = find_axes(snapshot, rows, decode, seed=seed)
        found = found[:n]
        if out is not None:
            self._draw_axes(snapshot, rows, found[:_SHEET_AXES], axes, out, seed)
        return found

    def _draw_axes(
        self,
        snapshot: Snapshot,
        rows: Ints,
        shown: tuple[Axis, ...],
        axes: PrincipalAxes,
        out: PathLike,
        seed: int,
    ) -> None:
        from latentdb.images.render import contact_sheet, write_picture
        from latentdb.insight.blocks import sample_rows
        from latentdb.insight.pictures import axis_rows

        some = snapshot.vectors(sample_rows(rows, 2, seed))
        starts = np.concatenate([axes.mean[None], some])
        steps = _SIDES * np.stack([axes.step(axis.number) for axis in shown])
        # [axes, starts, -0+, d]
        offsets = np.stack([-steps, np.zeros_like(steps), steps], axis=1)
        latents = starts[None, :, None] + offsets[:, None]
        images = self._decode_grid(latents.reshape(len(shown), -1, snapshot.dim).astype(np.float32))
        write_picture(out, contact_sheet(axis_rows(shown, images, _SIDES)))

    def direction(
        self,
        source: str,
        target: str,
        *,
        method: str = "difference",
        out: PathLike | None = None,
        overwrite: bool = False,
        seed: int = 0,
    ) -> Direction:
        """The direction from some rows to others, and how well it separates held-out ones.

        `LatentDB.save_recipe` makes it ``@name`` in recipes.

        Parameters
        ----------
        source, target
            Expressions, such as ``'smile == "no"'`` and ``'smile == "yes"'``.
        method
            ``"difference"`` of the means, which mixes in what is correlated with the
            labels; ``"whitened"``, that difference times the inverse covariance within
            both; ``"logistic"`` regression.
        out
            A picture: four rows of the source, walked along it.
        overwrite
            Replace a picture that exists.
        seed
            Of the rows that are held out.

        Raises
        ------
        FilterError, InvalidInputError
            If an expression or the method cannot be used, a side has under 5 rows, or a row
            is on both.
        """
        from latentdb.insight.directions import find_direction

        out = self._picture(out, overwrite=overwrite)
        snapshot = self._snapshot()
        sides = self._rows(snapshot, source), self._rows(snapshot, target)
        found = find_direction(snapshot, source, target, sides, method=method, seed=seed)
        if out is not None:
            self._draw_direction(snapshot, sides[0], found, out, seed)
        return found

    def _draw_direction(
        self, snapshot: Snapshot, rows: Ints, found: Direction, out: PathLike, seed: int
    ) -> None:
        from latentdb.images.render import contact_sheet, write_picture
        from latentdb.insight.blocks import sample_rows

        starts = snapshot.vectors(sample_rows(rows, _SHEET_ROWS, seed))
        strengths = np.array(_STRENGTHS, np.float32)
        images = self._decode_grid(starts[:, None] + strengths[:, None] * found.vector)
        names = [f"{strength:+g}" if strength else "row" for strength in _STRENGTHS]
        write_picture(out, contact_sheet([list(zip(row, names, strict=True)) for row in images]))

    def recipes(self) -> tuple[SavedRecipe, ...]:
        """The saved recipes and directions, by name.

        Raises
        ------
        ModelMismatchError, CorruptStoreError
            If one is of another model's latents, or damaged.
        """
        return load_all(self._snapshot())
