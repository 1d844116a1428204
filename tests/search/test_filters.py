"""Metadata expressions: the right rows, never code, and nothing but `FilterError`."""

from __future__ import annotations

import operator
import re
import sys
import warnings
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from latentdb.base.errors import FilterError
from latentdb.search.filters import HELP, Filter
from latentdb.search.syntax import MAX_LENGTH
from latentdb.store.columns import Column, absent, join, make_column

KINDS = {"s": "str", "n": "int", "x": "float", "b": "bool"}
Row = dict[str, Any]
Expression = tuple[str, Callable[[Row], bool | None]]  # its text, and what it is for a row


def table(rows: list[Row]) -> dict[str, Column]:
    return {
        key: make_column(key, [row[key] for row in rows]) or absent(kind, len(rows))
        for key, kind in KINDS.items()
    }


ROWS = [
    {"s": "cat", "n": 1990, "x": 0.5, "b": True},
    {"s": "dog", "n": 2000, "x": -1.0, "b": False},
    {"s": None, "n": None, "x": None, "b": None},
    {"s": "catfish", "n": -3, "x": 2.0, "b": True},
]


def selected(text: str, rows: list[Row] = ROWS) -> list[int]:
    """Numbers of the rows an expression keeps."""
    columns = table(rows)
    mask = Filter(text, KINDS).mask(columns.__getitem__)
    assert mask.dtype == np.bool_
    assert mask.shape == (len(rows),)
    found: list[int] = np.flatnonzero(mask).tolist()
    return found


# --- what an expression means --------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('s == "cat"', [0]),
        ("'cat' == s", [0]),
        ('s != "cat"', [1, 3]),
        ('s < "d"', [0, 3]),
        ("n > 1990", [1]),
        ("1990 <= n", [0, 1]),
        ("-5 < n <= 1990", [0, 3]),
        ("2000 > n > -3", [0]),
        ("n == 1990.0", [0]),
        ("x >= 1", [3]),
        ("x == -1", [1]),
        ("-1.0 == x", [1]),
        ("b", [0, 3]),
        ("not b", [1]),
        ("b == False", [1]),
        ("b != True", [1]),
        ("b in (True,)", [0, 3]),
        ("n is None", [2]),
        ("n is not None", [0, 1, 3]),
        ("not n is None", [0, 1, 3]),
        ("not n == 1990", [1, 3]),
        ("b or n is None", [0, 2, 3]),
        ("s in ('cat', 'dog')", [0, 1]),
        ("s not in ['cat']", [1, 3]),
        ("n in {2000, -3}", [1, 3]),
        ("x in (0.5, 2)", [0, 3]),
        ("n not in (1990,)", [1, 3]),
        ("s in ()", []),
        ("n not in []", [0, 1, 3]),
        ("'cat' in s", [0, 3]),
        ("'cat' not in s", [1]),
        ("s.contains('at')", [0, 3]),
        ("s.startswith('cat')", [0, 3]),
        ("s.endswith('g')", [1]),
        ("not s.endswith('g')", [0, 3]),
        ("'cat' in s in ('cat', 'x')", [0]),
        ("n > 0 and s == 'dog' or x > 1", [1, 3]),
        ("n > 0 and (s == 'dog' or x > 1)", [1]),
        ("not b and n > 0", [1]),
        ("not (b and n > 0)", [1, 3]),
        ("  \n s == 'cat' # a remark", [0]),
        ("(s == 'cat'\n or b)", [0, 3]),
        ("n < 1000000000000000000000000", [0, 1, 3]),
        ("n > -1e300", [0, 1, 3]),
        ("n == 18446744073709551616", []),
        ("x < 1e999", [0, 1, 3]),
        ("s == '\\u0063at'", [0]),
        ("s == '\\ud800'", []),
    ],
)
def test_an_expression_keeps_the_rows_it_is_true_for(text: str, rows: list[int]) -> None:
    assert selected(text) == rows


