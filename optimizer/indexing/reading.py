"""A statement in the form that is easiest to read: views opened, UPDATE and DELETE as the SELECT of their rows.

What is read this way is never printed as a whole and never executed.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from optimizer.catalog import Catalog, identifier_name
from optimizer.errors import PlanproofError
from optimizer.memo import remembered
from optimizer.query import Query

#: Views that stand on views are opened this deep.
_MAX_VIEW_DEPTH = 4
#: Key of a SELECT's `meta`: names of the columns that the statement sets in its first FROM item.
WRITES = "planproof_writes"


def reading_form(query: Query, catalog: Catalog) -> exp.Expr | None:
    """Return the statement's tree, ready for `optimizer.scope`; None where sqlglot cannot read it.

    The SELECT that stands for an UPDATE or DELETE reads its target as the first FROM item and says so in its `meta`
    (`WRITES`).
    """
    tree = query.reading_tree
    if tree is None:
        return None
    nodes = tuple(tree.find_all(exp.Update, exp.Delete, exp.Table, exp.CTE))
    if not _views(nodes, catalog) and not any(isinstance(node, (exp.Update, exp.Delete)) for node in nodes):
        return tree
    tree = tree.copy()
    for node in tuple(tree.find_all(exp.Update, exp.Delete)):
        select = _rows_of(node)
        if node is tree:
            tree = select
        else:
            node.replace(select)
    for _ in range(_MAX_VIEW_DEPTH):
        views = _views(tuple(tree.find_all(exp.Table, exp.CTE)), catalog)
        if not [node for node, definition in views if _open_view(node, definition)]:
            break
    return tree


def _rows_of(node: exp.Expr) -> exp.Select:
    """The SELECT of the rows that an UPDATE or DELETE touches, reading what it reads."""
    assigned = [e for e in node.expressions if isinstance(e, exp.EQ)] if isinstance(node, exp.Update) else []
    returning = node.args.get("returning")
    using = node.args.get("using") or []
    from_ = node.args.get("from_")
    others = [from_.this] if from_ is not None else list(using)
    select = exp.Select(
        expressions=[e.expression for e in assigned] + (list(returning.expressions) if returning is not None else []),
        from_=exp.From(this=node.this),
        joins=[exp.Join(this=other) for other in others],
        where=node.args.get("where"),
        with_=node.args.get("with_"),
    )
    select.meta[WRITES] = frozenset(identifier_name(c.this) for e in assigned for c in e.this.find_all(exp.Column))
    return select


def _views(nodes: Sequence[exp.Expr], catalog: Catalog) -> tuple[tuple[exp.Table, str], ...]:
    """The references to views among a statement's tables and CTEs, with each view's query."""
    ctes = {identifier_name(cte.args["alias"].this) for cte in nodes if isinstance(cte, exp.CTE)}
    found = []
    for node in nodes:
        if not isinstance(node, exp.Table) or not isinstance(node.parent, (exp.From, exp.Join)):
            continue
        if not isinstance(node.this, exp.Identifier):
            continue
        if not node.args.get("db") and identifier_name(node.this) in ctes:
            continue
        table = catalog.resolve(node)
        if table is not None and table.kind == "view" and table.definition:
            found.append((node, table.definition))
    return tuple(found)


def _open_view(node: exp.Table, definition: str) -> bool:
    query = _view_tree(definition)
    if query is None:
        return False
    alias = node.args.get("alias") or exp.TableAlias(this=node.this.copy())
    node.replace(exp.Subquery(this=query.copy(), alias=alias, joins=node.args.get("joins")))
    return True


@remembered(most=128, longest=8_000)
def _view_tree(definition: str) -> exp.Expr | None:
    try:
        return Query.parse(definition).reading_tree
    except PlanproofError:  # too large, or of a newer PostgreSQL: the view stays closed
        return None
