"""Metadata expressions for engines: checked as the store checks them, then without ``not``.

An engine is asked which rows an expression is true for.  `Filter` knows true, false and
unknown; with every ``not`` moved down to the comparisons, an engine only has to know that a
comparison with a missing value is not true.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from latentdb.base.errors import FilterError
from latentdb.search.filters import Filter
from latentdb.search.syntax import parsed
from latentdb.store.columns import Value
from latentdb.store.dates import DAY, LIMITS, period

_EXACT = 2**53  # up to here whole numbers and float64 are compared exactly
_OPERATORS: Mapping[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}


@dataclass(frozen=True)
class Compare:
    """``key operator value``: one of ``== != < <= > >=``."""

    key: str
    operator: str
    value: Value


@dataclass(frozen=True)
class OneOf:
    """Whether a key has one of some values, or with `negated` another."""

    key: str
    values: tuple[Value, ...]
    negated: bool


@dataclass(frozen=True)
class Missing:
    """Whether a key has no value, or with `negated` one."""

    key: str
    negated: bool


@dataclass(frozen=True)
class TextTest:
    """``startswith``, ``endswith`` or ``contains``, or with `negated` its opposite."""

    key: str
    test: str
    text: str
    negated: bool


@dataclass(frozen=True)
class AllOf:
    """Whether all parts are true."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    """Whether a part is true."""

    parts: tuple[Condition, ...]


Condition: TypeAlias = Compare | OneOf | Missing | TextTest | AllOf | AnyOf


def translate(text: str, columns: Mapping[str, str]) -> Condition:
    """An expression as a condition without ``not``.

    Parameters
    ----------
    text
        The expression.
    columns
        Type of every metadata key of the collection.

    Raises
    ------
    FilterError
        If it is wrong, or compares numbers that an engine would round.
    """
    Filter(text, columns)  # says what is wrong with it
    with parsed(text, lambda problem, _: FilterError(f"filter {problem}")) as tree:
        return _Translation(columns).node(tree, negated=False)


class _Translation:
    """The tree of an expression that `Filter` has accepted, as a condition."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._columns = columns

    def node(self, node: ast.expr, *, negated: bool) -> Condition:
        match node:
            case ast.BoolOp(op=op, values=values):
                parts = tuple(self.node(value, negated=negated) for value in values)
                return AllOf(parts) if isinstance(op, ast.And) != negated else AnyOf(parts)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self.node(operand, negated=not negated)
            case ast.Compare():
                sides = [node.left, *node.comparators]
                parts = tuple(
                    self._pair(left, op, right, negated=negated)
                    for left, op, right in zip(sides[:-1], node.ops, sides[1:], strict=True)
                )
                if len(parts) == 1:
                    return parts[0]
                return AnyOf(parts) if negated else AllOf(parts)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=key), attr=test), args=[argument]):
                return TextTest(key, test, str(_value(argument)), negated)
            case ast.Name(id=key):
                return Compare(key, "==", not negated)
        raise FilterError(f"filter has {type(node).__name__}, which no engine is asked for")

    def _pair(self, left: ast.expr, op: ast.cmpop, right: ast.expr, *, negated: bool) -> Condition:
        if isinstance(op, ast.In | ast.NotIn):
            opposite = negated != isinstance(op, ast.NotIn)
            if isinstance(right, ast.Name):
                return TextTest(right.id, "contains", str(_value(left)), opposite)
            items = right.elts if isinstance(right, ast.Tuple | ast.List | ast.Set) else []
            key = _key(left)
            if self._columns.get(key) in LIMITS and items:
                days = [self._period(key, "!=" if opposite else "==", item) for item in items]
                return AllOf(tuple(days)) if opposite else AnyOf(tuple(days))
            return OneOf(key, tuple(self._exact(key, _value(item)) for item in items), opposite)
        if isinstance(op, ast.Is | ast.IsNot):
            return Missing(_key(left), negated != isinstance(op, ast.IsNot))
        operator = _OPERATORS[type(op)]
        if not isinstance(left, ast.Name):
            left, right, operator = right, left, _MIRRORED[operator]
        key = _key(left)
        operator = _OPPOSITE[operator] if negated else operator
        if self._columns.get(key) in LIMITS:
            return self._period(key, operator, right)
        return Compare(key, operator, self._exact(key, _value(right)))

    def _period(self, key: str, operator: str, node: ast.expr) -> Condition:
        """A comparison with a date or a time, or with the whole of a day, a month or a year."""
        start, end = period(str(_value(node))) or (0, 0)  # `Filter` has accepted it
        if self._columns[key] == "date":
            start, end = start // DAY, end // DAY
        match operator:
            case "==":
                return AllOf((Compare(key, ">=", start), Compare(key, "<", end)))
            case "!=":
                return AnyOf((Compare(key, "<", start), Compare(key, ">=", end)))
        bound = start if operator in ("<", ">=") else end
        return Compare(key, "<" if operator in ("<", "<=") else ">=", bound)

    def _exact(self, key: str, value: Value) -> Value:
        kind = self._columns.get(key)
        if not isinstance(value, int | float) or kind not in ("int", "float"):
            return value
        most = 2**63 - 1 if kind == "int" and isinstance(value, int) else _EXACT
        if abs(value) > most and not (kind == "float" and isinstance(value, float)):
            raise FilterError(
                f"filter compares the {kind} column {key!r} with {value!r}, "
                "which an engine would round: ask the store itself, without --on"
            )
        return value


def _key(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    raise FilterError(
        "filter compares something that is not a column, which no engine is asked for: "
        "ask the store itself, without --on"
    )


def _value(node: ast.expr) -> Value:
    value: Value = ast.literal_eval(node)
    return value
