"""Rows of a table and the images they are of."""

from __future__ import annotations

import unicodedata

import pytest

from latentdb.ingest.table import RowMatcher, Table, Unmatched
from latentdb.store.columns import make_columns


def matcher(*names: str) -> RowMatcher:
    return RowMatcher(Table("m", names, make_columns({"n": list(range(len(names)))}, len(names))))


def test_a_row_is_found_by_id_before_path() -> None:
    rows = matcher("/data/a.png", "a.png")
    assert rows.find("b.png", "/data/a.png") == {"n": 0}
    assert rows.find("a.png", "/data/a.png") == {"n": 1}


@pytest.mark.parametrize(
    "name",
    [
        "./cat/\u00e9.png",
        "cat\\\u00e9.png",
        "cat\\\\\u00e9.png",
        "photos/cat/\u00e9.png",
        "data/photos/cat/\u00e9.png",
        "../photos/cat/\u00e9.png",
        "/data/photos/cat/\u00e9.png",
        "cat/\u00e9",
        "photos\\cat\\\u00e9",
        " cat/\u00e9.png",
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_both_sides_are_normalised(name: str, form: str, on_disk: str) -> None:
    rows = matcher("other", unicodedata.normalize(form, name))
    ident = unicodedata.normalize(on_disk, "cat/\u00e9.png")
    assert rows.find(ident, f"/data/photos/{ident}") == {"n": 1}
    assert rows.unmatched() == Unmatched(1, 0, ("other",), ())


@pytest.mark.parametrize("name", ["a.png", "dog/a.png", "hotos/cat/a.png", "cat/a.jpg", "cat/a.p"])
def test_a_name_that_only_resembles_another_is_not_matched(name: str) -> None:
    assert matcher(name).find("cat/a.png", "/data/photos/cat/a.png") is None


def test_two_rows_that_are_one_when_normalised_match_as_written_alone() -> None:
    rows = matcher("./a.png", "photos/../a.png", "a.png")
    assert rows.find("a.png", "/x/a.png") == {"n": 2}
    assert matcher("./a.png", ".//a.png").find("a.png", "/x/a.png") is None


def test_examples_of_what_has_no_partner_are_kept() -> None:
    rows = matcher(*(f"r{number}" for number in range(5)))
    rows.find("r0", "/r0")
    for number in range(4):
        rows.find(f"i{number}", f"/i{number}")
    assert rows.unmatched() == Unmatched(4, 4, ("r1", "r2", "r3"), ("i0", "i1", "i2"))