@pytest.mark.parametrize(
    ("known", "unknown", "both", "either"),
    [("True", "n == 1", None, True), ("False", "n == 1", False, None)],
)
def test_unknown_and_or_are_those_of_sql(
    known: str, unknown: str, both: bool | None, either: bool | None
) -> None:
    rows = [{"s": "a", "n": None, "x": 1.0, "b": known == "True"}]
    for joined, truth in ((f"b and {unknown}", both), (f"b or {unknown}", either)):
        assert selected(joined, rows) == ([0] if truth is True else [])
        assert selected(f"not ({joined})", rows) == ([0] if truth is False else [])


def test_whole_numbers_are_compared_exactly() -> None:
    big = 2**53
    rows = [{"s": None, "n": n, "x": None, "b": None} for n in (big, big + 1, 2**63 - 1, -(2**63))]
    assert selected(f"n == {big + 1}", rows) == [1]
    assert selected(f"n > {big}", rows) == [1, 2]
    assert selected(f"n in ({big + 1}, -{2**70})", rows) == [1]
    assert selected(f"n == {2**63}", rows) == []
    assert selected(f"n == -{2**63}", rows) == [3]
    assert selected(f"n < -{2**63}", rows) == []


@pytest.mark.parametrize("sign", ["==", "!=", "<", "<=", ">", ">="])
@pytest.mark.parametrize("value", ["9007199254740992.0", "9007199254740993", "0.5", "-0.5"])
@pytest.mark.parametrize("key", ["n", "x"])
def test_whole_numbers_and_floats_compare_as_in_python(key: str, value: str, sign: str) -> None:
    """As float64, 2**53 + 1 would be 2.0**53."""
    numbers = [0, 1, -1, 2**53, 2**53 + 1, 2**53 + 2]
    typed = [n if key == "n" else float(n) for n in numbers]
    rows = [{"s": None, "n": None, "x": None, "b": None, key: number} for number in typed]
    expected = [row for row, n in enumerate(typed) if eval(f"{n!r} {sign} {value}")]
    assert selected(f"{key} {sign} {value}", rows) == expected
    if sign == "==":
        assert selected(f"{key} in ({value}, 77)", rows) == expected


@pytest.mark.parametrize("other", ["0.5", str(2**63), "1e300"])
def test_one_of_a_list_is_found_as_exactly_as_by_itself(other: str) -> None:
    # As one array the values of the list would all be float64.
    rows = [{"s": None, "n": 2**53 + n, "x": None, "b": None} for n in range(3)]
    assert selected(f"n == {2**53 + 1} or n == {other}", rows) == [1]
    assert selected(f"n in ({2**53 + 1}, {other})", rows) == [1]


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize(
    "text",
    ["x < {}", "x == {}", "x >= {}", "n < {}", "x in ({}, 2)"],
)
@pytest.mark.parametrize("digits", ["1" + "0" * 400, "0x" + "f" * 3000])
def test_a_number_beyond_all_floats_can_be_compared_with(digits: str, text: str, sign: str) -> None:
    if " in " in text:
        expected = [3]
    elif text.startswith(("x <", "n <")):
        expected = [] if sign else [0, 1, 3]
    else:
        expected = [0, 1, 3] if sign and ">=" in text else []
    assert selected(text.format(sign + digits)) == expected


def literals(kind: str) -> st.SearchStrategy[Any]:
    return {
        "s": st.sampled_from(["", "a", "ab", "b", "ba", "é", "'", '"', "\\", "\n", "日本"]),
        "n": st.integers(-3, 3) | st.sampled_from([2**40, 2**62, -(2**63), 2**63 - 1]),
        "x": st.sampled_from([-1.5, -0.0, 0.0, 0.1, 0.5, 1.0, 1e300, float("inf")]),
        "b": st.booleans(),
    }[kind]


def constants(key: str) -> st.SearchStrategy[Any]:
    """What a column may be compared with."""
    return literals("n") | st.sampled_from([0.5, -1.5, 1e300]) if key == "n" else literals(key)


OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
FLIPPED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


def of_value(key: str, test: Callable[[Any], bool]) -> Callable[[Row], bool | None]:
    return lambda row: None if row[key] is None else test(row[key])


def sql_not(value: bool | None) -> bool | None:
    return None if value is None else not value


