"""How many bad files a run may have."""

from __future__ import annotations

import pytest

from latentdb.base.errors import InvalidInputError
from latentdb.ingest.allowance import parse_allowance


@pytest.mark.parametrize(
    ("value", "bad", "files", "permitted"),
    [
        ("50%", 5, 10, True),
        ("50%", 6, 10, False),
        ("0%", 0, 0, True),
        ("0", 1, 1000, False),
        (3, 3, 3, True),
        ("3", 4, 1000, False),
        ("100%", 7, 7, True),
        ("0.1%", 1, 1000, True),
    ],
)
def test_a_number_or_a_share_is_permitted(
    value: int | str, bad: int, files: int, permitted: bool
) -> None:
    assert parse_allowance(value).permits(bad, files) is permitted


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "101%", "%", "5 %%", True, "1e3"])
def test_another_value_is_refused(value: int | str) -> None:
    with pytest.raises(InvalidInputError, match="allow-bad"):
        parse_allowance(value)
