"""Metadata expressions: ``label == "cat" and year > 2000`` to a mask over rows.

The text is parsed by Python's own parser and compiled from a whitelist of
syntax to comparisons of columns.  It is never evaluated as code.

A missing value is unknown, as in SQL: a comparison with it is neither true
nor false, ``not`` leaves it unknown, and only rows for which the integers expression
is true are selected.  ``year is None`` finds the missing values themselves.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentdb.base.errors import FilterError
from latentdb.search.syntax import MAX_LENGTH, parsed, span, without_quoted
from latentdb.search.text_tests import Mask, TextTests, mask_texts
from latentdb.store.columns import Column, is_name, quoted
from latentdb.store.dates import DAY, LIMITS, period
from latentdb.store.texts import Texts, encode

PSEUDO_COLUMNS: Mapping[str, str] = {"id": "str", "path": "str"}
HELP = (
    'use comparisons (label == "cat", 1990 < year <= 2000, taken >= "2020-05"), in, not in, and, '
    'or, not, is None, label.startswith("c"), .endswith, .contains, len(label) > 3, `a name`'
)
# What others write, and what to write here; looked for outside of quotation marks.
_HINTS = (
    (r"(?i:\bI?LIKE\b|\bSIMILAR\b|\bREGEXP\b)",
     'instead of LIKE use label.startswith("c"), .endswith("c") or .contains("c")'),
    (r"(?i:\bBETWEEN\b)", "write 1990 <= year <= 2000"),
    (r"(?i:\bis\s+(not\s+)?null\b|=\s*null\b|=\s*None\b)", "write is None, is not None"),
    (r"<>", "use != instead of <>"),
    (r"===", "use == to compare"),
    (r"(?<![=!<>])=(?!=)", "use == to compare"),
    (r"&|\||!(?!=)|~", "write and, or, not"),
    (r"\b(AND|OR|NOT|IN|IS|And|Or|Not|In|Is)\b", "write and, or, not, in, is in small letters"),
    (r"\b(true|false|TRUE|FALSE)\b", "write True, False"),
    (r"\bin\s*\(?\s*(\"\"|[0-9.]+(?![0-9.]))\s*\)?(?!\s*,)",
     'write a list after in: label in ("cat", "dog")'),
    (r"\.\s*(lower|upper|casefold|strip)\b|\b(?i:lower|upper)\s*\(",
     'text is compared as it is written: name its spellings, label in ("Cat", "cat")'),
)  # fmt: skip

Truth = tuple[Mask, Mask]  # where the expression is true, where it is false; else it is unknown
GetColumn = Callable[[str], Column]

_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_MIRRORED: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.Eq,
    ast.NotEq: ast.NotEq,
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
}
_TEXT_TESTS: Mapping[str, Callable[[TextTests, str], Mask]] = {
    "startswith": TextTests.startswith,
    "endswith": TextTests.endswith,
    "contains": TextTests.contains,
}


@dataclass(frozen=True)
class _Test:
    """A test of a column's values."""

    column: str
    test: Callable[[Any], Any]  # takes an array of numbers, or `TextTests`

    def truth(self, column_of: GetColumn) -> Truth:
        column = column_of(self.column)
        if column.type == "str":
            texts = column.categories
            utf8 = texts.utf8() if isinstance(texts, Texts) else encode(texts)
            table = mask_texts(*utf8, self.test)
            # Entries of missing values may lie outside the categories.
            holds = np.append(table, False).take(column.values, mode="clip")
        else:
            values = column.values.astype(bool) if column.type == "bool" else column.values
            holds = np.asarray(self.test(values), bool)
        if column.missing is None:
            return holds, ~holds
        return holds & ~column.missing, ~holds & ~column.missing


@dataclass(frozen=True)
class _Missing:
    """Whether a column has no value, or with `negated` whether it has one."""

    column: str
    negated: bool

    def truth(self, column_of: GetColumn) -> Truth:
        column = column_of(self.column)
        missing = np.zeros(len(column), bool)
        if column.missing is not None:
            missing |= column.missing
        return (~missing, missing) if self.negated else (missing, ~missing)