def sql_all(values: list[bool | None]) -> bool | None:
    return False if False in values else None if None in values else True


@st.composite
def checks(draw: st.DrawFn) -> Expression:
    """One test of one column, in any way it can be written."""
    key = draw(st.sampled_from(sorted(KINDS)))
    written = st.sampled_from(
        ["compare", "mirror", "chain", "in", "not in", "none", "text", "bool"]
    )
    form = draw(written)
    # 1e999 is how infinity can be written.
    value, other = (draw(constants(key)) for _ in range(2))
    text, after = (repr(v).replace("inf", "1e999") for v in (value, other))
    if form == "none":
        no = draw(st.sampled_from(["", "not "]))
        return f"{key} is {no}None", lambda row: (row[key] is None) == (no == "")
    if form in ("in", "not in"):
        values = draw(st.lists(constants(key), max_size=3))
        shown = ", ".join(map(repr, values)).replace("inf", "1e999")
        inside = of_value(key, lambda v: v in values)
        if form == "in":
            return f"{key} in [{shown}]", inside
        return f"{key} not in [{shown}]", lambda row: sql_not(inside(row))
    if form == "text" and key == "s":
        way = draw(st.sampled_from(["startswith", "endswith", "contains", "in", "not in"]))
        if way == "in":
            return f"{text} in s", of_value("s", lambda v: value in v)
        if way == "not in":
            return f"{text} not in s", of_value("s", lambda v: value not in v)
        if way == "contains":
            return f"s.contains({text})", of_value("s", lambda v: value in v)
        return f"s.{way}({text})", of_value("s", lambda v: bool(getattr(v, way)(value)))
    if form == "bool" and key == "b":
        return "b", of_value("b", bool)
    sign, second = (draw(st.sampled_from(sorted(OPERATORS))) for _ in range(2))
    test = of_value(key, lambda v: bool(OPERATORS[sign](v, value)))
    if form == "mirror":
        return f"{text} {FLIPPED[sign]} {key}", test
    if form == "chain":
        more = of_value(key, lambda v: bool(OPERATORS[second](v, other)))
        return (
            f"{text} {FLIPPED[sign]} {key} {second} {after}",
            lambda row: sql_all([test(row), more(row)]),
        )
    return f"{key} {sign} {text}", test


