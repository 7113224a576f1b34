"""Row-level security, as far as the gate needs to know of it.

A policy hides rows of a table from whoever it applies to: any rows. Unique keys, NOT NULL and checks stay true of the
rest; a foreign key to the table does not, since the row that it promises may be hidden, so the gate's databases are
made without it. And the table is not one set of rows any more: a view shows what its owner may see, and a partition or
a child table has policies of its own. So two queries that reach its rows in different ways cannot be compared by the
gate, whose databases have no policies: with them, nothing at all would be visible there.
"""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.catalog import Catalog
from optimizer.equivalence import tree

#: Schema and name of the relations that share rows by inheritance or partitioning, at least one of them secured.
Family = frozenset[tuple[str, str]]

#: One row a relation of such a family: the family's topmost relation, schema, name.
FAMILIES_SQL = """
    WITH RECURSIVE family(root, member) AS (
        SELECT c.oid, c.oid FROM pg_class c
         WHERE c.relkind IN ('r', 'p') AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
        UNION
        SELECT f.root, i.inhrelid FROM family f JOIN pg_inherits i ON i.inhparent = f.member)
    SELECT f.root::int8, n.nspname::text, c.relname::text
      FROM family f JOIN pg_class c ON c.oid = f.member JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE f.root IN (SELECT s.root FROM family s JOIN pg_class t ON t.oid = s.member WHERE t.relrowsecurity)
     ORDER BY 1, 2, 3"""
#: Commands that take row-level security off all tables.
DISABLING_SQL = """
    SELECT format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', c.oid::regclass)
      FROM pg_class c WHERE c.relrowsecurity OR c.relforcerowsecurity ORDER BY 1"""


def differing_view(left: str, right: str, catalog: Catalog, secured: Sequence[Family]) -> str | None:
    """Name a secured table that both queries read, but not by the same names: other rows may be hidden from each.

    Parameters:
        left, right: the statements.
        catalog: for views.
        secured: from `FAMILIES_SQL`.
    """
    for family in secured:
        ways, others = _ways(left, catalog, family), _ways(right, catalog, family)
        if ways and others and ways != others:
            return ".".join(min(family))
    return None


def _ways(sql: str, catalog: Catalog, family: Family) -> frozenset[tuple[str, str]]:
    """The relations by which a statement reaches rows of a family: its tables, and views over them."""
    found = set()
    for _, table in tree.relations(tree.statement(sql), catalog):
        if table is None:
            continue
        below = tree.touched(table.definition, catalog) if table.definition is not None else []
        if any((one.schema, one.name) in family for one in (table, *below)):
            found.add((table.schema, table.name))
    return frozenset(found)
