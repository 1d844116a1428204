"""Dates and times as numbers, and what text says of them."""

from __future__ import annotations

from datetime import date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentdb.store.dates import DAY, LIMITS, from_value, parse, period, to_value


@given(st.dates())
def test_a_date_comes_back_from_its_number_and_text(day: date) -> None:
    number = from_value(day)
    assert to_value("date", number) == day
    assert parse(day.isoformat()) == ("date", number)
    assert LIMITS["date"][0] <= number <= LIMITS["date"][1]


@given(st.datetimes(timezones=st.none() | st.timezones()))
def test_a_time_comes_back_from_its_number_and_text(time: datetime) -> None:
    try:
        number = from_value(time)
    except OverflowError:  # in UTC it would be of the year 0 or 10,000
        return
    plain = to_value("datetime", number)
    assert isinstance(plain, datetime)
    assert from_value(plain) == number
    if time.tzinfo is None:
        assert plain == time
    assert parse(plain.isoformat()) == ("datetime", number)
    assert parse(str(plain)) == ("datetime", number)


@pytest.mark.parametrize(
    ("text", "first", "after"),
    [
        ("2020", "2020-01-01", "2021-01-01"),
        ("2020-02", "2020-02-01", "2020-03-01"),
        ("2020-12", "2020-12-01", "2021-01-01"),
        ("2020-02-29", "2020-02-29", "2020-03-01"),
        ("2020-02-29T10:30", "2020-02-29T10:30", "2020-02-29T10:31"),
        ("2020-02-29 10:30:05", "2020-02-29T10:30:05", "2020-02-29T10:30:06"),
        ("2020-02-29 10:30:05.25", "2020-02-29T10:30:05.25", "2020-02-29T10:30:05.250001"),
        ("2020-02-29 10:30+01:00", "2020-02-29T09:30", "2020-02-29T09:31"),
    ],
)
def test_a_text_stands_for_its_whole_period(text: str, first: str, after: str) -> None:
    expected = tuple(found[1] * (DAY if found[0] == "date" else 1)
                     for found in map(parse, (first, after)) if found)  # fmt: skip
    assert period(text) == expected


def test_the_last_year_ends_where_there_are_no_more() -> None:
    assert period("9999") == (period("9999-01-01")[0], LIMITS["datetime"][1] + 1)  # type: ignore[index]
    assert period("9999-12-31") == period("9999-12-31")


@pytest.mark.parametrize(
    "text",
    ["", "20", "2020-1-1", "2020-13", "2020-02-30", "2020/01/01", "01.02.2020", "10:30", "2020:01",
     "2020-01-01T", "2020-01-01T25:00", "2020-01-01 10:00+99:00", "0000-01-01", " 2020", "2020\n",
     "0001-01-01T00:00+02:00", "\u0662020"],
)  # fmt: skip
def test_other_text_is_no_date(text: str) -> None:
    assert period(text) is None
    assert parse(text) is None
