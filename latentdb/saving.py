"""`Saving`: recipes that are saved in an open store; a base of `Editing`."""

from __future__ import annotations

from latentdb.insight.directions import Direction
from latentdb.maintenance import Maintenance
from latentdb.store import recipes as saved_recipes
from latentdb.store.recipes import SavedRecipe, check_name, fingerprint


class Saving(Maintenance):
    """The calls of `LatentDB` that save latents by a name."""

    def save_recipe(
        self, name: str, recipe: str | Direction, *, overwrite: bool = False
    ) -> SavedRecipe:
        """Save what a recipe comes to now, or a direction, as ``@name`` for recipes.

        Parameters
        ----------
        name
            1 to 64 lower-case letters, digits and ``_``, a letter first.
        recipe
            A text as of `recipe`, or what `direction` returned.
        overwrite
            Replace one of that name.

        Raises
        ------
        AlreadyExistsError
            If there is one of that name.
        RecipeError, FilterError, NotFoundError
            As `recipe`; nothing is saved then.
        LockedError
            If another process is writing.
        """
        check_name(name)
        with self._open_store().writer() as writer:
            snapshot = writer.snapshot
            if isinstance(recipe, Direction):
                saved = _of_direction(name, recipe, fingerprint(snapshot))
            else:
                found = self._compose(recipe)
                saved = SavedRecipe(
                    name, found.text, found.vector, found.rows, found.digest, fingerprint(snapshot)
                )
            saved_recipes.save(snapshot, saved, overwrite=overwrite)
        return saved

    def delete_recipe(self, name: str) -> None:
        """Delete a saved recipe or direction.

        Raises
        ------
        NotFoundError
            If there is none of that name.
        LockedError
            If another process is writing.
        """
        with self._open_store().writer() as writer:
            saved_recipes.delete(writer.snapshot.folder, name)


def _of_direction(name: str, found: Direction, made_of: str) -> SavedRecipe:
    return SavedRecipe(
        name,
        f"from {found.source} to {found.target}",
        found.vector,
        found.rows,
        found.digest,
        made_of,
        found.method,
        found.source,
        found.target,
        found.auc[found.method],
    )
