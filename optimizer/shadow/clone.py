"""Makes the databases behind shadows in the embedded server, and makes them again when they are lost.

`clone_source` and `read_files` make a template and return what the registry is to keep of it (`Cloned`);
`find_template` and `remake_template` return what planning databases are copied from (`Template`).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from optimizer.clock import patience_s
from optimizer.ddl import CopyRows, Script, read_script
from optimizer.errors import InputError, PlanproofError, ShadowUnavailableError, SqlError
from optimizer.settings import Settings
from optimizer.shadow.bounds import GRACE_S, bounded
from optimizer.shadow.catalog_file import catalog_to_json
from optimizer.shadow.cluster import Cluster
from optimizer.shadow.introspect import read_catalog
from optimizer.shadow.locale import Locale, locale_notes, read_locale
from optimizer.shadow.planner_settings import carried_settings, read_settings
from optimizer.shadow.pool import Template, drop_copies
from optimizer.shadow.registry import ShadowRecord, write_file
from optimizer.shadow.restore import apply_dump, run_script
from optimizer.shadow.shape import Shape
from optimizer.shadow.shape_reader import read_shape
from optimizer.shadow.source import connected, dump
from optimizer.shadow.statistics_shape import shape_from_statistics
from optimizer.shadow.storage import Layout, bind_shape
from optimizer.shadow.template import (
    drop_database,
    grant_reading,
    mark,
    new_template,
    reason,
    template_facts,
)

#: Told what is being done and which share of the whole is behind us, 0 to 1.
Progress = Callable[[str, float], None]

SCHEMA, SCRIPT, STATISTICS, CATALOG, SHAPE, ORIGIN = (
    "schema.sql",
    "script.sql",
    "statistics.sql",
    "catalog.json",
    "shape.json",
    "origin.json",
)
#: Seconds for the statements of a schema file.
SCRIPT_TIMEOUT_S = 600.0
_DEFAULT_LOCALE = Locale("libc", "C.UTF-8", "C.UTF-8")
_ROWS = frozenset({"INSERT", "ANALYZE"})
_EXTENDED_STATISTICS = """
    SELECT count(*) FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"""
_ROW_SECURITY = "SELECT count(*) FROM pg_class WHERE relrowsecurity AND relkind IN ('r', 'p')"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a template needs to be made beside SQL.

    Parameters:
        locale: of the source.
        settings: the source's planner settings, all of them, by name.
        search_path: the source's schemas in order.
    """

    locale: Locale = _DEFAULT_LOCALE
    settings: Mapping[str, str] = field(default_factory=dict)
    search_path: tuple[str, ...] = ("public",)


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


def clone_source(cluster: Cluster, database: str, dsn: str, settings: Settings, progress: Progress) -> Cloned:
    """Read a source and make a template of its schema, statistics and shape; its rows stay where they are.

    Statistics hold values of the source all the same: common ones, bounds of histograms, and the ends of indexes.

    Parameters:
        cluster: the hollow cluster.
        database: name for the template.
        dsn: the source.

    Errors: `InputError`, `ShadowUnavailableError`.
    """
    progress("connecting", 0.0)
    with connected(dsn) as source:
        progress("reading the catalog", 0.02)
        catalog = read_catalog(source)
        # The path is known now; what comes is read past any operator or function of the source's own.
        source.execute("SET search_path = pg_catalog")
        origin = Origin(read_locale(source), read_settings(source), tuple(catalog.search_path))
        notes = _source_notes(source)
        progress("reading sizes and index heights", 0.1)
        shape = read_shape(source)
        progress("dumping schema and statistics", 0.2)
        text = dump(cluster.binaries, source, statistics=True)
        version = source.info.parameter_status("server_version") or ""
    progress("restoring schema and statistics", 0.4)
    limit = settings.max_schema_bytes
    with _undone_on_error(cluster, database), new_template(cluster, database, origin.locale) as (owner, superuser):
        applied = apply_dump(
            text,
            owner,
            superuser,
            max_bytes=limit,
            progress=lambda share: progress("restoring schema and statistics", 0.4 + 0.5 * share),
        )
        progress("laying out relations", 0.92)
        built = _finish(cluster, database, owner, superuser, origin, shape)
    planner = cluster.binaries.version
    if not version.startswith(planner.split(".")[0] + "."):
        notes += (f"version: the source is PostgreSQL {version}, and plans are made by {planner}",)
    files = {SCHEMA: applied.schema, STATISTICS: applied.statistics, CATALOG: catalog_to_json(catalog)}
    files |= {SHAPE: shape.to_json(), ORIGIN: _origin_to_json(origin)} | built.files
    return Cloned(
        files, version.split(" ")[0], built.settings, tuple(dict.fromkeys((*notes, *applied.notes, *built.notes)))
    )


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
    with _undone_on_error(cluster, database), new_template(cluster, database, _DEFAULT_LOCALE) as (owner, superuser):
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
            built = _finish(cluster, database, owner, superuser, origin, shape)
        ((disk_bytes,),) = superuser.execute("SELECT pg_database_size(current_database())").fetchall()
    notes = [f"{kind}: {reason} (line {line})" for line, kind, reason in script.skipped]
    if not has_rows and not any(table.rows > 0 for table in catalog.tables.values()):
        notes.append("statistics: there are neither rows nor statistics, so plans are those of nearly empty tables")
    files = {SCHEMA: without_rows(script), SCRIPT: schema_text, STATISTICS: stats_text or ""}
    files |= {CATALOG: catalog_to_json(catalog), ORIGIN: _origin_to_json(origin)} | built.files
    if shape is not None:
        files[SHAPE] = shape.to_json()
    return Cloned(files, "", built.settings, tuple(dict.fromkeys((*notes, *built.notes))), disk_bytes)


