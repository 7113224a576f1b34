"""An index in the order that the query wants its rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from optimizer.indexing.index_rule import TableIndexRule
from optimizer.indexing.keys import Keys, sort_keys
from optimizer.indexing.table_use import TableUse


class OrderByLimit(TableIndexRule):
    """Index in the order that the query wants, after the columns it fixes

    ## What it does
    For ORDER BY, GROUP BY, DISTINCT, window functions, `min()` and `max()`: proposes a B-tree over the columns that
    the query fixes by equality and then the sort columns, with their directions and places of NULLs. With LIMIT also
    the sort columns alone.

    ## Why it is slow
    Without the index all rows are read and sorted, even if ten are wanted. An index in that order gives the first ten
    at once, and saves the sort altogether where all are wanted.

    ## Example
    ```sql
    SELECT id, total FROM orders WHERE user_id = 42 ORDER BY placed_at DESC LIMIT 10
    ```

    ## Use instead
    ```sql
    CREATE INDEX CONCURRENTLY orders_user_id_placed_at_idx ON orders USING btree (user_id, placed_at)
    ```

    ## Preconditions
    All sort columns come from one table. An index is read backwards as well as forwards, so directions are written
    only where they differ between columns or NULLs are placed unusually. Columns with several wanted values (IN) or
    `IS NULL` do not stand before the sort columns: the planner would not see that the order survives.
    """

    code: ClassVar[str] = "IX103"
    name: ClassVar[str] = "order-by-limit"
    limit: ClassVar[int] = 5

    def keys(self, use: TableUse) -> Iterator[Keys]:
        return sort_keys(use.plain())
