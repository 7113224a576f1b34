"""Size models over statistics that nothing good can be said of: always an answer or one clear error, and soon."""

from __future__ import annotations

import itertools
import math

import pytest

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog, Column, ColumnStatistics, IndexColumn, Table
from optimizer.errors import SqlError
from optimizer.shadow.sizes.gin_keys import gin_keys
from optimizer.shadow.sizes.index_request import IndexRequest, Key
from optimizer.shadow.whatif.index_methods import METHODS, index_size

NUMBERS = (0.0, 1.0, -1.0, 0.3, -0.5, 1e30, math.inf, math.nan)
TYPES = ("integer", "text", "text[]", "jsonb", "tsvector", "point", "vector(1536)", "tstzrange", "hstore", "")
OPCLASSES = ("", "gin_trgm_ops", "jsonb_path_ops", "int4_bloom_ops", "int4_minmax_multi_ops", "gist_trgm_ops")


def request(
    method: str, type_: str, opclass: str, rows: float, statistics: ColumnStatistics | None, pages: int = 1000
) -> IndexRequest:
    """One key of that type."""
    column = Column("c", type_, not_null=False, position=1, statistics=statistics)
    table = Table("public", "t", "table", {"c": column}, rows=rows, pages=pages)
    candidate = IndexCandidate("public", "t", (IndexColumn("c", "c", opclass=opclass or None),), method)
    return IndexRequest(candidate, table, Catalog({("public", "t"): table}))


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"btree"}))
@pytest.mark.parametrize("type_", TYPES)
def test_absurd_numbers(method: str, type_: str) -> None:
    for opclass, rows, odd in itertools.product(OPCLASSES, NUMBERS, NUMBERS):
        statistics = ColumnStatistics(
            null_frac=odd,
            avg_width=-7 if odd < 0 else 40,
            n_distinct=odd,
            most_common_vals=("a", "{}", "[" * 50),
            most_common_freqs=(odd, 0.2, 0.1),
            histogram_bounds=("", "x y z", '{"a": [1, null, {"b": "c"}]}', "{NULL,a}"),
            most_common_elems=("a", "b"),
            most_common_elem_freqs=(odd, 0.1, 0.1, 0.2),
            elem_count_histogram=(1.0, odd),
        )
        try:
            size = index_size(request(method, type_, opclass, rows, statistics))
        except SqlError as error:
            assert "\n" not in str(error.args[0])
        else:
            assert size.blocks >= 1
            assert size.tuples >= 0


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"btree"}))
def test_no_statistics_and_no_rows(method: str) -> None:
    for type_, rows in itertools.product(TYPES, (-1.0, 0.0, 1e6)):
        size = index_size(request(method, type_, "", rows, None, pages=0))
        assert 1 <= size.blocks < 2**31


def test_long_lists_of_long_values_are_sampled() -> None:
    """Ten thousand texts of 1 kB would take seconds to take apart."""
    values = tuple(f"{n} " + "lorem ipsum dolor sit amet " * 38 for n in range(10_000))
    statistics = ColumnStatistics(0.0, 1000, -1.0, histogram_bounds=values)
    key = Key(IndexColumn("c", "c"), "text", "gin_trgm_ops", {}, statistics)
    keys = gin_keys(key, 1e6)
    assert 20 < keys.a_row < 60


def test_known_keys_are_counted_exactly() -> None:
    """Three values in all rows: every trigram of theirs, with its share."""
    statistics = ColumnStatistics(0.0, 4, 3, most_common_vals=("ab", "ac", "b"), most_common_freqs=(0.5, 0.25, 0.25))
    keys = gin_keys(Key(IndexColumn("c", "c"), "text", "gin_trgm_ops", {}, statistics), 1000)
    # "  a", " ab", "ab ", " ac", "ac ", "  b", " b "
    assert sum(c.count for c in keys.classes) == 7
    assert keys.a_row == pytest.approx(0.5 * 3 + 0.25 * 3 + 0.25 * 2)


@pytest.mark.parametrize(
    ("type_", "opclass", "values", "number"),
    [
        ("jsonb", "", ('{"a": 1, "b": [true, "x"]}',), 5),  # a, b, 1, True, x
        ("jsonb", "jsonb_path_ops", ('{"a": 1, "b": [true, "x"]}',), 3),
        ("text[]", "", ('{a,"b c",NULL,a}',), 2),
        ("hstore", "gin_hstore_ops", ('"a"=>"1", "b"=>NULL',), 4),
        ("text", "tsvector_ops", ("The cat and the other cat",), 2),
    ],
)
def test_values_are_taken_apart(type_: str, opclass: str, values: tuple[str, ...], number: int) -> None:
    statistics = ColumnStatistics(0.0, 20, 1, most_common_vals=values, most_common_freqs=(1.0,))
    assert gin_keys(Key(IndexColumn("c", "c"), type_, opclass, {}, statistics), 1000).a_row == pytest.approx(number)