def find_template(cluster: Cluster, record: ShadowRecord) -> Template | None:
    """Return what the copies of a shadow are made of; None when the cluster has lost it, or never finished it.

    Errors: `InputError` for damaged files, `ShadowUnavailableError`.
    """
    facts = template_facts(cluster, record.database)
    layout_file = _layout_file(str(facts.get("build")))
    if facts.get("layout") is False:
        return Template(record.database, facts["build"], None, record.settings)
    if facts and (record.folder / layout_file).is_file():
        layout = Layout.from_json(record.read(layout_file))
        return Template(record.database, facts["build"], layout, record.settings)
    return None


def remake_template(cluster: Cluster, record: ShadowRecord, settings: Settings) -> Template:
    """Make a template again from the registry's files. Hold the registry's lock on the shadow.

    Errors: as `find_template`.
    """
    origin = _origin_from_json(record.read(ORIGIN))
    shape = Shape.from_json(record.read(SHAPE)) if (record.folder / SHAPE).is_file() else None
    database = record.database
    with _undone_on_error(cluster, database), new_template(cluster, database, origin.locale) as (owner, superuser):
        if (record.folder / SCRIPT).is_file():
            with _bounded(cluster, owner, settings):
                _apply_files(record, owner, superuser, settings, analyze=shape is None)
        else:
            text = record.read(SCHEMA) + record.read(STATISTICS)
            apply_dump(text, owner, superuser, max_bytes=settings.max_schema_bytes)
        built = _finish(cluster, database, owner, superuser, origin, shape)
    for name, text in built.files.items():
        write_file(record.folder / name, text)
    return Template(database, built.build, built.layout, record.settings)


def drop_template(cluster: Cluster, database: str) -> None:
    """Drop a template and those of its copies that nobody uses.

    Errors: `ShadowUnavailableError`.
    """
    drop_copies(cluster, database)
    drop_database(cluster, database)


def without_rows(script: Script) -> str:
    """A schema file's DDL alone: what ran of it, less its rows and statistics."""
    lines = [
        f"CREATE EXTENSION IF NOT EXISTS {_quoted(e.name)}{f' SCHEMA {_quoted(e.schema)}' if e.schema else ''};"
        for e in script.extensions
    ]
    lines += [
        f"{item.sql};"
        for item in script.items
        if not isinstance(item, CopyRows) and item.kind not in _ROWS and not item.kind.startswith("SELECT ")
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class _Built:
    """A finished template."""

    build: str
    layout: Layout | None
    settings: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def files(self) -> dict[str, str]:
        return {_layout_file(self.build): self.layout.to_json()} if self.layout is not None else {}


def _finish(
    cluster: Cluster,
    database: str,
    owner: psycopg.Connection[Any],
    superuser: psycopg.Connection[Any],
    origin: Origin,
    shape: Shape | None,
) -> _Built:
    """Bind the shape, open the template for reading, and mark it complete."""
    owner.execute("RESET ALL")
    owner.execute("SET search_path = pg_catalog")
    layout = bind_shape(cluster, owner, shape) if shape is not None else None
    grant_reading(superuser, database)
    settings, notes = carried_settings(origin.settings, origin.search_path, superuser)
    notes = (*locale_notes(origin.locale, read_locale(superuser)), *notes, *(layout.notes if layout else ()))
    build = secrets.token_hex(8)
    mark(superuser, database, {"build": build, "layout": layout is not None})
    return _Built(build, layout, settings, notes)


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


def _source_notes(source: psycopg.Connection[Any]) -> tuple[str, ...]:
    """What is known from the start not to travel."""
    notes = []
    with source.cursor(row_factory=tuple_row) as cursor:
        ((extended,),) = cursor.execute(_EXTENDED_STATISTICS).fetchall()
        ((secured,),) = cursor.execute(_ROW_SECURITY).fetchall()
    if extended:
        notes.append(
            f"extended statistics: {extended} are defined here without their data: correlated columns are estimated "
            "as if they were independent"
        )
    if secured:
        notes.append(
            f"row-level security: {secured} tables have policies at the source: plans are those of a role that they do "
            "not apply to"
        )
    return tuple(notes)


@contextmanager
def _undone_on_error(cluster: Cluster, database: str) -> Iterator[None]:
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


def _layout_file(build: str) -> str:
    return f"layout-{build}.json"


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()


def _origin_to_json(origin: Origin) -> str:
    return json.dumps(asdict(origin))


def _origin_from_json(text: str) -> Origin:
    try:
        raw = json.loads(text)
        return Origin(Locale(**raw["locale"]), raw["settings"], tuple(raw["search_path"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("the shadow's origin is damaged: refresh the shadow") from error
