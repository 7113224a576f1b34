"""Reading one comparison: its columns, constants and operator."""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from optimizer.catalog import identifier_name
from optimizer.matching import bare

#: Operators by sqlglot's class.
COMPARED: dict[type[exp.Expr], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.Like: "like",
    exp.ILike: "like",
    exp.NullSafeEQ: "=",
    exp.NullSafeNEQ: "<>",
}
_MIRROR = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
#: What compares a column with something.
PREDICATES = (*COMPARED, exp.In, exp.Between, exp.Is, exp.RegexpLike, exp.RegexpILike, exp.SimilarTo)


def own(node: exp.Expr, *types: type[exp.Expr]) -> Iterator[exp.Expr]:
    """Nodes of `types` in `node`, itself included, that are not inside a subquery."""
    stack = [node]
    while stack:
        part = stack.pop()
        if isinstance(part, types):
            yield part
        if not isinstance(part, (exp.Select, exp.SetOperation)):
            stack.extend(part.iter_expressions(reverse=True))


def own_subquery(query: exp.Select, node: exp.Expr) -> bool:
    parent = query.parent
    while parent is not None and parent is not node:
        if isinstance(parent, exp.Select):
            return False
        parent = parent.parent
    return parent is node


def constant_texts(node: exp.Expr) -> Iterator[str]:
    for part in own(node, exp.Literal, exp.Parameter, exp.Placeholder, exp.Boolean, exp.Null):
        if isinstance(part, exp.Literal) and not isinstance(part.parent, exp.Parameter):
            negative = isinstance(part.parent, exp.Neg)
            yield f"-{part.name}" if negative else part.name
        elif isinstance(part, exp.Parameter):
            yield f"${part.name}"
        elif isinstance(part, exp.Boolean):
            yield "t" if part.this else "f"


def whole_numbers(node: exp.Expr) -> list[int]:
    found = []
    for text in constant_texts(node):
        digits = text.removeprefix("-").replace(".", "", 1)
        if digits.isdigit() and len(digits) < 10:
            found.append(int(float(text)))
    return found


def operator_of(node: exp.Expr, column: exp.Column) -> tuple[str, bool]:
    """The comparison as seen from the column, and whether the column stands alone."""
    negated = isinstance(node.parent, exp.Not)
    if isinstance(node, exp.Is):
        return ("not null" if negated else "null"), bare(node.this) is column
    if isinstance(node, exp.In):
        return ("other" if negated else "in"), bare(node.this) is column
    if isinstance(node, exp.Between):
        return ("other" if negated else "between"), bare(node.this) is column
    operator = COMPARED.get(type(node), "other")
    if negated:
        operator = {"=": "<>", "<": ">=", "<=": ">", ">": "<=", ">=": "<", "<>": "="}.get(operator, "other")
    if not isinstance(node, exp.Binary):
        return operator, False
    if bare(node.this) is column:
        return operator, True
    if bare(node.expression) is column:
        return _MIRROR.get(operator, operator), True
    return operator, False


def function_around(column: exp.Column, node: exp.Expr) -> str:
    """Name of the innermost function call between the column and the comparison; `extract month` and the like."""
    part: exp.Expr | None = column.parent
    while part is not None:
        if isinstance(part, exp.Extract):
            return f"extract {part.name.lower()}"
        if isinstance(part, exp.Anonymous):
            name = identifier_name(part.this)
            fields = [e.name.lower() for e in part.expressions if isinstance(e, exp.Literal) and e.is_string]
            return f"extract {fields[0]}" if name == "date_part" and fields else name
        if part is node:
            return ""
        part = part.parent
    return ""
