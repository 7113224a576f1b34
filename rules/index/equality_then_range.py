"""An index on what the query's own conditions fix and bound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from optimizer.indexing.index_rule import TableIndexRule
from optimizer.indexing.keys import Keys, search_keys
from optimizer.indexing.table_use import TableUse


class EqualityThenRange(TableIndexRule):
    """Index the columns that conditions fix, then one that they bound

    ## What it does
    Proposes a B-tree over the columns that a query compares for equality, those with most distinct values first, and
    after them the column with the most selective range. Also each of these columns alone, since a narrow index may
    serve as well and serves other queries.

    ## Why it is slow
    Without an index every row is read and tested. In a B-tree the rows that meet all equalities lie together, and a
    range on the next column is one stretch of them; columns after a range no longer narrow what is read.

    ## Example
    ```sql
    SELECT * FROM orders WHERE placed_at >= '2024-01-01' AND user_id = 42
    ```

    ## Use instead
    ```sql
    CREATE INDEX CONCURRENTLY orders_user_id_placed_at_idx ON orders USING btree (user_id, placed_at)
    ```

    ## Preconditions
    The compared side is the bare column: no function, no cast that the comparison forces on it. `LIKE` counts when its
    pattern begins with fixed text, with a pattern operator class unless the column's collation is C. Conditions under
    OR count when every arm has one. Nothing is proposed where the conditions fix a unique key, nor where the statistics
    say that more than half of the rows would be read.
    """

    code: ClassVar[str] = "IX101"
    name: ClassVar[str] = "equality-then-range"
    limit: ClassVar[int] = 6

    def keys(self, use: TableUse) -> Iterator[Keys]:
        return search_keys(use.plain())
