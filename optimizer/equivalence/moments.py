"""Dates and times worth trying: constants, the moments around them, and the ends of days, months and years."""

from __future__ import annotations

import calendar
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta

from optimizer.equivalence.constants import Constants, ValueType, number

#: Days on which New York and western Europe change their clocks, around the change, in UTC; and days' ends.
_DST = ("2024-03-10 06:59:59", "2024-03-10 07:00:00", "2024-11-03 05:30:00", "2024-11-03 06:30:00")
_DAY_ENDS = ("2024-03-10 04:30:00", "2024-03-11 03:30:00", "2024-11-04 04:30:00")


def moments_wide(kind: ValueType, constants: Constants) -> Iterator[str]:
    fixed = ("2024-02-29", "2023-12-31", "2024-12-31", "2024-01-31", "2025-01-01")
    yield from fixed
    if kind.family != "date":
        yield from ("2023-12-31 23:59:59.999999", "2024-01-01 12:00:00", "2024-01-31 23:59:59.5")
    if kind.family == "timestamptz":
        yield from (f"{text}+00" for text in (*_DST, *_DAY_ENDS))
    for moment in constants.moments.values():
        yield from (moment_text(kind, m) for m in moments_around(kind, moment))
        for span in constants.spans:
            for near in (*_near(shifted(moment, span)), *_near(shifted(moment, -span))):
                yield moment_text(kind, near)
    if constants.now is not None:
        for span in (timedelta(), *constants.spans):
            for moment in (shifted(constants.now, -span), shifted(constants.now, span)):
                yield from (moment_text(kind, shifted(moment, timedelta(days=d))) for d in (0, -1, 1))


def _near(moment: datetime) -> tuple[datetime, ...]:
    tick = timedelta(microseconds=1)
    return moment, shifted(moment, -tick), shifted(moment, tick), shifted(moment, timedelta(days=1))


def shifted(moment: datetime, span: timedelta) -> datetime:
    """Add, and stay where the calendar of Python ends (that of PostgreSQL is longer)."""
    try:
        return moment + span
    except OverflowError:
        return moment


def moments_around(kind: ValueType, moment: datetime) -> Iterator[datetime]:
    day = timedelta(days=1)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    month = midnight.replace(day=1)
    next_month = (month + timedelta(days=32)).replace(day=1)
    year = month.replace(month=1)
    if not 2 < moment.year < 9998:
        yield moment
        return
    if kind.family == "date":
        yield from (moment, moment + day, moment - day, month, next_month - day, next_month, year, year - day)
        return
    tick = timedelta(microseconds=1)
    yield from (moment, moment - tick, moment + tick, moment + timedelta(hours=12), moment - day, moment + day)
    yield from (midnight, midnight + day, midnight + day - tick, month, next_month, next_month - tick, year - tick)
    yield year.replace(year=year.year + 1)
    if kind.family == "timestamptz":
        for hours in (4, 5, 6):  # days begin at other moments west of Greenwich
            yield midnight + timedelta(hours=hours)
            yield midnight + day + timedelta(hours=hours) - tick


def derived_moments(kind: ValueType, function: str, texts: Sequence[str], constants: Constants) -> Iterator[str]:
    for text in texts:
        moment = constants.moments.get(text)
        if moment is not None:
            yield from (moment_text(kind, m) for m in moments_around(kind, moment))
        value = number(text)
        if value is None or value % 1:
            continue
        for day in _calendar_days(function, int(value)):
            yield str(day)
            if kind.family != "date":
                yield f"{day} 23:59:59.999999"
        if function == "extract hour" and 0 <= value < 24 and kind.family != "date":
            yield from (f"2024-01-01 {int(value):02d}:00:00", f"2024-01-02 {int(value):02d}:59:59.999999")


def _calendar_days(function: str, value: int) -> list[date]:
    """First, last and neighbouring days of a year, month or day of the week."""
    days: list[date] = []
    if 1900 <= value <= 2200 and function in ("extract year", "to_char", ""):
        days += [
            date(value, 1, 1),
            date(value, 12, 31),
            date(value, 6, 15),
            date(value - 1, 12, 31),
            date(value + 1, 1, 1),
        ]
    if 1 <= value <= 12 and function in ("extract month", "to_char", ""):
        days += [date(2024, value, 1), date(2024, value, calendar.monthrange(2024, value)[1]), date(2023, value, 15)]
    if 0 <= value <= 7 and function in ("extract dow", "extract isodow"):
        days += [date(2024, 1, 7) + timedelta(days=value)]
    if 1 <= value <= 31 and function == "extract day":
        days += [date(2024, 1, value)]
    if 1 <= value <= 4 and function == "extract quarter":
        days += [date(2024, 3 * value - 2, 1), date(2024, 3 * value, 28)]
    return days


def moment_text(kind: ValueType, moment: datetime) -> str:
    if kind.family == "date":
        return str(moment.date())
    text = moment.isoformat(sep=" ")
    return f"{text}+00" if kind.family == "timestamptz" else text
