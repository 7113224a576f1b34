"""Reading pg_dump's calls for statistics, for servers that have no such functions."""

from __future__ import annotations

import pytest

from optimizer.errors import SqlError
from optimizer.shadow.template.statistics_calls import AttributeCall, RelationCall, read_call

COLUMN = """SELECT * FROM pg_catalog.pg_restore_attribute_stats(
    'version', '150018'::integer, 'schemaname', 'my "schema"', 'relname', 'it''s', {name},
    'inherited', 't'::boolean, 'null_frac', '0.25'::real, 'avg_width', '7'::integer, 'n_distinct', '-0.5'::real,
    'most_common_vals', '{{a,"b \\" c",NULL}}'::text, 'most_common_freqs', '{{0.5,0.1,1e-300}}'::real[],
    'correlation', '-0.75'::real)"""


def test_a_column() -> None:
    call = read_call(COLUMN.format(name="'attname', 'city'"))
    assert call == AttributeCall(
        schema='my "schema"',
        relation="it's",
        column="city",
        inherited=True,
        null_frac=0.25,
        avg_width=7,
        n_distinct=-0.5,
        values={"most_common_vals": '{a,"b \\" c",NULL}'},
        numbers={"most_common_freqs": (0.5, 0.1, 0.0), "correlation": (-0.75,)},
    )


def test_the_column_of_an_index_has_a_number() -> None:
    call = read_call(COLUMN.format(name="'attnum', '2'::smallint"))
    assert isinstance(call, AttributeCall) and call.column == 2


def test_calls_of_one_column_add_up() -> None:
    first, second = (
        read_call(f"SELECT pg_restore_attribute_stats('schemaname', 's', 'relname', 'r', 'attname', 'a', {more})")
        for more in (
            "'null_frac', '0.5'::real, 'histogram_bounds', '{1,2}'",
            "'range_empty_frac', '0.1'::real, 'range_bounds_histogram', '{empty}'",
        )
    )
    assert isinstance(first, AttributeCall) and isinstance(second, AttributeCall)
    both = first.with_more(second)
    assert (both.null_frac, both.values) == (0.5, {"histogram_bounds": "{1,2}", "range_bounds_histogram": "{empty}"})
    assert both.numbers == {"range_empty_frac": (0.1,)}


def test_a_relation() -> None:
    text = "SELECT pg_restore_relation_stats('schemaname', 's', 'relname', 'r', 'relpages', 7, 'reltuples', 12.5)"
    assert read_call(text) == RelationCall("s", "r", 7, 12.5, 0)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT pg_restore_relation_stats('schemaname', 's', 'relname', 'r', 'relpages', '99999999999')",
        "SELECT pg_restore_relation_stats('schemaname', 's', 'relname', 'r', 'reltuples', 'NaN'::real)",
        "SELECT pg_restore_relation_stats('schemaname', 's', 'relname', 'r', 'reltuples', '1e300')",
        "SELECT pg_restore_relation_stats('schemaname', 's')",
        "SELECT pg_restore_attribute_stats('schemaname', 's', 'relname', 'r')",
        "SELECT pg_restore_attribute_stats('schemaname', 's', 'relname', 'r', 'attname', NULL)",
        "SELECT pg_restore_attribute_stats('schemaname', 's', 'relname', 'r', 'attname', 'a', 'null_frac', 'x')",
        COLUMN.format(name="'attname', 'a', 'elem_count_histogram', '{{1,x}}'::real[]"),
        "SELECT setval('s', 1)",
    ],
)
def test_what_is_wrong_is_refused(text: str) -> None:
    with pytest.raises(SqlError):
        read_call(text)
