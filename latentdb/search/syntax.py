"""Reading of expressions: Python's parser gives a tree, and nothing is ever evaluated."""

from __future__ import annotations

import ast
import re
import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from latentdb.base.errors import LatentDBError

MAX_LENGTH = 20_000
MAX_DEPTH = 100

# Threads that parse at once fail: Python 3.11 counts the depth of all in one place.
_parser = threading.Lock()

Fail = Callable[[str, int], LatentDBError]  # problem and position to the error to raise


@contextmanager
def parsed(text: str, fail: Fail) -> Iterator[ast.expr]:
    """The tree of an expression; what cannot be read in it, or while it is walked, is an error.

    Parameters
    ----------
    text
        The expression; positions are of the text without the blanks around it.
    fail
        Makes the error of a problem and its position in the text.
    """
    if len(text) > MAX_LENGTH:
        raise fail(f"has {len(text):,} characters: at most {MAX_LENGTH:,}", 0)
    text = text.strip()
    try:
        code, names = _without_quoted_names(text, fail)
        with _parser:
            tree = ast.parse(code, mode="eval").body
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                node.id = names.get(node.id, node.id)
        if _depth(tree) > MAX_DEPTH:
            raise fail("cannot be read: it is nested too deeply", 0)
        yield tree
    except SyntaxError as error:
        before = sum(map(len, _lines(text)[: (error.lineno or 1) - 1]))
        position = before + (error.offset or 1) - 1
        raise fail(f"cannot be read: {error.msg}", position) from error
    except (RecursionError, MemoryError) as error:
        raise fail("cannot be read: it is nested too deeply", 0) from error
    except LatentDBError:
        raise
    except ValueError as error:  # a null character, invalid Unicode, an integer too long to print
        raise fail("cannot be read: " + " ".join(str(error).split()), 0) from error


# A text in quotation marks, as far as it goes, or a name in backticks.
_QUOTED = re.compile(
    r"""("(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?)|`((?:[^`\n]|``)*)`""", re.DOTALL
)
_FIRST, _LAST = 0x4E00, 0x9FA5  # letters enough to stand for the names of the longest text


def _without_quoted_names(text: str, fail: Fail) -> tuple[str, dict[str, str]]:
    """A text with other names, as long, for those in backticks, and what they stand for."""
    names: dict[str, str] = {}
    if "`" not in text:
        return text, names
    taken = set(unicodedata.normalize("NFKC", text))
    unused = (chr(code) for code in range(_FIRST, _LAST) if chr(code) not in taken)

    def replaced(match: re.Match[str]) -> str:
        if match[2] is None:
            return match[0]
        if not match[2]:
            raise fail("has an empty name", match.start())
        name = next(unused) + "_" * (len(match[0]) - 1)
        names[name] = match[2].replace("``", "`")
        return name

    code = _QUOTED.sub(replaced, text)
    if "`" in _QUOTED.sub("", code):
        raise fail("has a ` without another", code.index("`"))
    return code, names


def without_quoted(text: str) -> str:
    """A text with nothing between its quotation marks and backticks."""
    return _QUOTED.sub('""', text)


def span(text: str, node: ast.expr) -> tuple[int, int]:
    """Where a node of the tree of a text begins and ends, in characters."""
    # Python counted the bytes of that.
    text = _without_quoted_names(text, lambda problem, _: LatentDBError(problem))[0]
    lines = _lines(text)

    def position(line: int, column: int) -> int:
        before = lines[line - 1].encode()[:column].decode()  # Python counts bytes
        return sum(map(len, lines[: line - 1])) + len(before)

    start = position(node.lineno, node.col_offset)
    return start, position(node.end_lineno or node.lineno, node.end_col_offset or 0)


def _lines(text: str) -> list[str]:
    """Lines with their ends, as Python counts them: str.splitlines knows more ends."""
    return re.split(r"(?<=\n)|(?<=\r)(?!\n)", text)


def _depth(root: ast.AST) -> int:
    """Levels of a tree, counted without recursion."""
    depth, level = 0, [root]
    while level:
        depth += 1
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    return depth
