"""Dates and times as whole numbers: days, and microseconds in UTC, since 1970-01-01."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta, timezone

DAY = 86_400_000_000  # microseconds
_EPOCH = datetime(1970, 1, 1)
_EPOCH_DAY = _EPOCH.toordinal()
_LIMITS = (date.min.toordinal() - _EPOCH_DAY, date.max.toordinal() - _EPOCH_DAY)
LIMITS = {"date": _LIMITS, "datetime": (_LIMITS[0] * DAY, (_LIMITS[1] + 1) * DAY - 1)}

# ISO 8601, and as cameras write it (EXIF): 2020:01:02 10:11:12.
_ISO = re.compile(
    r"(?P<year>[0-9]{4})(?:(?P<mark>[-:])(?P<month>[0-9]{2})(?:(?P=mark)(?P<day>[0-9]{2})"
    r"(?P<time>[T ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?)?"
    r"(?P<zone>Z|[+-][0-9]{2}(?::?[0-9]{2})?)?)?)?)?\Z"
)


def from_value(value: date) -> int:
    """The number of a date, or of a datetime; one with a time zone is taken to UTC."""
    if not isinstance(value, datetime):
        return value.toordinal() - _EPOCH_DAY
    if value.tzinfo is not None:
        value = value.astimezone(timezone.utc).replace(tzinfo=None)
    return (value.replace(fold=0) - _EPOCH) // timedelta(microseconds=1)


def kind_of(value: date) -> str:
    """``"date"``, or ``"datetime"`` for a date with a time."""
    return "datetime" if isinstance(value, datetime) else "date"


def to_value(type_: str, number: int) -> date:
    """The date or datetime (UTC, without a time zone) of a number within `LIMITS`."""
    if type_ == "date":
        return date.fromordinal(number + _EPOCH_DAY)
    return _EPOCH + timedelta(microseconds=number)


def parse(text: str) -> tuple[str, int] | None:
    """Type and number of a whole date (``2020-01-31``), or with a time; None for other text."""
    found = _period(text)
    if found is None or found[2] < 3:
        return None
    first, _, parts = found
    return ("date", first // DAY) if parts == 3 else ("datetime", first)


def period(text: str) -> tuple[int, int] | None:
    """First microsecond of a year, month, day, minute or second, and of the next; else None."""
    found = _period(text)
    return None if found is None else found[:2]


def _period(text: str) -> tuple[int, int, int] | None:
    """Begin and end in microseconds, and how many parts (year, month...) are given."""
    match = _ISO.match(text)
    if match is None:
        return None
    names = ("year", "month", "day", "hour", "minute", "second")
    given = [int(match[name]) for name in names if match[name] is not None]
    if match["mark"] == ":" and len(given) < 4:
        return None  # 12:30 is a time, and 2020:01:02 no usual date
    whole = given + [1, 1, 1, 0, 0, 0][len(given) :]
    try:
        start = from_value(datetime(*whole)) - _offset(match["zone"])  # type: ignore[arg-type]
    except ValueError:
        return None
    if match["fraction"] is not None:
        start += int(match["fraction"][:6].ljust(6, "0"))
        return _within(start, start + 1, 7)
    if len(given) > 2:
        length = {3: DAY, 5: 60_000_000, 6: 1_000_000}[len(given)]
        return _within(start, start + length, len(given))
    year, month = whole[0] + (len(given) == 1 or whole[1] == 12), whole[1] % 12 + 1
    if len(given) == 1:
        month = 1
    end = LIMITS["datetime"][1] + 1 if year > 9999 else from_value(datetime(year, month, 1))
    return _within(start, end, len(given))


def _within(start: int, end: int, parts: int) -> tuple[int, int, int] | None:
    low, high = LIMITS["datetime"]
    return (start, end, parts) if low <= start <= high else None


def _offset(zone: str | None) -> int:
    """Microseconds that a zone is ahead of UTC."""
    if zone is None or zone == "Z":
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 23 or minutes > 59:
        raise ValueError(zone)
    return (hours * 60 + minutes) * 60_000_000 * (-1 if zone[0] == "-" else 1)
