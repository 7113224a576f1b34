"""Constants: what is read, what is refused, and that what is written means the same."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.query import parse_expression
from optimizer.rewriting.constants import (
    TRUNC_UNITS,
    Span,
    Today,
    floor,
    following,
    integer,
    integer_node,
    moment,
    number,
    number_node,
    point,
    point_node,
    span,
    span_node,
    text,
    today,
)

TIMESTAMP = "timestamp without time zone"
MOMENTS = st.datetimes(datetime(1, 2, 1), datetime(9990, 1, 1))


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("5", 5),
        ("(-5)", -5),
        ("- -5", 5),
        ("5::bigint", 5),
        ("'-7'::integer", -7),
        ("70000::smallint", None),
        ("' 7'::integer", None),
        ("'5'", None),
        ("5.0", None),
        ("5e0", None),
        ("9223372036854775808", None),
        ("5::real", None),
        ("a", None),
        ("1 + 1", None),
    ],
)
def test_integers(sql: str, value: int | None) -> None:
    assert integer(parse_expression(sql)) == value


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("5e2", Decimal(500)),
        ("-.50", Decimal("-0.50")),
        ("1.::numeric", Decimal(1)),
        ("1.5::numeric(10,1)", None),
        ("1.5::real", None),
        ("'1.5'", None),
        ("1e999", None),
        ("9" * 101, None),
    ],
)
def test_numbers(sql: str, value: Decimal | None) -> None:
    assert number(parse_expression(sql)) == value


@pytest.mark.parametrize(
    ("sql", "type_", "value"),
    [
        ("'2024-02-29'", "date", datetime(2024, 2, 29)),
        ("'2023-02-29'", "date", None),
        ("'2024-02-29 00:00'", "date", None),
        ("'2024-02-29 00:00'", TIMESTAMP, datetime(2024, 2, 29)),
        ("'2024-02-29T01:02:03.5'", TIMESTAMP, datetime(2024, 2, 29, 1, 2, 3, 500_000)),
        ("DATE '2024-02-29'", TIMESTAMP, datetime(2024, 2, 29)),
        ("'2024-02-29 12:00'::timestamp", "date", datetime(2024, 2, 29, 12)),
        ("'2024-02-29 12:00:00.1'::timestamp(0)", TIMESTAMP, None),
        ("'2024-02-29'::timestamptz", TIMESTAMP, None),
        ("'2024-02-29 00:00+00'", TIMESTAMP, None),
        ("'2024-02-29 24:00'", TIMESTAMP, None),
        ("'2024-2-9'", "date", None),
        ("'29/02/2024'", "date", None),
        ("'2024-01-01 BC'", "date", None),
        ("'0000-01-01'", "date", None),
        ("'infinity'", TIMESTAMP, None),
        ("'today'", "date", None),
        ("20240229", "date", None),
    ],
)
def test_moments(sql: str, type_: str, value: datetime | None) -> None:
    assert moment(parse_expression(sql), type_) == value


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("CURRENT_DATE", Today(0)),
        ("CURRENT_DATE - 7 + 2", Today(-5)),
        ("CURRENT_DATE - INTERVAL '1 week'", Today(-7)),
        ("CURRENT_DATE - INTERVAL '1 week' + 1", None),
        ("CURRENT_DATE - INTERVAL '1 month'", None),
        ("CURRENT_DATE - INTERVAL '1 hour'", None),
        ("now()", None),
        ("7 + a", None),
    ],
)
def test_days_relative_to_today(sql: str, value: Today | None) -> None:
    assert today(parse_expression(sql)) == value


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("INTERVAL '1 day'", Span(1, 0)),
        ("'2 days 3 hours'::interval", Span(2, 10_800_000_000)),
        ("INTERVAL '-90 minutes'", Span(0, -5_400_000_000)),
        ("- INTERVAL '1 week'", Span(-7, 0)),
        ("'00:00:01.5'::interval", Span(0, 1_500_000)),
        ("INTERVAL '1 month'", None),
        ("INTERVAL '1 year 2 days'", None),
        ("INTERVAL '1.5 hours'", None),
        ("'-1 day 02:00'::interval", None),
        ("'1 hour 02:00'::interval", None),
        ("'1 day 2 days'::interval", None),
        ("'1 day'", None),
    ],
)
def test_spans(sql: str, value: Span | None) -> None:
    assert span(parse_expression(sql)) == value


def test_text_keeps_other_types_out() -> None:
    assert text(parse_expression("'a'::text")) == "a"
    assert text(parse_expression("'a'::varchar(1)")) is None
    assert text(parse_expression("5")) is None


@given(MOMENTS, st.sampled_from(sorted(TRUNC_UNITS)))
def test_a_unit_holds_its_moments_and_no_others(value: datetime, unit: str) -> None:
    low = floor(unit, value)
    high = following(unit, low)
    assert low <= value < high
    assert floor(unit, low) == low == floor(unit, high - timedelta(microseconds=1))
    assert floor(unit, high) == high


@given(MOMENTS)
def test_a_written_moment_is_read_back(value: datetime) -> None:
    assert point(point_node(value), TIMESTAMP) == value


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_written_integer_is_read_back(value: int) -> None:
    written = integer(integer_node(value))
    assert written == value or value == -(2**63)  # its digits alone are no bigint: PostgreSQL negates a numeric


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**20), max_value=10**20))
def test_a_written_number_is_read_back(value: Decimal) -> None:
    assert number(number_node(value)) == value


@given(st.builds(Span, st.integers(-9999, 9999), st.integers(-(10**13), 10**13)))
def test_a_written_span_has_the_same_length(value: Span) -> None:
    words = span_node(value).this.name.split()
    lengths = {"day": 86_400 * 10**6, "hour": 3_600 * 10**6, "minute": 60 * 10**6, "second": 10**6}
    pairs = zip(words[::2], words[1::2], strict=True)
    total = sum(Decimal(count) * lengths[unit.removesuffix("s")] for count, unit in pairs)
    assert total == value.delta // timedelta(microseconds=1)