def joined(parts: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    def no(part: Expression) -> Expression:
        return f"not ({part[0]})", lambda row: sql_not(part[1](row))

    def both(several: list[Expression]) -> Expression:
        text = " and ".join(f"({text})" for text, _ in several)
        return text, lambda row: sql_all([truth(row) for _, truth in several])

    def either(several: list[Expression]) -> Expression:
        text = " or ".join(f"({text})" for text, _ in several)
        return text, lambda row: sql_not(sql_all([sql_not(truth(row)) for _, truth in several]))

    several = st.lists(parts, min_size=2, max_size=3)
    return parts.map(no) | several.map(both) | several.map(either)


TABLES = st.lists(
    st.fixed_dictionaries({key: st.none() | literals(key) for key in KINDS}), max_size=8
)


@settings(max_examples=300)
@given(expression=st.recursive(checks(), joined, max_leaves=6), rows=TABLES)
def test_the_mask_is_what_three_valued_logic_says(expression: Expression, rows: list[Row]) -> None:
    text, truth = expression
    wanted = [truth(row) for row in rows]
    assert selected(text, rows) == [number for number, value in enumerate(wanted) if value is True]
    assert selected(f"not ({text})", rows) == [
        number for number, value in enumerate(wanted) if value is False
    ]


@given(expression=checks(), rows=TABLES, cut=st.integers(0, 8))
def test_the_parts_of_a_column_give_the_parts_of_its_mask(
    expression: Expression, rows: list[Row], cut: int
) -> None:
    # Every segment of a store has its own table of texts.
    compiled = Filter(expression[0], KINDS)
    parts = [table(rows[:cut]), table(rows[cut:])]
    masks = [compiled.mask(part.__getitem__) for part in parts]
    whole = {key: join(kind, [part[key] for part in parts]) for key, kind in KINDS.items()}
    assert np.array_equal(np.concatenate(masks), compiled.mask(whole.__getitem__))


def test_what_stands_where_a_value_is_missing_means_nothing() -> None:
    missing = np.array([True, False, True])
    odd = {
        "s": Column("str", np.array([99, 0, -5], "<i4"), missing, ("a",)),
        "b": Column("bool", np.array([7, 1, 0], "u1"), missing),
        "x": Column("float", np.array([np.nan, 1, 1]), missing),
    }

    def mask(text: str) -> NDArray[np.bool_]:
        return Filter(text, KINDS).mask(odd.__getitem__)

    for text in ("s == 'a'", "b", "x == 1", "x is not None", "not s == 'b'", "not x != 1"):
        assert mask(text).tolist() == [False, True, False]


def test_id_and_path_are_columns_always() -> None:
    names = Column("str", np.arange(3, dtype="<i4"), None, ("a/1.png", "a/2.png", "b/1.png"))
    found = Filter("id.startswith('a/') and path != 'a/2.png'", {}).mask(lambda _: names)
    assert found.tolist() == [True, False, False]


def test_only_the_columns_that_are_named_are_read() -> None:
    columns = table(ROWS)
    asked: list[str] = []

    def column_of(name: str) -> Column:
        asked.append(name)
        return columns[name]

    Filter("n > 0 and s in ('cat',)", KINDS).mask(column_of)
    assert set(asked) == {"n", "s"}


# --- what is refused -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("s ==", "cannot be read"),
        ("s = 'a'", "cannot be read"),
        ("s == 'a", "cannot be read"),
        ("s == 'a' && b", "cannot be read"),
        ("SELECT 1", "cannot be read"),
        ("s == 'a'\0", "null"),
        ("missing == 1", "'missing', which is not a column; columns are: b, id, n, path, s, x"),
        ("n == x", "compares two columns"),
        ("n", "has the int column 'n' by itself: compare it"),
        ("s and b", "has the str column 's' by itself"),
        ("not x", "has the float column 'x' by itself"),
        ("s == 1", r"compares the str column 's' with 1 \(int\)"),
        ("n == '1'", r"compares the int column 'n' with '1' \(str\)"),
        ("n == True", r"compares the int column 'n' with True \(bool\)"),
        ("x in (1, 'a')", r"compares the float column 'x' with 'a' \(str\)"),
        ("b == 1", r"compares the bool column 'b' with 1 \(int\)"),
        ("b in (0,)", r"compares the bool column 'b' with 0 \(int\)"),
        ("n == None", "write 'is None' or 'is not None'"),
        ("n in (1, None)", "write 'is None' or 'is not None'"),
        ("n is 3", "'is' with something other than None"),
        ("b is True", "'is' with something other than None"),
        ("s is not 'a'", "'is' with something other than None"),
        ("1 == 1", "compares something that is not a column"),
        ("1 < 2 < n", "compares something that is not a column"),
        ("True", "has Constant, which is not accepted"),
        ("s in 'abc'", '"in" without a column and a list'),
        ("s in s", '"in" without a column and a list'),
        ("1 in n", "looks for text in the int column 'n'"),
        ("1 in s", "looks for 1, which is not text"),
        ("n.startswith('1')", "looks for text in the int column 'n'"),
        ("s.startswith(1)", "looks for 1, which is not text"),
        ("s.startswith(('a', 'b'))", "has Tuple where a value is expected"),
        ("s.upper()", "calls 'upper', which is not accepted"),
        ("s.contains()", "calls 'contains', which is not accepted"),
        ("s.contains('a', 'b')", "calls 'contains', which is not accepted"),
        ("s.contains(x='a')", "calls 'contains', which is not accepted"),
    ],
)
def test_what_is_wrong_is_reported(text: str, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        Filter(text, KINDS)


@pytest.mark.parametrize("text", ["s == cat", "s != dog", "n < 3 and s == cat"])
def test_text_without_quotes_is_reported_as_such(text: str) -> None:
    # What is left of label == "cat" when a shell has taken the quotes.
    with pytest.raises(FilterError, match="quote"):
        Filter(text, KINDS)


@pytest.mark.parametrize("text", [None, 5, b"b", ["b"]])
def test_an_expression_is_text(text: Any) -> None:
    with pytest.raises(FilterError, match="an expression is text, received"):
        Filter(text, KINDS)


def test_an_error_points_at_the_place_and_says_what_is_accepted() -> None:
    with pytest.raises(FilterError) as caught:
        Filter("s == 'cat' and b and (lambda: 0)() and n > 1990", KINDS)
    message = str(caught.value)
    assert "lambda" in message
    assert HELP in message
    assert "\n" not in message


def test_an_error_points_at_the_place_in_text_that_is_not_ascii() -> None:
    with pytest.raises(FilterError) as caught:
        Filter(f"s == '{'é' * 60}' and n is 3", KINDS)
    assert "n is 3" in str(caught.value)


def test_an_error_points_at_the_place_in_a_later_line() -> None:
    with pytest.raises(FilterError) as caught:
        Filter(f"(s == '{'a' * 60}' and\n n is 3)", KINDS)
    assert "n is 3" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["s == '\ud800'", "s == 0x" + "f" * 5000], ids=["surrogate", "int"]
)
def test_what_is_neither_nested_nor_null_is_not_reported_as_that(text: str) -> None:
    with pytest.raises(FilterError) as caught:
        Filter(text, KINDS)
    assert "nested" not in str(caught.value)


