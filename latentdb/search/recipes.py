"""Recipes: latents written as arithmetic, ``mean(label == "7") - mean(label == "3") + id:42``.

The text is read by the parser of metadata expressions and walked as a tree of a few
functions and signs.  It is never evaluated as code.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from numpy.typing import NDArray

from latentdb.base.errors import LatentDBError, NotFoundError, RecipeError
from latentdb.base.wording import counted
from latentdb.search.selection import parse_where, select_rows, vector_blocks
from latentdb.search.syntax import parsed, span
from latentdb.store import recipes as saved_recipes
from latentdb.store.recipes import SavedRecipe
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot

if TYPE_CHECKING:
    from latentdb.model.posterior import PrincipalAxes

Doubles = NDArray[np.float64]
Lookup = Callable[[Sequence[str]], Sequence[Floats]]  # targets with a prefix to their latents

HELP = (
    "use mean(EXPR), id:X, file:X, axis(N), pc(N), @NAME, numbers, + - * / ( ), norm(...), "
    "slerp(a, b, t)"
)
_TEXT = r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\''
# A part in Python's grammar is a name or a text; these are neither.
_PARTS = re.compile(
    rf"(?P<quoted>{_TEXT})"
    rf"|(?<![\w.:])(?P<kind>id|file|npy):(?P<target>{_TEXT}|[^\s()+*,'\"]+)"
    r"|@(?P<name>\w+)",
    re.DOTALL,
)
_FUNCTIONS = {"mean": (0, 1), "axis": (1, 1), "pc": (1, 1), "norm": (1, 1), "slerp": (3, 3)}
_SIGNS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


@dataclass(frozen=True, eq=False)
class Composed:
    """What a recipe came to.

    Attributes
    ----------
    text
        The recipe.
    vector
        float32 ``[d]``.
    rows, digest
        How many rows it was made of, and the xxh3-128 of their latents in order.
    notes
        Of saved recipes in it whose rows are others now.
    """

    text: str
    vector: Floats
    rows: int
    digest: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """A target or a saved recipe in the text of a recipe."""

    kind: str  # "id", "file", "npy" or "@"
    text: str


def compose(snapshot: Snapshot, lookup: Lookup, text: str) -> Composed:
    """The latent of a recipe.

    Parameters
    ----------
    snapshot
        Whose rows and saved recipes it speaks of.
    lookup
        Latents of ``id:X``, ``file:X`` and ``npy:X``.
    text
        The recipe.

    Raises
    ------
    RecipeError
        Quotes the recipe from where it is wrong, and says what is accepted.
    FilterError, NotFoundError
        If an expression is wrong or no row matches it, or an id or a saved recipe is missing.
    """
    return _Composer(snapshot, lookup, text).composed()


def digest_of(snapshot: Snapshot, expressions: Sequence[str]) -> tuple[int, str]:
    """Number of rows that expressions select, and the digest of their latents in order."""
    digest, count = xxhash.xxh3_128(), 0
    for text in expressions:
        rows = _select(snapshot, text)
        count += len(rows)
        for block in vector_blocks(snapshot, rows):
            digest.update(block.tobytes())
    return count, digest.hexdigest()


def _select(snapshot: Snapshot, text: str | None) -> Ints:
    rows = select_rows(snapshot, parse_where(snapshot, text))
    if not len(rows):
        reason = "the store is empty" if text is None else f"no row matches {text!r}"
        raise NotFoundError(f"{reason}: a recipe has no mean of nothing")
    return rows


class _Composer:
    """Walks the tree of one recipe; counts and digests the rows on its way."""

    def __init__(
        self, snapshot: Snapshot, lookup: Lookup, text: str, *, compare: bool = True
    ) -> None:
        if not isinstance(text, str):
            raise RecipeError(f"a recipe is text, received {type(text).__name__}")
        self._snapshot = snapshot
        self._text = text.strip()
        self._masked, self._parts = _mask(self._text)
        self._lookup, self._compare = lookup, compare
        self._digest, self._rows = xxhash.xxh3_128(), 0
        self._notes: list[str] = []

    def composed(self) -> Composed:
        if not self._text:
            raise RecipeError(f"the recipe is empty: {HELP}")
        with parsed(self._masked, self._error) as tree:
            self._check(tree)
            value = self._value(tree)
            if isinstance(value, float):
                raise self._error("is a number, not a latent", 0)
        with np.errstate(over="ignore"):
            vector = value.astype(np.float32)
        if not np.isfinite(vector).all():
            raise self._error("has no finite result", 0)
        return Composed(
            self._text, vector, self._rows, self._digest.hexdigest(), tuple(self._notes)
        )

    def _error(self, problem: str, position: int) -> RecipeError:
        excerpt = self._text[max(0, position - 20) : position + 40]
        return RecipeError(f"recipe {problem}, at {excerpt!r}; {HELP}")

    def _error_at(self, node: ast.expr, problem: str) -> RecipeError:
        return self._error(problem, span(self._masked, node)[0])

    # --- before anything is looked up -------------------------------------------------

    def _check(self, node: ast.expr) -> None:
        """Refuse what is no recipe, before files are encoded and means are taken."""
        match node:
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _SIGNS:
                self._check(left)
                self._check(right)
            case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
                self._check(operand)
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                self._number(node, value)
            case ast.Name():
                self._part(node)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
                least, most = _FUNCTIONS[name]
                if not least <= len(args) <= most:
                    raise self._error_at(
                        node, f"calls {name} with {counted(len(args), 'argument')}"
                    )
                for argument in args if name != "mean" else ():
                    self._check(argument)
                if name in ("axis", "pc"):
                    self._dimension(args[0])
            case ast.Call(func=ast.Name(id=name), keywords=[_, *_]) if name in _FUNCTIONS:
                raise self._error_at(node, "has =, which assigns: == compares")
            case ast.Call(func=ast.Name(id=name)):
                raise self._error_at(node, f"calls {name!r}, which is not accepted")
            case _:
                raise self._error_at(node, f"has {type(node).__name__}, which is not accepted")

    def _part(self, node: ast.Name) -> _Part:
        part = self._parts.get(span(self._masked, node)[0])
        if part is None:
            raise self._error_at(
                node, f"has {node.id!r}, which is no part of it: write id:{node.id} for an id"
            )
        return part

    def _number(self, node: ast.expr, value: float) -> float:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self._error_at(node, "has a number that is too large")
        return number

    def _dimension(self, node: ast.expr) -> int:
        most = self._snapshot.dim - 1
        number = node.value if isinstance(node, ast.Constant) else None
        if type(number) is not int or not 0 <= number <= most:
            raise self._error_at(node, f"has no whole number from 0 to {most} in axis or pc")
        return number

    # --- values ---------------------------------------------------------------------------

    def _value(self, node: ast.expr) -> float | Doubles:
        match node:
            case ast.BinOp(left=left, op=op, right=right):
                return self._arithmetic(
                    node, self._value(left), _SIGNS[type(op)], self._value(right)
                )
            case ast.UnaryOp(op=op, operand=operand):
                value = self._value(operand)
                return -value if isinstance(op, ast.USub) else value
            case ast.Constant(value=int() | float() as number):
                return self._number(node, number)
            case ast.Name():
                return self._look_up(self._part(node))
            case ast.Call(func=ast.Name(id=name), args=args):
                return self._call(node, name, args)
        raise self._error_at(node, f"has {type(node).__name__}, which is not accepted")

    def _arithmetic(
        self, node: ast.expr, left: float | Doubles, sign: str, right: float | Doubles
    ) -> float | Doubles:
        numbers = isinstance(left, float), isinstance(right, float)
        if sign in "+-" and numbers[0] != numbers[1]:
            raise self._error_at(node, f"has a latent {sign} a number")
        if sign == "*" and numbers == (False, False):
            raise self._error_at(node, "multiplies two latents")
        if sign == "/" and not isinstance(right, float):
            raise self._error_at(node, "divides by a latent")
        if sign == "/" and right == 0:
            raise self._error_at(node, "divides by zero")
        with np.errstate(over="ignore", invalid="ignore"):  # refused at the end
            if sign == "+":
                return left + right
            if sign == "-":
                return left - right
            return left * right if sign == "*" else left / right

    def _latent(self, node: ast.expr) -> Doubles:
        value = self._value(node)
        if isinstance(value, float):
            raise self._error_at(node, "has a number where a latent is expected")
        return value

    def _call(self, node: ast.expr, name: str, args: list[ast.expr]) -> Doubles:
        if name == "mean":
            return self._mean(args[0] if args else None)
        if name == "norm":
            vector = self._latent(args[0])
            length = float(np.linalg.norm(vector))
            if not length:
                raise self._error_at(node, "has norm() of a latent of length 0")
            return vector / length
        if name == "slerp":
            from latentdb.model.arithmetic import slerp

            t = self._value(args[2])
            if not isinstance(t, float):
                raise self._error_at(args[2], "has a latent where a number is expected")
            return slerp(self._latent(args[0]), self._latent(args[1]), t).astype(np.float64)
        return self._axis(name, self._dimension(args[0]))

    def _mean(self, argument: ast.expr | None) -> Doubles:
        text = None
        if argument is not None:
            start, end = span(self._masked, argument)
            text = self._text[start:end]
        rows = _select(self._snapshot, text)
        total = np.zeros(self._snapshot.dim)
        for block in vector_blocks(self._snapshot, rows):
            self._digest.update(block.tobytes())
            total += block.sum(axis=0, dtype=np.float64)
        self._rows += len(rows)
        return total / len(rows)

    def _axis(self, name: str, number: int) -> Doubles:
        """One standard deviation of z_mean along a dimension, or along a principal axis."""
        if name == "pc":
            step = self._principal.step(number)
        else:
            step = np.zeros(self._snapshot.dim)
            step[number] = np.sqrt(self._variance[number])
        self._count(len(self._snapshot), step.astype(np.float32))
        return step

    @cached_property
    def _principal(self) -> PrincipalAxes:
        from latentdb.model.posterior import principal_axes

        rows = _select(self._snapshot, None)
        return principal_axes(vector_blocks(self._snapshot, rows), self._snapshot.dim)

    @cached_property
    def _variance(self) -> Doubles:
        from latentdb.model.posterior import statistics

        blocks = vector_blocks(self._snapshot, _select(self._snapshot, None))
        return statistics(((block, None) for block in blocks), self._snapshot.dim).variance

    def _look_up(self, part: _Part) -> Doubles:
        if part.kind == "@":
            saved = saved_recipes.load(self._snapshot, part.text)
            if self._compare:
                self._notes += changes(self._snapshot, self._lookup, saved)
            vector = saved.vector
            self._count(saved.rows, vector)
        else:
            try:
                (vector,) = self._lookup([f"{part.kind}:{part.text}"])
            except NotFoundError as error:
                if not re.search("[-/]", part.text):
                    raise
                raise NotFoundError(
                    f"{error} (in a recipe - and / belong to a name: put blanks around those "
                    "that do not)"
                ) from error
            self._count(1 if part.kind == "id" else 0, vector)
        return vector.astype(np.float64)

    def _count(self, rows: int, vector: Floats) -> None:
        self._rows += rows
        self._digest.update(vector.astype(np.float32).tobytes())


def changes(snapshot: Snapshot, lookup: Lookup, saved: SavedRecipe) -> list[str]:
    """What would be different if a saved recipe were made anew: a line, or none."""
    try:
        if saved.source is not None and saved.target is not None:
            rows, digest = digest_of(snapshot, [saved.source, saved.target])
        else:
            # A recipe in a recipe is as it was saved, so its own rows do not matter.
            now = _Composer(snapshot, lookup, saved.text, compare=False).composed()
            rows, digest = now.rows, now.digest
    except LatentDBError as error:
        return [f"@{saved.name} is as it was saved, and could not be made now: {error}"]
    if digest == saved.digest:
        return []
    then, now_rows = counted(saved.rows, "row"), f"{rows:,}"
    return [
        f"@{saved.name} is as it was saved, of {then}, and would differ now: it would be made of "
        f"{now_rows if rows != saved.rows else 'others'}"
    ]


def _mask(text: str) -> tuple[str, dict[int, _Part]]:
    """A recipe in which its own parts are names of the same length, and these by position."""
    parts: dict[int, _Part] = {}

    def replace(found: re.Match[str]) -> str:
        if found["quoted"] is not None:
            return found[0]
        name = found["name"]
        kind, target = ("@", name) if name is not None else (found["kind"], found["target"])
        if target[0] in "'\"":
            target = re.sub(r"\\(.)", r"\1", target[1:-1], flags=re.DOTALL)
        parts[found.start()] = _Part(kind, target)
        return "_" * len(found[0])

    return _PARTS.sub(replace, text), parts