@dataclass(frozen=True)
class _Not:
    operand: _Node

    def truth(self, column_of: GetColumn) -> Truth:
        true, false = self.operand.truth(column_of)
        return false, true


@dataclass(frozen=True)
class _All:
    operands: tuple[_Node, ...]

    def truth(self, column_of: GetColumn) -> Truth:
        true, false = self.operands[0].truth(column_of)
        for operand in self.operands[1:]:
            other = operand.truth(column_of)
            true, false = true & other[0], false | other[1]
        return true, false


@dataclass(frozen=True)
class _Any:
    operands: tuple[_Node, ...]

    def truth(self, column_of: GetColumn) -> Truth:
        true, false = self.operands[0].truth(column_of)
        for operand in self.operands[1:]:
            other = operand.truth(column_of)
            true, false = true | other[0], false & other[1]
        return true, false


_Node = _Test | _Missing | _Not | _All | _Any


def _text_comparison(column: str, op: ast.cmpop, value: str) -> _Node:
    if isinstance(op, ast.Eq | ast.NotEq):  # quicker to find than an order
        equal = _Test(column, lambda texts: texts.is_in((value,)))
        return equal if isinstance(op, ast.Eq) else _Not(equal)
    function = _COMPARISONS[type(op)]
    return _Test(column, lambda texts: function(texts.compare(value), 0))


def _measured(node: ast.expr) -> ast.Name | None:
    """The name of which a node is the length; None for other nodes."""
    match node:
        case ast.Call(func=ast.Name(id="len"), args=[ast.Name() as name], keywords=[]):
            return name
    return None


def _number_test(op: ast.cmpop, value: int | float | bool, type_: str) -> Callable[[Any], Any]:
    """A comparison of numbers of a column's type with a value of any."""
    function = _COMPARISONS[type(op)]
    below, above = _neighbours(value, type_)
    if isinstance(op, ast.Lt | ast.GtE):
        bound = above
    elif isinstance(op, ast.LtE | ast.Gt) or below == above:
        bound = below
    else:
        bound = math.nan  # which equals nothing, like a value between two of the column's
    return lambda values: function(values, bound)


def _neighbours(value: Any, kind: str) -> tuple[Any, Any]:
    """The nearest values of a column's type that are not above, and not below, a value.

    numpy compares whole numbers with others as float64, which rounds those beyond 2**53.
    """
    if kind == "int" and isinstance(value, float) and math.isfinite(value):
        return math.floor(value), math.ceil(value)
    if kind != "float" or not isinstance(value, int):
        return value, value
    try:
        nearest = float(value)
    except OverflowError:
        nearest = math.inf if value > 0 else -math.inf
    below = nearest if nearest <= value else math.nextafter(nearest, -math.inf)
    return below, nearest if nearest >= value else math.nextafter(nearest, math.inf)


