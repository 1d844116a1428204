"""Numbers agree with their nouns."""

from latentdb.base.wording import counted


def test_numbers_agree_with_their_nouns() -> None:
    assert counted(1, "row") == "1 row"
    assert counted(0, "row") == "0 rows"
    assert counted(2_000, "entry", "entries") == "2,000 entries"