# Every one of them would leave a file behind, were it run.
HOSTILE = [
    "{run}",
    "{run} == 1",
    "n == {run}",
    "n in ({run},)",
    "n in {run}",
    "n in [*{run}]",
    "b and {run}",
    "not {run}",
    "s.startswith({run})",
    "s.startswith(*[{run}])",
    "s.startswith(**{{'x': {run}}})",
    "s.contains(f'{{{run}}}')",
    "s == f'{{{run}}}'",
    "f'{{{run}}}'",
    "s == 'a' f'{{{run}}}'",
    "(y := {run})",
    "n == (y := {run})",
    "[{run} for y in (1,)]",
    "{{{run} for y in (1,)}}",
    "{{1: {run}}}",
    "n in ({run} for y in (1,))",
    "(lambda: {run})()",
    "n == (lambda: {run})()",
    "1 if {run} else 2",
    "n == (1 if {run} else 2)",
    "b and (b if {run} else b)",
    "n[{run}] == 1",
    "s[{run}:] == 'a'",
    "s.__class__.__mro__[{run}]",
    "s.__init__.__globals__['x']({run})",
    "().__class__.__base__.__subclasses__()[{run}]",
    "n == 1 + {run}",
    "n == -{run}",
    "-{run} < n",
    "n == 1 < {run}",
    "{run} < n < 3",
    "b & {run}",
    "b @ {run}",
    "~{run}",
    "await {run}",
    "(yield {run})",
    "{run}; b",
    "b; {run}",
    "b\n{run}",
    "import os; {run}",
    "s.contains('a')({run})",
    "getattr(s, 'startswith')({run})",
    "exec({run})",
    "eval('b')",
    "print(n)",
    "b.startswith.__call__('a')",
    "s.startswith",
    "s.__class__",
    "s.categories",
    "n == ...",
    "n == 1j",
    "s == b'a'",
    "b if b else b",
    "*b",
    "b,",
    "[b]",
    "{{}}",
]


