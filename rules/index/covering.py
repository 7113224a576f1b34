"""An index that holds all that the query reads of a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import ClassVar

from optimizer.catalog import Column, Table
from optimizer.indexing.index_rule import TableIndexRule
from optimizer.indexing.keys import Keys, join_keys, search_keys, sort_keys, unique
from optimizer.indexing.selectivity import base_type
from optimizer.indexing.table_use import TableUse

MAX_INCLUDED = 5
#: Widest sum of `avg_width` of the included columns, in bytes.
MAX_INCLUDED_BYTES = 64
#: Values of these types are often too long for an index entry, which makes inserts fail (2,704 bytes at most).
_LONG_TYPES = frozenset({"json", "jsonb", "xml", "bytea", "tsvector"})
#: What is assumed of a column without statistics: of variable length, else its usual width.
_UNKNOWN_WIDTH = 32
_FIXED_WIDTHS = {"boolean": 1, "smallint": 2, "integer": 4, "date": 4, "real": 4, "uuid": 16, "numeric": 8}
_BEST_OF_EACH = 2


class Covering(TableIndexRule):
    """Store the other columns that the query reads in the index

    ## What it does
    Takes the most promising keys for a table (by conditions, by joins, by order) and adds the other columns that the
    query reads from it as INCLUDE, so that the table itself need not be visited.

    ## Why it is slow
    An index finds the rows, but their other columns are in the table: one block each, at random places. An index-only
    scan skips these visits wherever the visibility map says that a block's rows are visible to all.

    ## Example
    ```sql
    SELECT sum(quantity) FROM order_items WHERE product_id = 7
    ```

    ## Use instead
    ```sql
    CREATE INDEX CONCURRENTLY order_items_product_id_incl_idx ON order_items USING btree (product_id) INCLUDE (quantity)
    ```

    ## Preconditions
    All columns that the query reads from the table fit: at most five more, 64 bytes together by the statistics, none
    of a type whose values grow long. The query neither changes nor locks the table's rows, for then they are visited
    anyway. Not where the keys are a whole unique key: its index finds the single row already.
    """

    code: ClassVar[str] = "IX104"
    name: ClassVar[str] = "covering"
    limit: ClassVar[int] = 6

    def keys(self, use: TableUse) -> Iterator[Keys]:
        if use.referenced is None or use.written:
            return
        plain = use.plain()
        for kind in (search_keys, sort_keys, join_keys):
            best = sorted(kind(plain), key=lambda keys: -keys.score)[:_BEST_OF_EACH]
            yield from chain.from_iterable(_covered(keys, use.referenced) for keys in best)


def _covered(keys: Keys, referenced: frozenset[str]) -> Iterator[Keys]:
    held = {column.column for column in keys.columns}
    table = keys.use.table
    extra = sorted((table.columns[name] for name in referenced - held), key=lambda column: column.position)
    patterns = any(column.opclass for column in keys.columns)  # such an index returns its values too
    if not extra or len(extra) > MAX_INCLUDED or (unique(keys.use, keys.columns) and not patterns):
        return
    widths = [_width(column, table) for column in extra]
    if None not in widths and sum(w for w in widths if w is not None) <= MAX_INCLUDED_BYTES:
        names = ", ".join(column.name for column in extra)
        remark = f"INCLUDE ({names}) holds the rest of what the query reads, so that the table need not be visited."
        yield replace(keys, include=tuple(column.name for column in extra), remark=remark)


def _width(column: Column, table: Table) -> int | None:
    """Average bytes of a column, None for types whose values may be too long."""
    base = base_type(column.type)
    if base in _LONG_TYPES or column.type.endswith("[]"):
        return None
    if column.statistics is not None:
        return column.statistics.avg_width
    if column.type_kind == "enum":
        return 4
    return _FIXED_WIDTHS.get(base, 8 if base.startswith(("timestamp", "time", "bigint", "double")) else _UNKNOWN_WIDTH)
