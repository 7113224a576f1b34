"""PostgreSQL as sqlglot prints it, made faithful.

sqlglot translates between dialects, so it replaces functions and spellings by its own canonical ones: `now()` becomes
`CURRENT_TIMESTAMP`, `date_trunc('day', x)` becomes `DATE_TRUNC('DAY', x)`. planproof only ever goes from PostgreSQL to
PostgreSQL and wants the user's words back, so function calls stay calls, apart from the few that rules match by class.
`optimizer/query.py` then checks every round trip with PostgreSQL's own grammar.
"""

from __future__ import annotations

from typing import ClassVar

from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.generators.postgres import PostgresGenerator
from sqlglot.parsers.postgres import PostgresParser

#: Functions that stay sqlglot classes; PostgreSQL has no second spelling that they could be changed into.
CLASSED_FUNCTIONS = frozenset({"COALESCE", "COUNT", "SUM", "AVG", "MIN", "MAX", "NULLIF", "GREATEST", "LEAST"})


class PlanproofPostgres(Postgres):
    """sqlglot's PostgreSQL dialect without its translations."""

    class Parser(PostgresParser):
        FUNCTIONS: ClassVar = {k: v for k, v in PostgresParser.FUNCTIONS.items() if k in CLASSED_FUNCTIONS}

        # date_part would become EXTRACT, which returns another type.
        FUNCTION_PARSERS: ClassVar = {k: v for k, v in PostgresParser.FUNCTION_PARSERS.items() if k != "DATE_PART"}

    class Generator(PostgresGenerator):
        NORMALIZE_FUNCTIONS: ClassVar = False

        def anonymous_sql(self, expression: exp.Anonymous) -> str:
            """Print a call as the user spelt it (sqlglot upper-cases the name)."""
            name = expression.this
            text = self.sql(expression, "this") if isinstance(name, exp.Expr) else str(name)
            return str(self.func(text, *expression.expressions, normalize=False))

        def interval_sql(self, expression: exp.Interval) -> str:
            """Print `INTERVAL '1 day'` with its unit in lower case, as PostgreSQL prints it."""
            unit, value = expression.args.get("unit"), expression.this
            if isinstance(unit, exp.Var) and isinstance(value, exp.Literal):
                return f"INTERVAL '{value.name} {unit.name.lower()}'"
            return str(super().interval_sql(expression))

        def not_sql(self, expression: exp.Not) -> str:
            """Print NOT IN, NOT LIKE, NOT BETWEEN, IS NOT TRUE as such: sqlglot's tree holds them as Not(In(...))."""
            inner = expression.this
            if isinstance(inner, exp.Is) and isinstance(inner.expression, exp.Boolean):
                return f"{self.sql(inner, 'this')} IS NOT {self.sql(inner, 'expression')}"
            spelling = {exp.In: " IN ", exp.Like: " LIKE ", exp.ILike: " ILIKE ", exp.Between: " BETWEEN "}.get(
                type(inner)
            )
            if spelling is None:
                return str(super().not_sql(expression))
            operand = self.sql(inner, "this")
            text = self.sql(inner)
            if not text.startswith(operand + spelling):
                return str(super().not_sql(expression))
            return f"{operand} NOT{text[len(operand) :]}"
