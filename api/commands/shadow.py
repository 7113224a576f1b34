"""`planproof shadow`: the databases that queries are planned on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.commands.options import AsJson, opened
from api.commands.shadow_options import OnlyReadable, Redact, Role
from api.input import read_file
from api.settings import read_settings
from api.terminal import emit, emit_json, progress
from api.views import readable_records, record_view, shadow_view
from optimizer.errors import InputError
from optimizer.services import Services
from optimizer.shadow.registry import Registry
from optimizer.shadow.source.connection import connected
from optimizer.shadow.source.dump_script import dump_script
from optimizer.shadow.source.privileges import read_rights
from optimizer.shadow.template.clone_options import CloneOptions
from plugins.renderers.words import number, size, visible

shadow = typer.Typer(
    help="Make, list and drop shadows: the databases that queries are planned on.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_VALUES = ("holds sample values of columns, as statistics do; --redact-statistics leaves them out",)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name: a-z, 0-9, _ and -.")]


@shadow.command()
def add(
    name: Name,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DSN",
            help="Hollow clone of this database: its schema and statistics, none of its rows. A libpq connection "
            "string or URI; the password may come from PGPASSWORD or ~/.pgpass.",
            show_default=False,
        ),
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option("--schema", metavar="FILE.sql", help="From DDL, with rows where it has them.", show_default=False),
    ] = None,
    stats: Annotated[
        Path | None,
        typer.Option(
            "--stats",
            metavar="FILE.sql",
            help="Statistics for --schema, as pg_dump or the command of `planproof shadow script` writes them.",
            show_default=False,
        ),
    ] = None,
    attach: Annotated[
        str | None,
        typer.Option(
            "--attach",
            metavar="DSN",
            help="Plan in this database itself; it must not be production.",
            show_default=False,
        ),
    ] = None,
    redact: Redact = None,
    only_readable: OnlyReadable = None,
    role: Role = None,
    as_json: AsJson = False,
) -> None:
    """Make a shadow, in exactly one of three ways: --from, --schema or --attach.

    A hollow clone holds statistics, and statistics hold sample values of columns: treat it as you treat a sample, or
    leave them out with --redact-statistics.
    """
    if sum(given is not None for given in (source, schema, attach)) != 1:
        raise typer.BadParameter("give exactly one of --from, --schema and --attach")
    if stats is not None and schema is None:
        raise typer.BadParameter("--stats goes with --schema")
    if source is None and (redact or only_readable is not None or role is not None):
        raise typer.BadParameter("--redact-statistics, --only-readable and --role go with --from")
    options = CloneOptions().changed(redact_statistics=redact, only_readable=only_readable, role=role)
    settings = read_settings()
    schema_text = None if schema is None else read_file(schema, settings.max_schema_bytes)
    stats_text = None if stats is None else read_file(stats, settings.max_schema_bytes)
    with progress(f"making the shadow {name}") as show, opened(settings) as optimizer:
        services = optimizer.services
        if source is not None:
            services.add_hollow(name, source, progress=show, options=options)
        elif attach is not None:
            services.add_attached(name, attach)
        elif schema_text is not None:
            services.add_files(name, schema_text, stats_text, origin=str(schema))
        _show(services, name, as_json)


@shadow.command("list")
def list_(as_json: AsJson = False) -> None:
    """List all shadows."""
    records = readable_records(Registry(read_settings().shadows))
    if as_json:
        emit_json([record_view(record) for record in records])
    elif records:
        width = max(len(record.name) for record in records)
        emit("\n".join(f"{r.name:<{width}}  {r.kind:<8}  {r.created}  {visible(r.origin)}" for r in records))
    else:
        emit("no shadows yet: make one with `planproof shadow add NAME --from DSN`")


@shadow.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show one shadow: where it comes from, what could not be carried over, its tables."""
    with progress("opening the shadow"), opened(read_settings()) as optimizer:
        _show(optimizer.services, name, as_json)


@shadow.command()
def refresh(
    name: Name,
    redact: Redact = None,
    only_readable: OnlyReadable = None,
    role: Role = None,
    as_json: AsJson = False,
) -> None:
    """Read schema and statistics from the source again, as before or, from now on, as the options say."""
    with progress(f"refreshing the shadow {name}") as show, opened(read_settings()) as optimizer:
        before = optimizer.services.registry.get(name)
        options = before.options.changed(redact_statistics=redact, only_readable=only_readable, role=role)
        if options != before.options and before.kind != "hollow":
            raise InputError(f"the shadow {name!r} is no hollow clone: these options do not go with it")
        after = optimizer.services.refresh(name, progress=show, options=options)
        if after.kind == "hollow" and not as_json:
            emit(f"{name}: {after.changes if after.revision != before.revision else 'nothing has changed'}")
        _show(optimizer.services, name, as_json)


@shadow.command()
def grants(
    source: Annotated[str, typer.Option("--from", metavar="DSN", help="The database to be cloned.")],
) -> None:
    """Print, as SQL, what the role of a connection lacks for a hollow clone; nothing when it lacks nothing.

    What no grant gives is printed as a comment.
    """
    with connected(source) as connection:
        connection.execute("SET search_path = pg_catalog")
        rights = read_rights(connection)
    lines = [*rights.grants(), *(f"-- {line}" for line in rights.blind_spots())]
    if lines:
        emit(visible("\n".join(lines)))


@shadow.command()
def drop(name: Name) -> None:
    """Forget a shadow and delete what planproof keeps of it; its source is not touched."""
    with opened(read_settings()) as optimizer:
        optimizer.services.drop(name)
    emit(f"dropped the shadow {name}")


@shadow.command()
def script(redact: Redact = None, role: Role = None) -> None:
    """Print one command for bash that writes, at production, the files to make a shadow from: no connection is needed.

    It needs psql and pg_dump there, and says what it does. Read schema.sql and stats.sql, carry them over, and make the
    shadow with --schema schema.sql --stats stats.sql.
    """
    options = CloneOptions().changed(redact_statistics=redact, role=role)
    emit(dump_script(options.redact_statistics, options.role).rstrip("\n"))


def _show(services: Services, name: str, as_json: bool) -> None:
    view = shadow_view(services.registry.get(name), services.shadow(name))
    if as_json:
        emit_json(view)
        return
    lines = [
        f"{view['name']}: {view['kind']}, {view['planned_by']}",
        f"from {view['origin']}, {view['created']}, revision {view['revision']}",
        *(f"not cloned: {line}" for line in view["not_cloned"]),
        *(f"setting: {setting} = {value}" for setting, value in sorted(view["settings"].items())),
        *(_VALUES if view["kind"] == "hollow" and not view["redact_statistics"] else ()),
    ]
    width = max((len(table["name"]) for table in view["tables"]), default=0)
    for table in view["tables"]:
        rows = "not analyzed" if table["rows"] is None else f"{number(table['rows'])} rows"
        lines.append(f"  {table['name']:<{width}}  {rows:>20}  {size(table['bytes']):>10}  {table['indexes']} indexes")
    emit(visible("\n".join(lines)))
