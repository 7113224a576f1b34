"""Makes shadows from files: of a schema, with rows or statistics if there are any, or of what a script carried over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from optimizer.clock import patience_s
from optimizer.ddl_pieces import PieceKind, cut
from optimizer.errors import InputError, TooLargeError
from optimizer.settings import Settings
from optimizer.shadow.server.bounds import GRACE_S, bounded
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.server.locale_making import provide_locales
from optimizer.shadow.source.additions import apply_additions
from optimizer.shadow.source.carried import Carried
from optimizer.shadow.source.introspect import read_catalog
from optimizer.shadow.source.reading import Origin, Reading
from optimizer.shadow.source.row_security import secured_catalog
from optimizer.shadow.template.clone import SCRIPT_TIMEOUT_S, Cloned, cloned, finish, read_files, undone_on_error
from optimizer.shadow.template.database import new_template
from optimizer.shadow.template.restore import apply_dump

_POLICY: Final = re.compile(r"CREATE\s+POLICY\b", re.IGNORECASE)
_ROWS: Final = re.compile(r"INSERT\b", re.IGNORECASE)


def make_from_files(
    cluster: Cluster, database: str, schema_text: str, stats_text: str | None, settings: Settings
) -> Cloned:
    """Make a template of texts, whichever program wrote them.

    Parameters:
        cluster: the hollow cluster.
        database: name for the template.
        schema_text: as for `read_files`; beside statistics that the script of `planproof shadow script` wrote, a dump
            of any version, of which what cannot be restored is told.
        stats_text: as for `read_files`, or what that script wrote; None without.

    Errors: as `read_files`.
    """
    carried = Carried.from_text(stats_text) if stats_text is not None else None
    if stats_text is None or carried is None:
        return read_files(cluster, database, schema_text, stats_text, settings)
    limit = settings.max_schema_bytes
    for text in (schema_text, stats_text):
        if len(text.encode()) > limit:
            raise TooLargeError(f"the file has {len(text.encode()):,} bytes, and the limit is {limit:,}")
    additions = carried.additions
    origin = Origin(carried.locale, carried.settings, carried.search_path)
    text = f"{_without_policies(schema_text)}\n{additions.schema()}{stats_text}{carried.statistics}"
    provide_locales(cluster, additions.locales())
    with undone_on_error(cluster, database), new_template(cluster, database, origin.locale) as (owner, superuser):
        patience = patience_s(SCRIPT_TIMEOUT_S) + GRACE_S
        with bounded(cluster, owner, timeout_s=patience, max_bytes=settings.max_schema_disk_bytes):
            applied = apply_dump(text, owner, superuser, max_bytes=limit, ranks=carried.ranks)
            added = apply_additions(additions, owner, superuser, max_bytes=limit)
            owner.execute("RESET ALL")  # the dump's own SETs
            owner.execute("DISCARD TEMP")
            catalog = secured_catalog(read_catalog(owner), additions.row_security)
            catalog = replace(catalog, search_path=carried.search_path)
            built = finish(cluster, database, owner, superuser, origin, carried.shape)
        ((disk_bytes,),) = superuser.execute("SELECT pg_database_size(current_database())").fetchall()
    # A dump of the schema stops at a table that the role may not lock, so none was left out.
    notes = (*carried.rights.blind_spots(), *carried.redacted.notes, *carried.notes)
    reading = Reading(text, catalog, origin, additions, carried.shape, carried.ranks, notes, carried.server_version)
    return replace(cloned(cluster, reading, applied, added, built), disk_bytes=disk_bytes)


def _without_policies(schema_text: str) -> str:
    """Leave out policies: those that count for the role come with the statistics.

    Errors: `InputError` for a dump with rows; `SqlError` for text that cannot be cut into statements.
    """

    def kept() -> Iterator[str]:
        position = 0
        for piece in cut(schema_text):
            if piece.kind is PieceKind.COPY or _ROWS.match(piece.text):
                raise InputError(
                    f"the schema has rows (line {piece.line}), and the statistics are of a whole server: dump it with "
                    "--schema-only"
                )
            if _POLICY.match(piece.text):
                yield schema_text[position : piece.offset]
                position = piece.offset + len(piece.text)
        yield schema_text[position:]

    return "".join(kept())
