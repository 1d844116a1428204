"""Tests of texts on their bytes: the same answers as Python gives for each text."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from operator import methodcaller
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from latentdb import LatentDB
from latentdb.base.errors import CorruptStoreError
from latentdb.search import text_tests
from latentdb.search.filters import Filter
from latentdb.search.selection import select_rows
from latentdb.search.text_tests import TextTests, mask_texts
from latentdb.store.blocks import MappedArray
from latentdb.store.store import Store
from latentdb.store.texts import Texts, encode

# Few characters of every UTF-8 length, so that texts overlap, repeat and share words.
FEW = st.text("ab\0é日😀\U0010ffff\ue000\ufffd", max_size=24)
LIKE_PATHS = st.builds("/data/{}/img_{:03}.png".format, st.sampled_from("ab"), st.integers(0, 20))
TEXTS = st.lists(FEW | st.text() | LIKE_PATHS, max_size=12)
SURROGATES = st.text("a😀\ud83d\ude00\udfff\ue000", max_size=4)


@st.composite
def texts_and_values(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Texts, and values to look for: pieces of the texts, longer ones, and others."""
    texts = draw(TEXTS)
    pieces = SURROGATES | FEW | st.text() | LIKE_PATHS
    if texts:
        cut = st.tuples(st.sampled_from(texts), st.integers(0, 24), st.integers(0, 24))
        pieces |= cut.map(lambda drawn: drawn[0][drawn[1] : drawn[2]])
        pieces |= st.sampled_from(texts) | st.sampled_from(texts).map(lambda text: text + "a")
        pieces |= st.just("".join(texts))  # stands across the borders of texts
    return texts, draw(st.lists(pieces, max_size=6))


@given(texts_and_values())
@example((["aaa", "a", "", "aaaa"], ["aa", "", "a" * 9]))
@example(([], ["", "a", "a" * 20]))
@example((["", ""], ["", "a", "\0"]))
@example((["a\0", "a", "a\0\0", "ab", "\0"], ["a", "a\0", "\0", "ab", "a\0\0\0"]))
@example((["xab", "cab", "bc"], ["abc", "bca", "ab", "bc"]))
@example((["😀", "\ue000", "\U0010ffff"], ["\ud83d\ude00", "\ud83d", "\udfff", "\ue000", "😀"]))
@example((["12345678", "123456789", "1234567", "12345678" * 3], ["12345678", "12345678" * 2]))
def test_every_test_says_what_python_says(drawn: tuple[list[str], list[str]]) -> None:
    texts, values = drawn
    utf8 = encode(texts)
    whole = TextTests(*utf8)

    def check(test: Callable[[TextTests], NDArray[Any]], wanted: list[Any]) -> None:
        assert test(whole).tolist() == wanted
        with patch.object(text_tests, "_BLOCK", 3):
            assert mask_texts(*utf8, test).tolist() == wanted

    check(lambda t: t.is_in(values), [text in values for text in texts])
    for value in ["", *values]:
        check(methodcaller("is_in", [value]), [text == value for text in texts])
        check(methodcaller("startswith", value), [text.startswith(value) for text in texts])
        check(methodcaller("endswith", value), [text.endswith(value) for text in texts])
        check(methodcaller("contains", value), [value in text for text in texts])
        check(methodcaller("compare", value), [(text > value) - (text < value) for text in texts])


FORMS = {
    "{} == {!r}": operator.eq,
    "{} != {!r}": operator.ne,
    "{} < {!r}": operator.lt,
    "{} >= {!r}": operator.ge,
    "{1!r} in {0}": operator.contains,
    "{}.contains({!r})": operator.contains,
    "{}.startswith({!r})": str.startswith,
    "{}.endswith({!r})": str.endswith,
    "{} in ({!r}, 'c')": lambda text, value: text in (value, "c"),
    "{} not in ({!r},)": operator.ne,
}


@pytest.fixture
def db(tmp_path: Path) -> LatentDB:
    """Three segments; a column that the first has not, and with missing values."""
    db = LatentDB.create(tmp_path / "s.ldb", dim=2)
    for part in range(3):
        ids = [f"{part}/é日-{number:03}.png" for number in range(40)]
        titles = [None if n % 5 == 0 else f"title {n} of {part}" for n in range(40)]
        metadata = {"title": titles} if part else None
        db.add(ids, np.full((40, 2), part, np.float32), metadata=metadata)
    db.delete(["1/é日-003.png"])
    return db


def test_a_filter_on_text_makes_no_object_per_text(
    db: LatentDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = Store.open(db.info().path).snapshot()
    rows = snapshot.live_rows()
    names, titles = snapshot.ids(rows), [found.get("title") for found in snapshot.metadata(rows)]

    def refuse(texts: Texts) -> Iterator[str]:
        raise AssertionError("texts were read one by one")

    monkeypatch.setattr(Texts, "__iter__", refuse)
    for form, holds in FORMS.items():
        for key, value in (("id", "1/é"), ("id", names[50]), ("title", "7"), ("title", "title 7")):
            where = Filter(form.format(key, value), snapshot.manifest.columns)
            texts = names if key == "id" else titles
            wanted = [text is not None and holds(text, value) for text in texts]
            assert select_rows(snapshot, where).tolist() == rows[wanted].tolist()


@pytest.mark.parametrize(
    ("blob", "offsets", "message"),
    [
        (b"ab\xff", [0, 1, 3], "its text is not UTF-8"),
        ("é日".encode(), [0, 1, 5], "its text is not UTF-8"),  # begins within a character
        (b"abc", [0, 2, 1, 3], "offsets do not fit"),
    ],
)
def test_bytes_that_are_no_text_are_refused(blob: bytes, offsets: list[int], message: str) -> None:
    arrays = np.array(offsets), np.frombuffer(blob, np.uint8)
    texts = Texts(*(MappedArray(array, None, "") for array in arrays), "a.h5")
    with pytest.raises(CorruptStoreError, match=message):
        texts.utf8()
