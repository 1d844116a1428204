"""Names of files: as the ids are, and different wherever two file systems disagree."""

from __future__ import annotations

from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentdb.output.file_names import FileNames


def test_an_id_stays_a_path() -> None:
    names = ["cat/IMG 001 (1).JPG", "dog/Ünï.png", "plain", "v1.5", "a,b'c;d.jpeg"]
    assert FileNames(".png", names).paths(names) == [
        "cat/IMG 001 (1).png", "dog/Ünï.png", "plain.png", "v1.5.png", "a,b'c;d.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "pair",
    [
        ("a.png", "a.jpg"),
        ("a.png", "A.png"),
        ("x/é.png", "x/e\u0301.png"),
        ("s/ß", "s/ss"),
        ("a?", "a*"),
    ],
)
def test_names_that_are_one_on_some_file_system_are_told_apart(pair: tuple[str, str]) -> None:
    collection = [*pair, "other.png"]
    both = FileNames(".png", collection).paths(pair)
    folded = {normalize("NFC", normalize("NFC", path).casefold()) for path in both}
    assert len(folded) == 2
    # The name of one depends neither on the order nor on whether the other is written too.
    assert FileNames(".png", collection[::-1]).paths(pair[::-1]) == both[::-1]
    assert FileNames(".png", collection).paths(pair[1:]) == both[1:]
    assert FileNames(".png", collection).paths(["other.png"]) == ["other.png"]


def test_a_name_given_twice_gets_two_files() -> None:
    one, other, third = FileNames(".png", ["a"]).paths(["a", "a", "a"])
    assert one == "a.png"
    assert len({one, other, third}) == 3


@given(st.lists(st.text(alphabet="aA.é\u0301/\\ßs \n", max_size=6), max_size=12))
def test_names_differ_and_stay_in_the_folder(names: list[str]) -> None:
    paths = FileNames(".png", dict.fromkeys(names)).paths(names)
    assert len({normalize("NFC", path.casefold()) for path in paths}) == len(names)
    for path in paths:
        assert path.endswith(".png")
        assert not {"", ".", ".."} & set(path.split("/"))
