"""An index on an expression that the query compares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import ClassVar

from optimizer.indexing.index_rule import TableIndexRule
from optimizer.indexing.keys import Keys, join_keys, search_keys, sort_keys
from optimizer.indexing.table_use import TableUse


class Expression(TableIndexRule):
    """Index the expression that a condition compares

    ## What it does
    Where a query compares, joins or sorts by an expression over one table (`lower(email)`, `attributes->>'color'`,
    `date_trunc('day', placed_at)`), proposes a B-tree over that expression, with the other columns that the query
    fixes.

    ## Why it is slow
    An index on the column does not help: the planner inverts no function. Every row is read and the function called
    on it. An expression index stores the results, and ANALYZE then gathers statistics on them, which also mends the
    planner's guess of how many rows qualify.

    ## Example
    ```sql
    SELECT id FROM users WHERE lower(email) = 'ana@example.org'
    ```

    ## Use instead
    ```sql
    CREATE INDEX CONCURRENTLY users_expr_idx ON users USING btree ((lower(email)))
    ```

    ## Preconditions
    The expression is immutable, holds columns of one table and constants only, no parameters. `date_trunc`, `extract`
    and casts between dates and timestamps are immutable without a time zone only, so `timestamp with time zone` columns
    count only with AT TIME ZONE and a fixed zone. It cannot fail on any row, since a table refuses rows on which the
    expression of one of its indexes fails: no casts from text to numbers, no division by a column, no arithmetic of
    integers, which overflows. Functions of the user's own count when they are declared IMMUTABLE.
    """

    code: ClassVar[str] = "IX106"
    name: ClassVar[str] = "expression"
    limit: ClassVar[int] = 4

    def keys(self, use: TableUse) -> Iterator[Keys]:
        for keys in chain(search_keys(use), sort_keys(use), join_keys(use)):
            if any(column.column is None for column in keys.columns):
                yield replace(keys, remark="Run ANALYZE after building it, for statistics on the expression.")