@pytest.mark.parametrize("pattern", HOSTILE)
def test_code_is_refused_and_never_run(pattern: str, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    run = f"open({str(trap)!r}, 'w')"
    with pytest.raises(FilterError):
        Filter(pattern.format(run=run), KINDS)
    assert not trap.exists()
    eval(run).close()  # the trap does work
    assert trap.exists()


@pytest.mark.parametrize(
    "text",
    [
        "not " * 4000 + "b",
        "(" * 9000 + "b" + ")" * 9000,
        "b and (" * 2000 + "b" + ")" * 2000,
        "[" * 9000 + "]" * 9000,
        "n == " + "-" * 15_000 + "1",
        "s" + ".s" * 9000,
        "s" + "()" * 9000,
        "s" + "[0]" * 6000,
        "b if b else " * 1500 + "b",
        "lambda:" * 2800 + "b",
        "s == f'" + "{" * 5000,
        "n == " + "1 + " * 4000 + "1",
        "n < " * 4000 + "n",
        "s == 1" + "0" * 5000,
        "x == 1" + "0" * 5000,
        "s == 0x" + "f" * 15_000,
        "s.startswith(0x" + "f" * 15_000 + ")",
        "s == '\ud800'",
        "\ufeffb",
        "b" * 19_000,
        "\\" * 100,
        "\x1b[2J",
        "s == '\\N{nothing}'",
        "s == '\\x'",
        "b" + "\u202e",
        "\uff10 == n",
    ],
    ids=lambda text: ascii(text)[:20],
)
def test_odd_and_endless_text_is_refused(text: str) -> None:
    with pytest.raises(FilterError):
        Filter(text, KINDS)


def test_an_expression_has_a_longest_length() -> None:
    rest = "b or " * (MAX_LENGTH // 5 - 1)
    assert selected(rest + "b") == [0, 3]
    with pytest.raises(FilterError, match=f"has {MAX_LENGTH + 1:,} characters: at most"):
        Filter("b" + " " * MAX_LENGTH, KINDS)


def test_an_expression_that_was_compiled_can_be_used_at_any_depth() -> None:
    columns = table(ROWS)

    def compiled(depth: int) -> Filter | None:
        try:
            return Filter("not " * depth + "b", KINDS)
        except FilterError:
            return None

    def deeper(frames: int, deepest: Filter) -> NDArray[np.bool_]:
        if frames:
            return deeper(frames - 1, deepest)
        return deepest.mask(columns.__getitem__)

    # The deepest that is taken here, where the stack is at its lowest.
    low, high = 1, sys.getrecursionlimit() * 4
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if compiled(middle) else (low, middle)
    deepest = compiled(low)
    assert deepest is not None
    assert deeper(100, deepest).tolist() == [row["b"] is (low % 2 == 0) for row in ROWS]


WORDS = (
    "s n x b id zz and or not in is None True == != < <= ( ) [ ] { } , . : ; := * ** - + ~ @ 1 2.5 "
    "1e999 0x 'a' \"b\" ''' f'{b}' b'a' lambda if else for startswith contains .startswith( "
    "\\ \n # $ ? ! \0 é \ud800 _ __class__ await yield"
)


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(WORDS.split(" ")), max_size=12).map(" ".join) | st.text(max_size=20)
)
def test_any_text_at_all_is_a_mask_or_a_filter_error(text: str) -> None:
    problem = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python's parser, about odd literals
        try:
            rows = selected(text)
        except FilterError as error:
            rows, problem = [], str(error)
    assert set(rows) <= {0, 1, 2, 3}
    assert "\n" not in problem


# --- dates, lengths, names between backticks -------------------------------------------

DAYS = [date(2019, 12, 31), date(2020, 1, 1), None, date(2020, 12, 31), date(2021, 1, 1)]


@pytest.mark.parametrize(
    ("expression", "selected"),
    [
        ('taken > "2020"', [4]),
        ('taken >= "2020"', [1, 3, 4]),
        ('taken == "2020"', [1, 3]),
        ('taken != "2020"', [0, 4]),
        ('taken < "2020-01-01"', [0]),
        ('"2020-01-01" >= taken', [0, 1]),
        ('"2020" <= taken < "2021"', [1, 3]),
        ('taken in ("2019", "2020-12-31")', [0, 3]),
        ('taken not in ("2019", "2020-12-31")', [1, 4]),
        ("taken is None", [2]),
        ('not taken > "2020"', [0, 1, 3]),
    ],
)
@pytest.mark.parametrize("type_", ["date", "datetime"])
def test_dates_are_compared_with_whole_periods(
    expression: str, selected: list[int], type_: str
) -> None:
    values: list[Any] = list(DAYS)
    if type_ == "datetime":
        values = [day and datetime(day.year, day.month, day.day, 23, 59) for day in DAYS]
    column = make_column("taken", values)
    assert column is not None
    mask = Filter(expression, {"taken": type_}).mask(lambda _: column)
    assert np.flatnonzero(mask).tolist() == selected


