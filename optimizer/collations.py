"""Collations that a server of ours lacks, and what stands in for them.

The embedded server has no ICU, and of the C library's locales those of its machine. A schema that names another
collation still needs one of that name: its tables have to exist, and queries may say COLLATE. So one is made with the
order of the nearest locale, or of C.UTF-8. C never stands in: it would let a plain index serve `LIKE 'ab%'`.

    CREATE COLLATION IF NOT EXISTS pg_catalog."de-x-icu" (provider = icu, locale = 'de')

Such a statement is what a clone's schema has for each of them. The superuser runs what `stand_in_statements` makes of
it, which takes the nearest that there is: pg_catalog is not the owner's, nor may a collation of the C library be
nondeterministic otherwise.
"""

from __future__ import annotations

import re
from typing import Any, Final

import postgast

#: Where it stands behind every other locale.
LAST_RESORT: Final = "C.UTF-8"
_NAME: Final = re.compile(r"[A-Za-z0-9_.@-]{1,63}")
_LOCALE: Final = {
    "icu": re.compile(r"[A-Za-z0-9_@=;-]{0,60}"),
    "libc": re.compile(r"[A-Za-z]{1,8}(_[A-Za-z]{2,8})?(\.[A-Za-z0-9-]{1,12})?(@[a-z]{1,12})?"),
}
_BYTES: Final = ("C", "POSIX")
_PARTS: Final = re.compile(
    r"(?P<language>[A-Za-z]{2,3})(?:[-_](?P<script>[A-Za-z]{4}))?(?:[-_](?P<territory>[A-Za-z]{2}))?"
    r"(?:\.[\w-]+)?(?:@(?P<modifier>[a-z]+))?(?=$|[-_@.])"
)
# Where the territory is not the language's own name.
_HOME: Final = {
    **{"ar": "EG", "bn": "BD", "ca": "ES", "cs": "CZ", "da": "DK", "el": "GR", "en": "US", "et": "EE", "fa": "IR"},
    **{"ga": "IE", "he": "IL", "hi": "IN", "ja": "JP", "ko": "KR", "nb": "NO", "nn": "NO", "sl": "SI", "sq": "AL"},
    **{"sr": "RS", "sv": "SE", "uk": "UA", "ur": "PK", "vi": "VN", "zh": "CN", "und": "US"},
}


def libc_language(name: str) -> str | None:
    """Return what the C library calls the language of a locale, without a codeset: `de_DE`; None where it has no order.

    Parameters:
        name: of the C library or ICU: `de_DE.utf8`, `de-AT-u-ks-level2`, `und`.
    """
    if name in _BYTES or name.upper().startswith(("C.", "POSIX.")):
        return None
    found = _PARTS.match(name or "und")
    if found is None:
        return "en_US" if name in ("", "root") else None
    language = found["language"].lower()
    territory = (found["territory"] or _HOME.get(language, language)).upper()
    language = "en" if language == "und" else language
    return f"{language}_{territory}" + (f"@{found['modifier']}" if found["modifier"] else "")


def libc_locale(name: str) -> str:
    """Return the C library's locale, in UTF-8, that is nearest to another."""
    if name in _BYTES:
        return name
    language, at, modifier = (libc_language(name) or "").partition("@")
    return f"{language}.UTF-8{at}{modifier}" if language else LAST_RESORT


def collation_statement(schema: str, name: str, provider: str, locale: str, *, deterministic: bool) -> str:
    """Return the statement that stands in a clone's schema for a collation.

    Parameters:
        schema, name: of the collation.
        provider: `icu` or `libc`.
        locale: as the source has it.
    """
    more = "" if deterministic else ", deterministic = false"
    known = locale if _LOCALE[provider].fullmatch(locale) else libc_locale(locale).partition(".")[0]
    return (
        f"CREATE COLLATION IF NOT EXISTS {_quoted(schema)}.{_quoted(name)} "
        f"(provider = {provider}, locale = '{known}'{more})"
    )


def tamed_collation(sql: str) -> str:
    """Make a dump's CREATE COLLATION one that every machine has; any other statement is returned as it is."""
    if not sql.startswith("CREATE COLLATION ") or "provider = builtin" in sql:
        return sql
    try:
        statement = postgast.parse(sql).stmts[0].stmt.define_stmt
    except postgast.PgQueryError:
        return sql
    names, given = [part.string.sval for part in statement.defnames], _values(statement)
    provider = given.get("provider", "libc")
    locale = given.get("locale") or given.get("lc_collate") or ("und" if provider == "icu" else "C")
    if len(names) != 2 or provider not in _LOCALE:
        return sql
    deterministic = given.get("deterministic") != "false"
    return collation_statement(names[0], names[1], provider, locale, deterministic=deterministic)


def stand_in_statements(statement: Any) -> tuple[str, ...]:
    """Return what a superuser runs for a stand-in; nothing for any other CREATE COLLATION.

    Parameters:
        statement: its tree, of libpg_query.
    """
    names = [part.string.sval for part in statement.defnames]
    given = _values(statement)
    plain = statement.if_not_exists and len(names) == 2 and given.keys() <= {"provider", "locale", "deterministic"}
    in_catalog = names[0] == "pg_catalog" and _NAME.fullmatch(names[-1]) is not None
    provider, locale = given.get("provider", ""), given.get("locale", "")
    if not plain or provider not in _LOCALE or (names[0].startswith("pg_") and not in_catalog):
        return ()
    if _LOCALE[provider].fullmatch(locale) is None:
        return ()
    name = f"{_quoted(names[0])}.{_quoted(names[1])}"
    fixed = given.get("deterministic") != "false" or provider == "libc"
    tries = [f"provider = {provider}, locale = '{locale}'{'' if fixed else ', deterministic = false'}"]
    # A machine may lack any of them.
    tries += [f"provider = libc, locale = '{other}'" for other in (libc_locale(locale), LAST_RESORT, "C")]
    block = f"CREATE COLLATION IF NOT EXISTS {name} ({tries[-1]});"
    for one in reversed(tries[:-1]):
        made = f"CREATE COLLATION IF NOT EXISTS {name} ({one});"
        block = f"BEGIN {made} EXCEPTION WHEN OTHERS THEN {block} END;"
    statements = [f"DO {_literal(f'BEGIN {block} END')}"]
    if given.get("deterministic") == "false":
        statements.append(
            "UPDATE pg_collation SET collisdeterministic = false WHERE collprovider = 'c' AND collname = "  # noqa: S608
            f"{_literal(names[1])} AND collnamespace = "
            f"(SELECT oid FROM pg_namespace WHERE nspname = {_literal(names[0])})"
        )
    return tuple(statements)


def _values(statement: Any) -> dict[str, str]:
    found = {}
    for option in statement.definition:
        argument = option.def_elem.arg
        kind = argument.WhichOneof("node")
        text = argument.string.sval if kind == "string" else ""
        if kind == "type_name":  # words without quotes
            text = ".".join(part.string.sval for part in argument.type_name.names)
        elif kind == "boolean":
            text = str(argument.boolean.boolval).lower()
        found[option.def_elem.defname] = str(text)
    return found


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
