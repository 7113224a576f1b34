"""Row-level security of a source, as it counts for one role.

Which policies a query meets depends on who runs it: none for superusers, roles with BYPASSRLS and the table's owner
(unless it is forced), else those that name PUBLIC or a role whose rights it has (`check_enable_rls` and
`get_row_security_policies` in PostgreSQL's sources). This is decided at the source. On the shadow the policies that
count stand for everybody, and the planning login, which owns nothing, meets just these.

A shadow's schema says of every secured table that it is one, whichever role counts: the equivalence gate and the rules
then take into account that some role sees only some of its rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, LiteralString

import postgast
import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from optimizer.catalog import Catalog, Table
from optimizer.errors import InputError

_ACTIVE: LiteralString = """
    CASE WHEN r.rolsuper OR r.rolbypassrls THEN false
         WHEN pg_has_role(r.oid, c.relowner, 'USAGE') THEN c.relforcerowsecurity
         ELSE true END"""
_TABLES: LiteralString = f"""
    SELECT c.oid::int8, n.nspname::text, c.relname::text, {_ACTIVE}
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.rolname = %s
     WHERE c.relrowsecurity AND c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
     ORDER BY 2, 3"""  # noqa: S608 - a constant of this file
_POLICIES: LiteralString = """
    SELECT p.polrelid::int8, p.polname::text, p.polpermissive, p.polcmd::text,
           pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
      FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid AND c.relrowsecurity JOIN pg_roles r ON r.rolname = %s
     WHERE EXISTS (SELECT FROM unnest(p.polroles) o
                    WHERE CASE o WHEN 0 THEN true ELSE pg_has_role(r.oid, o, 'USAGE') END)
     ORDER BY p.polrelid, p.polname"""
# Views read with their owner's rights, unless they say otherwise, and meet the policies that count for the owner.
_VIEWS: LiteralString = f"""
    SELECT DISTINCT n.nspname || '.' || v.relname, r.rolname::text
      FROM pg_class v
      JOIN pg_namespace n ON n.oid = v.relnamespace
      JOIN pg_roles r ON r.oid = v.relowner
      JOIN pg_rewrite w ON w.ev_class = v.oid
      JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
      JOIN pg_class c ON c.oid = d.refobjid AND c.relrowsecurity AND c.oid <> v.oid
     WHERE v.relkind = 'v' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND {_ACTIVE}
       AND NOT EXISTS (SELECT FROM pg_options_to_table(v.reloptions) o
                        WHERE o.option_name = 'security_invoker' AND o.option_value::bool)
     ORDER BY 1"""  # noqa: S608 - a constant of this file
#: What is asked for: the secured tables and the policies, of a role each, and the views.
QUERIES = (_TABLES, _POLICIES, _VIEWS)
_COMMANDS = {"*": "ALL", "r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE"}
# What stands in policies for the name of the user, who on the shadow is its own login. It costs what CURRENT_USER does
# (`cost_qual_eval_walker`, costsize.c), and like it has its value when rows are estimated.
_ROLE_SCHEMA = "planproof_role"
_ACTING = f"{_ROLE_SCHEMA}.acting()"
_WHO = frozenset(("CURRENT_USER", "SESSION_USER", "CURRENT_ROLE", "USER"))
_SETTING = re.compile(r"current_setting\('([a-zA-Z_]\w*\.[\w.]+)'")
_MOST_NAMED = 4


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy that counts for the role; `command` as CREATE POLICY says it."""

    name: str
    permissive: bool
    command: str
    using: str | None
    check: str | None


@dataclass(frozen=True, slots=True)
class SecuredTable:
    """A table with row-level security; if it is `active`, the role sees what `policies` let it see."""

    schema: str
    name: str
    active: bool
    policies: tuple[Policy, ...] = ()

    @property
    def qualified(self) -> str:
        """The name for SQL."""
        return sql.Identifier(self.schema, self.name).as_string()


@dataclass(frozen=True, slots=True)
class RowSecurity:
    """Row-level security as it counts for `role`; `views` are read with rights to which other policies apply."""

    role: str
    tables: tuple[SecuredTable, ...] = ()
    views: tuple[tuple[str, str], ...] = ()

    def marks(self) -> str:
        """Statements that belong to the schema: which tables are secured, without policies."""
        return "".join(f"ALTER TABLE {t.qualified} ENABLE ROW LEVEL SECURITY;\n" for t in self.tables)

    def policies(self) -> str:
        """Statements for planning databases, after those of the schema."""
        statements = [statement for table in self.tables for statement in _statements(table)]
        if any(_ACTING in statement for statement in statements):
            statements[:0] = _acting(self.role)
        return "".join(f"{statement};\n" for statement in statements)

    def to_json(self) -> str:
        """Return the JSON form, which `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RowSecurity:
        """Read what `to_json` wrote.

        Errors: `InputError` when it is damaged.
        """
        try:
            raw = json.loads(text)
            tables = tuple(
                SecuredTable(**{**t, "policies": tuple(Policy(**p) for p in t["policies"])}) for t in raw["tables"]
            )
            return cls(raw["role"], tables, tuple((view, owner) for view, owner in raw["views"]))
        except (ValueError, KeyError, TypeError):
            raise InputError("the shadow's row-level security is damaged: refresh the shadow") from None


def read_row_security(connection: psycopg.Connection[Any], role: str) -> RowSecurity:
    """Read what row-level security means for a role; nothing is asked for but the catalog, which everybody may read.

    Parameters:
        connection: to the source, with `search_path = pg_catalog`.
        role: whose queries are meant.

    Errors: `psycopg.Error`.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        tables = cursor.execute(_TABLES, [role]).fetchall()
        if not tables:
            return RowSecurity(role)
        policies = cursor.execute(_POLICIES, [role]).fetchall()
        views = cursor.execute(_VIEWS).fetchall()
    return row_security_of(role, tables, policies, views)