@pytest.mark.parametrize("value", ["5", '"x"', "True", '"2020-02-30"', '"2020-01-01 10:00"', '""'])
def test_what_is_no_date_is_told(value: str) -> None:
    with pytest.raises(FilterError, match=r"date column 'taken' .*give \"2020-01-31\""):
        Filter(f"taken > {value}", {"taken": "date"})


@pytest.mark.parametrize(
    ("expression", "selected"),
    [
        ("len(name) > 2", [1, 3]),
        ("2 >= len(name)", [0]),
        ("len(name) == 0", [0]),
        ("0.5 < len(name) <= 3.5", [1]),
        ("not len(name) > 2", [0]),
    ],
)
def test_the_length_of_a_text_is_compared(expression: str, selected: list[int]) -> None:
    column = make_column("name", ["", "\u00e9\u4e00\U0001f600", None, "abcd"])
    assert column is not None
    mask = Filter(expression, {"name": "str"}).mask(lambda _: column)
    assert np.flatnonzero(mask).tolist() == selected


@pytest.mark.parametrize(
    ("expression", "hint"),
    [
        ('label = "cat"', "use == to compare"),
        ('label == "cat" AND year > 1', "in small letters"),
        ('NOT label == "cat"', "in small letters"),
        ('label == "cat" OR year > 1', "in small letters"),
        ('label IN ("cat", "dog")', "in small letters"),
        ('label LIKE "c%"', "startswith"),
        ('label like "c%"', "startswith"),
        ('label.lower() == "cat"', "name its spellings"),
        ('lower(label) == "cat"', "name its spellings"),
        ("year BETWEEN 1 AND 2", "1990 <= year <= 2000"),
        ("label IS NULL", "write is None"),
        ("label = NULL", "write is None"),
        ('label <> "cat"', "use !="),
        ('label == "cat" && year > 1', "write and, or, not"),
        ('label == "cat" & year > 1', "write and, or, not"),
        ('!(label == "cat")', "write and, or, not"),
        ("seen == true", "write True, False"),
        ('label in ("cat")', "write a list after in"),
        ("year in (1999)", "write a list after in"),
        ("Year taken > 1990", "between backticks: `Year taken`"),
        ("exif.iso > 100", "between backticks: `exif.iso`"),
        ("class == 1", "between backticks: `class`"),
    ],
)
def test_what_other_languages_write_gets_the_hint_that_helps(expression: str, hint: str) -> None:
    types = {"label": "str", "year": "int", "seen": "bool",
             "Year taken": "int", "exif.iso": "int", "class": "int"}  # fmt: skip
    with pytest.raises(FilterError, match=re.escape(hint)):
        Filter(expression, types)


@pytest.mark.parametrize(
    "expression",
    [
        'label == "a = b AND c LIKE d"',
        "year in (1999, 2000)",
        'label in ("cat", "dog")',
        'label in ("cat",)',
        '"cat" in label',
        "`Year taken` > 1990 and `exif.iso` in (100, 200) and `class` != 3",
        "label == \"`\" or label == '`Year taken'",
    ],
)
def test_what_looks_like_another_language_is_read(expression: str) -> None:
    types = {"label": "str", "year": "int", "Year taken": "int", "exif.iso": "int", "class": "int"}
    assert Filter(expression, types)


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("`Year taken > 1", "has a ` without another, at '`Year taken > 1'"),
        ("`` > 1", "has an empty name"),
        ("`no such` > 1", "names 'no such', which is not a column; columns are: .*`Year taken`"),
        ("`Year taken` > 1 and year >", "cannot be read"),
        ('`Year taken` == "x"', "compares the int column 'Year taken'"),
        ("`Year taken` > 1 and label > label", "compares two columns.*at '.* label'"),
    ],
)
def test_errors_name_what_stands_between_backticks(expression: str, told: str) -> None:
    with pytest.raises(FilterError, match=told):
        Filter(expression, {"label": "str", "year": "int", "Year taken": "int"})
