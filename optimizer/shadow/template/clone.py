"""Makes the databases behind shadows in the embedded server, and makes them again when they are lost.

`clone_source` and `read_files` make a template and return what the registry is to keep of it (`Cloned`);
`find_template` and `remake_template` return what planning databases are copied from (`Template`).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from optimizer.clock import patience_s
from optimizer.ddl import CopyRows, Script, read_script
from optimizer.ddl_functions import NOT_LEAKPROOF
from optimizer.errors import PlanproofError, ShadowUnavailableError, SqlError
from optimizer.settings import Settings
from optimizer.shadow.pages.laid_out import Laid, disk_bytes, is_set_aside, set_aside
from optimizer.shadow.pages.shape import Shape
from optimizer.shadow.pages.storage import bind_shape
from optimizer.shadow.pool import Template, drop_copies
from optimizer.shadow.registry import ShadowRecord, write_file
from optimizer.shadow.server.bounds import GRACE_S, bounded
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.server.locale_making import provide_locales
from optimizer.shadow.source.additions import Additions, apply_additions
from optimizer.shadow.source.introspect import read_catalog
from optimizer.shadow.source.locale import locale_notes, read_locale
from optimizer.shadow.source.planner_settings import carried_settings
from optimizer.shadow.source.reading import DEFAULT_LOCALE, Origin, Progress, Reading, read_source
from optimizer.shadow.template.catalog_file import catalog_to_json
from optimizer.shadow.template.clone_options import CloneOptions
from optimizer.shadow.template.database import (
    drop_database,
    grant_reading,
    mark,
    new_template,
    reason,
    template_facts,
)
from optimizer.shadow.template.known import ADDITIONS, CATALOG, KNOWN, ORIGIN, SHAPE, know, reading_files, split
from optimizer.shadow.template.restore import Applied, apply_dump, run_script
from optimizer.shadow.template.statistics_shape import shape_from_statistics

SCHEMA, SCRIPT, STATISTICS, LAYOUT = "schema.sql", "script.sql", "statistics.sql", "layout.json"
#: Seconds for the statements of a schema file.
SCRIPT_TIMEOUT_S = 600.0
_ROWS = frozenset({"INSERT", "ANALYZE"})


@dataclass(frozen=True, slots=True)
class Cloned:
    """What the registry keeps of one revision.

    Parameters:
        files: texts by name.
        server_version: of the source; empty without one.
        settings: the planner settings that the copies get.
        not_cloned: as `ShadowRecord` has it.
        disk_bytes: that the template of a schema file takes.
    """

    files: Mapping[str, str]
    server_version: str
    settings: Mapping[str, str]
    not_cloned: tuple[str, ...]
    disk_bytes: int = 0


def clone_source(
    cluster: Cluster,
    database: str,
    dsn: str,
    settings: Settings,
    progress: Progress,
    options: CloneOptions = CloneOptions(),  # noqa: B008 - immutable
) -> Cloned:
    """Read a source and make a template of its schema, statistics and shape; its rows stay where they are.

    Statistics hold values of the source all the same: common ones, bounds of histograms, and the ends of indexes.

    Parameters:
        cluster: the hollow cluster.
        database: name for the template.
        dsn: the source.
        options: how to clone it.

    Errors: `InputError`, `ShadowUnavailableError`.
    """
    reading = read_source(dsn, options, progress)
    return build_clone(cluster, database, reading, settings, progress)


def build_clone(cluster: Cluster, database: str, reading: Reading, settings: Settings, progress: Progress) -> Cloned:
    """Make a template of what a source told.

    Parameters:
        cluster: the hollow cluster.
        database: name for the template.

    Errors: `InputError`, `ShadowUnavailableError`.
    """
    progress("restoring schema and statistics", 0.4)
    limit = settings.max_schema_bytes
    provide_locales(cluster, reading.additions.locales())
    with (
        undone_on_error(cluster, database),
        new_template(cluster, database, reading.origin.locale) as (owner, superuser),
    ):
        applied = apply_dump(
            reading.text,
            owner,
            superuser,
            max_bytes=limit,
            progress=lambda share: progress("restoring schema and statistics", 0.4 + 0.5 * share),
            ranks=reading.ranks,
        )
        added = apply_additions(reading.additions, owner, superuser, max_bytes=limit)
        progress("laying out relations", 0.92)
        built = finish(cluster, database, owner, superuser, reading.origin, reading.shape)
    return cloned(cluster, reading, applied, added, built)


def cloned(cluster: Cluster, reading: Reading, applied: Applied, added: tuple[str, ...], built: Built) -> Cloned:
    """Put together what the registry keeps of a clone.

    Parameters:
        cluster: the hollow cluster.
        applied: what became of the dump.
        added: what became of the additions.
    """
    notes, planner = reading.notes, cluster.binaries
    if reading.shape.server_version_num // 10_000 != planner.major:
        notes += (f"version: the source is PostgreSQL {reading.version}, and plans are made by {planner.version}",)
    files = reading_files(reading)
    known = know(reading, files, split(reading.text), applied, added)
    files |= {SCHEMA: applied.schema, STATISTICS: applied.statistics, KNOWN: known.to_json(), **built.files}
    lines = (*notes, *_unmended(applied.notes, reading.additions), *added, *built.notes)
    return Cloned(files, reading.version.split(" ")[0], built.settings, tuple(dict.fromkeys(lines)))


def read_files(cluster: Cluster, database: str, schema_text: str, stats_text: str | None, settings: Settings) -> Cloned:
    """Make a template of a schema file, with its rows if it has any, and statistics if they are given.

    Parameters:
        cluster: the hollow cluster.
        database: name for the template.
        schema_text: a script that `optimizer.ddl` accepts.
        stats_text: a script of `pg_restore_*_stats` calls, as `pg_dump --statistics-only` writes it; None without.

    Errors: `InputError` (`SqlError` with line and column), `TimeLimitError`, `ShadowUnavailableError`.
    """
    script = read_script(schema_text, max_bytes=settings.max_schema_bytes)
    statistics = read_script(stats_text, max_bytes=settings.max_schema_bytes) if stats_text else None
    with undone_on_error(cluster, database), new_template(cluster, database, DEFAULT_LOCALE) as (owner, superuser):
        with _bounded(cluster, owner, settings) as limit_s:
            run_script(script, owner, superuser, timeout_s=limit_s)
            has_rows = _has_rows(owner)
            if has_rows:
                _analyze(owner)
            if statistics is not None:
                run_script(statistics, owner, superuser, timeout_s=limit_s)
            owner.execute("RESET ALL")  # the script's own SETs
            owner.execute("DISCARD TEMP")  # copies have none of them, and their names come before PostgreSQL's own
            catalog = read_catalog(owner)
            # The path is known now; what comes is read past any operator or function of the script's own.
            owner.execute("SET search_path = pg_catalog")
            shape = None if has_rows else shape_from_statistics(owner, catalog)
            origin = Origin(search_path=tuple(catalog.search_path))
            built = finish(cluster, database, owner, superuser, origin, shape)
        ((template_bytes, oid),) = superuser.execute(
            "SELECT pg_database_size(oid), oid::int8 FROM pg_database WHERE datname = current_database()"
        ).fetchall()
    notes = [f"{kind}: {reason} (line {line})" for line, kind, reason in script.skipped]
    if not has_rows and not any(table.rows > 0 for table in catalog.tables.values()):
        notes.append("statistics: there are neither rows nor statistics, so plans are those of nearly empty tables")
    files = {SCHEMA: without_rows(script), SCRIPT: schema_text, STATISTICS: stats_text or ""}
    files |= {CATALOG: catalog_to_json(catalog), ORIGIN: origin.to_json()}
    if shape is not None:
        files[SHAPE] = shape.to_json()
    return Cloned(
        files,
        "",
        built.settings,
        tuple(dict.fromkeys((*notes, *built.notes))),
        template_bytes + disk_bytes(cluster, oid),
    )


def _unmended(notes: Iterable[str], additions: Additions) -> Iterator[str]:
    """Pass on what was left out of a dump, but for what the additions put back."""
    return (note for note in notes if not (additions.leakproof and note.endswith(NOT_LEAKPROOF)))


def find_template(cluster: Cluster, record: ShadowRecord) -> Template | None:
    """Return what the copies of a shadow are made of; None when the cluster has lost it, or never finished it.

    Errors: `InputError` for damaged files, `ShadowUnavailableError`.
    """
    facts = template_facts(cluster, record.database)
    hollow = facts.get("hollow")
    if hollow is None or (hollow and not is_set_aside(cluster, facts["oid"])):
        return None
    return Template(record.database, facts["build"], hollow, record.settings)


def remake_template(cluster: Cluster, record: ShadowRecord, settings: Settings) -> Template:
    """Make a template again from the registry's files. Hold the registry's lock on the shadow.

    Errors: as `find_template`.
    """
    origin = Origin.from_json(record.read(ORIGIN))
    shape = Shape.from_json(record.read(SHAPE)) if (record.folder / SHAPE).is_file() else None
    database = record.database
    with undone_on_error(cluster, database), new_template(cluster, database, origin.locale) as (owner, superuser):
        if (record.folder / SCRIPT).is_file():
            with _bounded(cluster, owner, settings):
                _apply_files(record, owner, superuser, settings, analyze=shape is None)
        else:
            text = record.read(SCHEMA) + record.read(STATISTICS)
            additions = Additions.from_json(record.read(ADDITIONS))
            provide_locales(cluster, additions.locales())
            apply_dump(text, owner, superuser, max_bytes=settings.max_schema_bytes)
            apply_additions(additions, owner, superuser, max_bytes=settings.max_schema_bytes)
        built = finish(cluster, database, owner, superuser, origin, shape)
    for name, text in built.files.items():
        write_file(record.folder / name, text)
    return Template(database, built.build, shape is not None, record.settings)


def drop_template(cluster: Cluster, database: str) -> None:
    """Drop a template and those of its copies that nobody uses.

    Errors: `ShadowUnavailableError`.
    """
    drop_copies(cluster, database)
    drop_database(cluster, database)


def without_rows(script: Script) -> str:
    """A schema file's DDL alone: what ran of it, less its rows and statistics."""
    lines = [
        f"{e.source};"
        if e.source
        else f"CREATE EXTENSION IF NOT EXISTS {_quoted(e.name)}{f' SCHEMA {_quoted(e.schema)}' if e.schema else ''};"
        for e in script.extensions
    ]
    lines += [
        f"{item.sql};"
        for item in script.items
        if not isinstance(item, CopyRows) and item.kind not in _ROWS and not item.kind.startswith("SELECT ")
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Built:
    """A finished template."""

    build: str
    settings: Mapping[str, str]
    notes: tuple[str, ...]
    files: Mapping[str, str]


def finish(
    cluster: Cluster,
    database: str,
    owner: psycopg.Connection[Any],
    superuser: psycopg.Connection[Any],
    origin: Origin,
    shape: Shape | None,
    before: Laid | None = None,
) -> Built:
    """Bind the shape, open the template for reading, and mark it complete.

    Parameters:
        before: the laid-out files of the template that this one was copied from, if so.
    """
    owner.execute("RESET ALL")
    owner.execute("SET search_path = pg_catalog")
    layout = bind_shape(cluster, owner, shape) if shape is not None else None
    grant_reading(superuser, database)
    settings, notes = carried_settings(origin.settings, origin.search_path, superuser)
    notes = (*locale_notes(origin.locale, read_locale(superuser)), *notes, *(layout.notes if layout else ()))
    if layout is not None:
        set_aside(cluster, superuser, layout, before)
    build = secrets.token_hex(8)
    mark(superuser, database, {"build": build, "hollow": layout is not None})
    return Built(build, settings, notes, {LAYOUT: layout.to_json()} if layout is not None else {})


def _apply_files(
    record: ShadowRecord,
    owner: psycopg.Connection[Any],
    superuser: psycopg.Connection[Any],
    settings: Settings,
    *,
    analyze: bool,
) -> None:
    """Run a shadow's own files once more; they ran before."""
    limit = settings.max_schema_bytes
    script = read_script(record.read(SCRIPT), max_bytes=limit)
    run_script(script, owner, superuser, timeout_s=patience_s(SCRIPT_TIMEOUT_S))
    if analyze:
        _analyze(owner)
    run_script(
        read_script(record.read(STATISTICS), max_bytes=limit), owner, superuser, timeout_s=patience_s(SCRIPT_TIMEOUT_S)
    )


@contextmanager
def _bounded(cluster: Cluster, owner: psycopg.Connection[Any], settings: Settings) -> Iterator[float]:
    """Bound what the owner of a template does; gives the seconds for one script."""
    limit_s = patience_s(SCRIPT_TIMEOUT_S)
    with bounded(cluster, owner, timeout_s=limit_s + GRACE_S, max_bytes=settings.max_schema_disk_bytes):
        yield limit_s


def _analyze(owner: psycopg.Connection[Any]) -> None:
    """Gather statistics of a script's rows, for which functions of the script's run.

    Errors: `SqlError` when one of them fails.
    """
    try:
        owner.execute("VACUUM (ANALYZE)")
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        raise SqlError(f"the schema's rows cannot be analyzed: {reason(error)}") from error


def _has_rows(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'm') AND n.nspname OPERATOR(pg_catalog.!~) '^pg_'"
        " AND n.nspname <> 'information_schema'"
        " AND pg_catalog.pg_relation_size(c.oid) > 0)"
    ).fetchone()
    return row is not None and bool(row[0])


@contextmanager
def undone_on_error(cluster: Cluster, database: str) -> Iterator[None]:
    """Drop the half-made template if the block fails, and turn what psycopg raises for our own statements into ours."""
    try:
        yield
    except BaseException as error:
        # Whatever fails while cleaning up must not hide why.
        with suppress(PlanproofError):
            drop_database(cluster, database)
        if isinstance(error, psycopg.Error):
            message = f"the embedded server failed while making the shadow: {reason(error)}"
            raise ShadowUnavailableError(message) from error
        raise


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()
