"""How a source compares text, and the nearest that the embedded server can do.

The embedded server has no ICU and takes the C library's locales from the machine it runs on. The order of text decides
what a histogram says of a range, and whether a plain B-tree serves `LIKE 'ab%'` (only under C), so a difference is
reported. C never stands in for another locale: it would make plans use indexes that production cannot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from optimizer.collations import libc_language, libc_locale

_C = ("C", "POSIX")
#: The first version whose CREATE DATABASE names a provider.
_PROVIDERS = 150000


@dataclass(frozen=True, slots=True)
class Locale:
    """A database's default collation.

    Parameters:
        provider: `libc`, `icu` or `builtin`.
        collate: the order's name in the provider's words.
        ctype: the C library's name for character classes.
        encoding: of the database.
    """

    provider: Literal["libc", "icu", "builtin"]
    collate: str
    ctype: str
    encoding: str = "UTF8"

    @property
    def byte_order(self) -> bool:
        """True where PostgreSQL knows that text is ordered by its bytes."""
        return self.collate in _C or self.provider == "builtin"


def read_locale(connection: psycopg.Connection[Any]) -> Locale:
    """Read the default collation of the connection's database, PostgreSQL 13 to 18.

    Errors: `psycopg.Error`.
    """
    version = connection.info.server_version
    provider: LiteralString = "datlocprovider::text" if version >= 150000 else "'c'"
    name: LiteralString = "datcollate"
    if version >= 170000:
        name = "coalesce(datlocale, datcollate)"
    elif version >= 150000:
        name = "coalesce(daticulocale, datcollate)"
    query: LiteralString = "SELECT {}, {}, datctype::text, pg_encoding_to_char(encoding) FROM pg_database"
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(sql.SQL(query + " WHERE datname = current_database()").format(sql.SQL(provider), sql.SQL(name)))
        row = cursor.fetchone()
    kind, collate, ctype, encoding = row if row is not None else ("c", "C", "C", "UTF8")
    providers: dict[str, Literal["libc", "icu", "builtin"]] = {"i": "icu", "b": "builtin"}
    return Locale(providers.get(kind, "libc"), str(collate), ctype, encoding)


def creation_clauses(wanted: Locale, version: int) -> Iterator[sql.Composable]:
    """Yield the clauses of CREATE DATABASE to try for a source's locale, best first; the last always works.

    Parameters:
        wanted: the source's locale.
        version: `server_version_num` of the server that is to have it.
    """
    if version < _PROVIDERS:
        for name in _libc_names(wanted):
            for ctype in dict.fromkeys((wanted.ctype, name)):
                yield sql.SQL(" LC_COLLATE {} LC_CTYPE {}").format(sql.Literal(name), sql.Literal(ctype))
        yield sql.SQL("")
        return
    if wanted.provider == "icu":  # the embedded server has none; those of most packages do
        for ctype in dict.fromkeys((wanted.ctype, "C.UTF-8")):
            yield sql.SQL(" LOCALE_PROVIDER icu ICU_LOCALE {} LC_COLLATE {} LC_CTYPE {}").format(
                sql.Literal(wanted.collate), sql.Literal(ctype), sql.Literal(ctype)
            )
    if wanted.provider == "builtin":
        yield sql.SQL(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {} LOCALE 'C'").format(sql.Literal(wanted.collate))
    else:
        names = _libc_names(wanted)
        yield from (_libc(name, ctype) for name in names for ctype in dict.fromkeys((wanted.ctype, name)))
        if wanted.byte_order:
            yield _libc("C", "C.UTF-8")
            yield _libc("C", "C")
    yield sql.SQL("")


def _libc_names(wanted: Locale) -> tuple[str, ...]:
    """The C library's names for a locale, and the same language in UTF-8 for other encodings and ICU's names."""
    if wanted.byte_order:
        return (wanted.collate,)
    nearest = libc_locale(wanted.collate)
    return tuple(dict.fromkeys((wanted.collate, nearest) if wanted.provider == "libc" else (nearest,)))


def _libc(collate: str, ctype: str) -> sql.Composable:
    return sql.SQL(" LOCALE_PROVIDER libc LC_COLLATE {} LC_CTYPE {}").format(sql.Literal(collate), sql.Literal(ctype))


def locale_notes(wanted: Locale, ours: Locale) -> tuple[str, ...]:
    """Say how the shadow's text order differs from the source's, and what that does to plans."""
    notes = []
    if wanted.byte_order != ours.byte_order:
        prefix = (
            "an index serves LIKE 'ab%' here and not there" if ours.byte_order else "no index serves LIKE 'ab%' here"
        )
        effect = f"{prefix}, and text ranges are estimated by another order"
        notes.append(_line(wanted, ours, effect))
    elif (wanted.provider, _plain(wanted.collate)) != (ours.provider, _plain(ours.collate)) and not ours.byte_order:
        near = wanted.provider != "libc" and libc_language(wanted.collate) == libc_language(ours.collate)
        off = "may be some percent off" if near else "may be far off"
        notes.append(_line(wanted, ours, f"text ranges are estimated by another order and {off}"))
    if wanted.encoding != ours.encoding:
        notes.append(
            f"encoding {wanted.encoding}: the shadow holds text as {ours.encoding}; widths may differ a little"
        )
    return tuple(notes)


def _line(wanted: Locale, ours: Locale, effect: str) -> str:
    return (
        f"collation {wanted.collate} ({wanted.provider}) is not in the embedded server: "
        f"{ours.collate} ({ours.provider}) stands in, so {effect}"
    )


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("utf8", "").rstrip(".")
