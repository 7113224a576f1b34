"""An index on the columns that join a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from optimizer.indexing.index_rule import TableIndexRule
from optimizer.indexing.keys import Keys, join_keys
from optimizer.indexing.table_use import TableUse


class JoinKeys(TableIndexRule):
    """Index the columns that join a table, with those that its conditions fix

    ## What it does
    For each equality between two tables (joins, `IN (SELECT ...)`, `EXISTS`), proposes a B-tree over each side's
    columns: alone, followed by the columns that the query fixes in that table, and preceded by them.

    ## Why it is slow
    PostgreSQL indexes primary keys, not the foreign keys that point at them. Without an index a join reads the whole
    table even when few of its rows have a partner; with one it looks up just those rows.

    ## Example
    ```sql
    SELECT p.title, r.body FROM products AS p JOIN reviews AS r ON r.product_id = p.id WHERE p.sku = 'A-1'
    ```

    ## Use instead
    ```sql
    CREATE INDEX CONCURRENTLY reviews_product_id_idx ON reviews USING btree (product_id)
    ```

    ## Preconditions
    The joined side is the bare column, and the comparison forces no cast on it. In an outer join only the side that
    may be missing is looked up. Columns are not added to a join key that is unique by itself.
    """

    code: ClassVar[str] = "IX102"
    name: ClassVar[str] = "join-keys"
    limit: ClassVar[int] = 8

    def keys(self, use: TableUse) -> Iterator[Keys]:
        return join_keys(use.plain())