def row_security_of(
    role: str, tables: Iterable[Sequence[Any]], policies: Sequence[Sequence[Any]], views: Iterable[Sequence[Any]]
) -> RowSecurity:
    """Put together what the three `QUERIES` found for a role."""
    found = tuple(
        SecuredTable(
            schema,
            name,
            active,
            tuple(
                Policy(policy, permissive, _COMMANDS[command], using, check)
                for relation, policy, permissive, command, using, check in policies
                if active and relation == oid
            ),
        )
        for oid, schema, name, active in tables
    )
    return RowSecurity(role, found, tuple((view, owner) for view, owner in views))


def secured_catalog(catalog: Catalog, found: RowSecurity) -> Catalog:
    """Say of a template's catalog which tables are secured at the source; where no policy counts, the template is not.

    Foreign keys to them are not valid for whoever asks: the row that one promises may be hidden.
    """
    places = {(table.schema, table.name) for table in found.tables}

    def known(table: Table) -> Table:
        constraints = tuple(
            replace(c, validated=c.validated and (c.referenced_schema, c.referenced_table) not in places)
            for c in table.constraints
        )
        secured = table.row_security or (table.schema, table.name) in places
        return replace(table, row_security=secured, constraints=constraints)

    return replace(catalog, tables={place: known(table) for place, table in catalog.tables.items()})


def secure(found: RowSecurity, superuser: psycopg.Connection[Any]) -> tuple[str, ...]:
    """Take row-level security off those tables of a template of which not all policies could be made.

    A policy that is missing would hide rows that production shows.

    Parameters:
        superuser: to the template, where `marks` and `policies` ran.

    Returns: what is not as at the source, with its effect.

    Errors: `psycopg.Error`.
    """
    made: set[tuple[str, str, str]] = set(
        superuser.execute(
            "SELECT n.nspname::text, c.relname::text, p.polname::text FROM pg_policy p"
            " JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        ).fetchall()
    )
    lacking = [t for t in found.tables if any((t.schema, t.name, policy.name) not in made for policy in t.policies)]
    for table in lacking:
        superuser.execute(
            sql.SQL("ALTER TABLE IF EXISTS {} DISABLE ROW LEVEL SECURITY").format(
                sql.Identifier(table.schema, table.name)
            )
        )
    return tuple(_notes(found, [table.qualified for table in lacking]))


def unset_settings(found: RowSecurity, settings: Container[str]) -> tuple[str, ...]:
    """Say which settings policies ask for that sessions of the role do not begin with.

    Parameters:
        settings: names of those with which they begin.
    """
    texts = (f"{policy.using} {policy.check}" for table in found.tables for policy in table.policies)
    asked = dict.fromkeys(name for text in texts for name in _SETTING.findall(text))
    return tuple(
        f"row-level security: policies read the setting {name}, with which no session of the role {found.role} begins: "
        "queries are refused, or estimated as if no row were visible; say ALTER ROLE ... SET at the source, or "
        f"options='-c {name}=VALUE' in the connection string"
        for name in asked
        if name not in settings
    )


def _notes(found: RowSecurity, lacking: Sequence[str]) -> Iterator[str]:
    active = [t for t in found.tables if t.active]
    if lacking:
        yield (
            f"row-level security of {_listed(lacking)}: not all policies could be made here, so plans are those of a "
            "role that sees all rows"
        )
    if active:
        yield (
            f"row-level security: plans are those of the role {found.role}, to whom policies apply on "
            f"{len(active)} tables"
        )
    elif found.tables:
        yield (
            f"row-level security: no policy applies to the role {found.role}, and {len(found.tables)} tables have "
            "some: plans are those of a role that sees all rows; name another one with --role"
        )
    if found.views:
        named = _listed([f"{view} ({owner})" for view, owner in found.views])
        yield (
            f"row-level security: views are read with the rights of their owners, to whom policies apply: {named}; "
            "here these views see all rows"
        )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _statements(table: SecuredTable) -> Iterator[str]:
    # The owner makes hypothetical indexes, whose size counts all rows.
    yield f"ALTER TABLE {table.qualified} NO FORCE ROW LEVEL SECURITY"
    if not table.active:
        yield f"ALTER TABLE {table.qualified} DISABLE ROW LEVEL SECURITY"
    for policy in table.policies:
        kind = "PERMISSIVE" if policy.permissive else "RESTRICTIVE"
        using = f" USING ({_as_role(policy.using)})" if policy.using is not None else ""
        check = f" WITH CHECK ({_as_role(policy.check)})" if policy.check is not None else ""
        name = sql.Identifier(policy.name).as_string()
        yield f"CREATE POLICY {name} ON {table.qualified} AS {kind} FOR {policy.command} TO PUBLIC{using}{check}"


def _acting(role: str) -> tuple[str, ...]:
    body = sql.Literal(f"BEGIN RETURN {sql.Literal(role).as_string()}; END").as_string()
    return (
        f"CREATE SCHEMA {_ROLE_SCHEMA}",
        f"CREATE FUNCTION {_ACTING} RETURNS name LANGUAGE plpgsql STABLE PARALLEL SAFE COST 1 AS {body}",
    )


def _as_role(expression: str) -> str:
    """Put the role's name in the place of the user's; the text is PostgreSQL's own, so these words are nothing else."""
    text = expression.encode()
    try:
        tokens = postgast.scan(expression).tokens
    except postgast.PgQueryError:
        return expression  # whoever runs it will hear so
    for token in reversed(tokens):
        if text[token.start : token.end].decode() in _WHO:
            text = text[: token.start] + _ACTING.encode() + text[token.end :]
    return text.decode()
