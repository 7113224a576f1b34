"""An index over those rows only that a constant condition keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import ClassVar

from sqlglot import exp

from optimizer.catalog import IndexColumn, quote_identifier
from optimizer.indexing.index_expression import unqualified
from optimizer.indexing.index_rule import TableIndexRule
from optimizer.indexing.keys import KeyPart, Keys, join_keys, quoted, search_keys, sort_keys
from optimizer.indexing.table_use import Condition, TableUse

#: A partial index pays where its predicate keeps less than this share of the rows.
MAX_SHARE = 0.3
#: A constant recurs from query to query where its column has few values: a status, a kind, a flag.
MAX_DISTINCT = 100


class Partial(TableIndexRule):
    """Index only the rows that a constant condition keeps

    ## What it does
    Where a query compares a column of few values with a constant (`status = 'new'`, a boolean flag, `<>`, `IN`), or
    asks for `IS NULL` or `IS NOT NULL`, and the statistics say that few rows qualify, proposes an index with that
    condition as its WHERE and the query's other columns as its keys.

    ## Why it is slow
    A full index holds all rows, though only the open orders or the active users are ever asked for: it is larger,
    colder in the cache, and every insert and update pays for it. A partial one holds just those rows. It is also the
    only kind that serves `<>`, and the only one that keeps an order behind `IS NULL`.

    ## Example
    ```sql
    SELECT id FROM orders WHERE status = 'new' ORDER BY placed_at LIMIT 20
    ```

    ## Use instead
    ```sql
    CREATE INDEX CONCURRENTLY orders_placed_at_part_idx ON orders USING btree (placed_at) WHERE status = 'new'
    ```

    ## Preconditions
    The condition stands in the query as a constant: with a parameter the planner cannot prove that the index holds all
    rows, and does not use it in a generic plan. By the statistics it keeps less than 30 % of the rows and the column
    has at most 100 values. It is copied into the index word for word, so that the planner sees it is implied.
    """

    code: ClassVar[str] = "IX105"
    name: ClassVar[str] = "partial"
    limit: ClassVar[int] = 4

    def keys(self, use: TableUse) -> Iterator[Keys]:
        recurring = sorted(filter(_recurs, use.conditions), key=lambda c: c.selectivity or 0.0)
        choices = [recurring[:1]] + ([recurring] if len(recurring) > 1 else [])
        for chosen in choices if recurring else ():
            yield from _keys(use, chosen)


def _recurs(condition: Condition) -> bool:
    column, share = condition.column, condition.selectivity
    if not condition.constant or column is None or share is None or share >= MAX_SHARE:
        return False
    asks_for_null = isinstance(condition.node, exp.Is) and isinstance(condition.node.expression, exp.Null)
    return asks_for_null or (condition.distinct is not None and condition.distinct <= MAX_DISTINCT)


def _keys(use: TableUse, chosen: Sequence[Condition]) -> Iterator[Keys]:
    """The keys that the rest of the query asks for, else the primary key: the rows themselves are what is wanted."""
    taken = {id(c.node) for c in chosen}
    rest = replace(use.plain(), conditions=tuple(c for c in use.plain().conditions if id(c.node) not in taken))
    share = min(c.selectivity for c in chosen if c.selectivity is not None)
    predicate = " AND ".join(dict.fromkeys(_wrapped(c.node) for c in chosen))
    texts = " and ".join(dict.fromkeys(quoted(c.node) for c in chosen))
    most = "at most " if len(chosen) > 1 else ""
    remark = f"The index holds only rows with {texts}, {most}{share:.1%} of the table."
    found = list(islice(chain(islice(sort_keys(rest), 1), islice(search_keys(rest), 1), islice(join_keys(rest), 2)), 3))
    if not found:
        names = use.table.primary_key or (chosen[0].key.column,)
        parts = (
            KeyPart(IndexColumn(quote_identifier(n), n), "names the rows that qualify") for n in names if n is not None
        )
        found = [Keys(rest, tuple(parts), 1.0)]
    for keys in found:
        yield replace(keys, predicate=predicate, share=keys.share * share, remark=remark)


def _wrapped(node: exp.Expr) -> str:
    text = unqualified(node)
    return f"({text})" if isinstance(node, exp.Or) else text
