"""`planproof shadow`: the databases that queries are planned on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.commands.options import AsJson, opened
from api.input import read_file
from api.settings import read_settings
from api.terminal import emit, emit_json, progress
from api.views import readable_records, record_view, shadow_view
from optimizer.services import Services
from optimizer.shadow.registry import Registry
from plugins.renderers.words import number, size, visible

shadow = typer.Typer(
    help="Make, list and drop shadows: the databases that queries are planned on.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

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
            "--stats", metavar="FILE.sql", help="Statistics for --schema, as pg_dump writes them.", show_default=False
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
    as_json: AsJson = False,
) -> None:
    """Make a shadow, in exactly one of three ways: --from, --schema or --attach.

    A hollow clone holds statistics, and statistics hold sample values of columns: treat it as you treat a sample.
    """
    if sum(given is not None for given in (source, schema, attach)) != 1:
        raise typer.BadParameter("give exactly one of --from, --schema and --attach")
    if stats is not None and schema is None:
        raise typer.BadParameter("--stats goes with --schema")
    settings = read_settings()
    schema_text = None if schema is None else read_file(schema, settings.max_schema_bytes)
    stats_text = None if stats is None else read_file(stats, settings.max_schema_bytes)
    with progress(f"making the shadow {name}") as show, opened(settings) as optimizer:
        services = optimizer.services
        if source is not None:
            services.add_hollow(name, source, progress=show)
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
def refresh(name: Name, as_json: AsJson = False) -> None:
    """Read schema and statistics from the source again."""
    with progress(f"refreshing the shadow {name}") as show, opened(read_settings()) as optimizer:
        optimizer.services.refresh(name, progress=show)
        _show(optimizer.services, name, as_json)


@shadow.command()
def drop(name: Name) -> None:
    """Forget a shadow and delete what planproof keeps of it; its source is not touched."""
    with opened(read_settings()) as optimizer:
        optimizer.services.drop(name)
    emit(f"dropped the shadow {name}")


def _show(services: Services, name: str, as_json: bool) -> None:
    view = shadow_view(services.registry.get(name), services.shadow(name))
    if as_json:
        emit_json(view)
        return
    lines = [
        f"{view['name']}: {view['kind']}, planned by PostgreSQL {view['server_version']}",
        f"from {view['origin']}, {view['created']}, revision {view['revision']}",
        *(f"not cloned: {line}" for line in view["not_cloned"]),
    ]
    width = max((len(table["name"]) for table in view["tables"]), default=0)
    for table in view["tables"]:
        rows = "not analyzed" if table["rows"] is None else f"{number(table['rows'])} rows"
        lines.append(f"  {table['name']:<{width}}  {rows:>20}  {size(table['bytes']):>10}  {table['indexes']} indexes")
    emit(visible("\n".join(lines)))