class Filter:
    """A compiled expression.

    Parameters
    ----------
    text
        The expression.
    columns
        Type of every metadata key of the store.

    Raises
    ------
    FilterError
        Quotes the expression from where it is wrong, and says what is accepted;
        lists the columns if one does not exist.
    """

    def __init__(self, text: str, columns: Mapping[str, str]) -> None:
        if not isinstance(text, str):
            raise FilterError(f"an expression is text, received {type(text).__name__}")
        self.text = text
        self._types = {**PSEUDO_COLUMNS, **columns}
        with parsed(text, self._error) as tree:
            self._root = self._node(tree)

    def mask(self, column_of: GetColumn) -> Mask:
        """The rows for which the expression is true.

        Parameters
        ----------
        column_of
            Returns the column of a name, over the rows to test.

        Returns
        -------
        ndarray
            bool ``[n]``.
        """
        return self._root.truth(column_of)[0]

    def _error(self, problem: str, position: int) -> FilterError:
        excerpt = self.text.strip()[max(0, position - 20) : position + 40]
        return FilterError(f"filter {problem}, at {excerpt!r}; {self._hint() or HELP}")

    def _hint(self) -> str | None:
        """What is probably meant, from what other languages have; None if that is not known."""
        bare = without_quoted(self.text[:MAX_LENGTH])
        for key in self._types:
            if not is_name(key) and re.search(rf"(?<!\w){re.escape(key)}(?!\w)", bare):
                return f"put the name between backticks: {quoted(key)}"
        return next((hint for pattern, hint in _HINTS if re.search(pattern, bare)), None)

    def _error_at(self, node: ast.expr, problem: str) -> FilterError:
        return self._error(problem, span(self.text.strip(), node)[0])

    def _node(self, node: ast.expr) -> _Node:
        match node:
            case ast.BoolOp(op=ast.And(), values=values):
                return _All(tuple(self._node(value) for value in values))
            case ast.BoolOp(op=ast.Or(), values=values):
                return _Any(tuple(self._node(value) for value in values))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return _Not(self._node(operand))
            case ast.Compare():
                return self._compare(node)
            case ast.Call(func=ast.Attribute(value=ast.Name() as name, attr=attr)):
                return self._call(node, name, attr)
            case ast.Name(id=key):
                if self._type(node) != "bool":
                    raise self._error_at(
                        node, f"has the {self._type(node)} column {key!r} by itself: compare it"
                    )
                return _Test(key, lambda values: values)
        raise self._error_at(node, f"has {type(node).__name__}, which is not accepted")

    def _type(self, node: ast.Name) -> str:
        if node.id not in self._types:
            known = ", ".join(map(quoted, sorted(self._types)))
            hint = self._hint()
            raise FilterError(
                f"filter names {node.id!r}, which is not a column; "
                f"{hint + '; ' if hint else ''}columns are: {known}"
            )
        return self._types[node.id]

    def _compare(self, node: ast.Compare) -> _Node:
        sides = [node.left, *node.comparators]
        tests = [
            self._pair(left, op, right)
            for left, op, right in zip(sides[:-1], node.ops, sides[1:], strict=True)
        ]
        return tests[0] if len(tests) == 1 else _All(tuple(tests))

    def _pair(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> _Node:
        if isinstance(op, ast.In | ast.NotIn):
            return self._membership(left, op, right)
        if isinstance(left, ast.Name) and isinstance(op, ast.Is | ast.IsNot):
            self._type(left)
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise self._error_at(right, "has 'is' with something other than None")
            return _Missing(left.id, negated=isinstance(op, ast.IsNot))
        mirrored = isinstance(right, ast.Name) or _measured(right) is not None
        named = isinstance(left, ast.Name) or _measured(left) is not None
        if mirrored and not named and type(op) in _MIRRORED:
            left, op, right = right, _MIRRORED[type(op)](), left
        measured = _measured(left)
        if measured is not None and type(op) in _COMPARISONS:
            return self._length(measured, op, right)
        if not isinstance(left, ast.Name):
            raise self._error_at(left, "compares something that is not a column")
        if isinstance(right, ast.Name) and right.id not in self._types:
            raise self._error_at(
                right, f"has {right.id!r}, which is neither a column nor a value: quote text"
            )
        if isinstance(right, ast.Name):
            raise self._error_at(right, "compares two columns: compare a column with a value")
        if type(op) not in _COMPARISONS:
            raise self._error_at(left, "has 'is' with something other than None")
        value = self._value(right)
        if self._type(left) in LIMITS:
            return self._date_test(left, op, value)
        self._check(left, value)
        if isinstance(value, str):
            return _text_comparison(left.id, op, value)
        return _Test(left.id, _number_test(op, value, self._type(left)))

    def _length(self, name: ast.Name, op: ast.cmpop, right: ast.expr) -> _Node:
        """A comparison of the number of characters of a text."""
        if self._type(name) != "str":
            raise self._error_at(
                name, f"takes the length of the {self._type(name)} column {name.id!r}"
            )
        value = self._value(right)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._error_at(right, f"compares a length with {value!r}, which is no number")
        test = _number_test(op, value, "int")
        return _Test(name.id, lambda texts: test(texts.lengths()))

    def _date_test(self, name: ast.Name, op: ast.cmpop, value: str | int | float | bool) -> _Node:
        """A comparison with a date, or with a year, a month or a time: the whole of it."""
        type_ = self._type(name)
        found = period(value) if isinstance(value, str) else None
        if found is not None and type_ == "date":
            found = (
                None if any(each % DAY for each in found) else (found[0] // DAY, found[1] // DAY)
            )
        if found is None:
            raise FilterError(
                f"filter compares the {type_} column {name.id!r} with {value!r}: give "
                + ('"2020-01-31"' if type_ == "date" else '"2020-01-31 12:00:00", "2020-01-31"')
                + ', "2020-01" or "2020"'
            )
        start, end = found
        if isinstance(op, ast.Eq | ast.NotEq):
            inside = _Test(name.id, lambda values: (values >= start) & (values < end))
            return inside if isinstance(op, ast.Eq) else _Not(inside)
        # Greater than a day is from the next one on, and up to a day is to its end.
        bound = start if isinstance(op, ast.Lt | ast.GtE) else end
        below = isinstance(op, ast.Lt | ast.LtE)
        return _Test(name.id, lambda values: values < bound if below else values >= bound)

    def _membership(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> _Node:
        if isinstance(right, ast.Name) and isinstance(left, ast.Constant):
            node: _Node = self._text_test(right, "contains", left)
            return _Not(node) if isinstance(op, ast.NotIn) else node
        if not isinstance(left, ast.Name) or not isinstance(right, ast.Tuple | ast.List | ast.Set):
            raise self._error_at(left, 'has "in" without a column and a list of values')
        values = [self._value(item) for item in right.elts]
        if self._type(left) in LIMITS and values:
            node = _Any(tuple(self._date_test(left, ast.Eq(), value) for value in values))
            return _Not(node) if isinstance(op, ast.NotIn) else node
        for value in values:
            self._check(left, value)
        if self._type(left) == "str":
            node = _Test(left.id, lambda texts: texts.is_in(values))
        else:
            pairs = [_neighbours(value, self._type(left)) for value in values]
            exact = [below for below, above in pairs if below == above]
            # One array per type: as float64, large integers would lose their last digits.
            integers = [v for v in exact if isinstance(v, int) and -(2**63) <= v < 2**63]
            floats = [v for v in exact if isinstance(v, float)]
            node = _Test(
                left.id,
                lambda array: (
                    np.isin(array, np.array(floats, float))
                    if array.dtype.kind == "f"
                    else np.isin(array, np.array(integers, array.dtype))
                ),
            )
        return _Not(node) if isinstance(op, ast.NotIn) else node

    def _call(self, node: ast.Call, name: ast.Name, method: str) -> _Node:
        if method not in _TEXT_TESTS or len(node.args) != 1 or node.keywords:
            raise self._error_at(node, f"calls {method!r}, which is not accepted")
        return self._text_test(name, method, node.args[0])

    def _text_test(self, name: ast.Name, method: str, argument: ast.expr) -> _Test:
        if self._type(name) != "str":
            raise self._error_at(
                name, f"looks for text in the {self._type(name)} column {name.id!r}: compare it"
            )
        value = self._value(argument)
        if not isinstance(value, str):
            raise self._error_at(argument, f"looks for {value!r}, which is not text")
        function = _TEXT_TESTS[method]
        return _Test(name.id, lambda texts: function(texts, value))

    def _value(self, node: ast.expr) -> str | int | float | bool:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return -number
            case ast.Constant(value=None):
                raise self._error_at(node, "compares with None: write 'is None' or 'is not None'")
            case ast.Name(id=key):
                raise self._error_at(node, f"has {key!r} where a value is expected: quote text")
        raise self._error_at(node, f"has {type(node).__name__} where a value is expected")

    def _check(self, name: ast.Name, value: str | int | float | bool) -> None:
        kind = self._type(name)
        fits = {
            "str": isinstance(value, str),
            "bool": isinstance(value, bool),
            "int": isinstance(value, int | float) and not isinstance(value, bool),
            "float": isinstance(value, int | float) and not isinstance(value, bool),
        }[kind]
        if not fits:
            raise FilterError(
                f"filter compares the {kind} column {name.id!r} with {value!r} "
                f"({type(value).__name__}): give a value of type {kind}"
            )
