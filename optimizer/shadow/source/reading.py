"""Reads a source: everything that a hollow shadow is made of, in one go, and nothing is made yet."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace

from optimizer.catalog import Catalog
from optimizer.errors import InputError
from optimizer.shadow.pages.shape import Shape
from optimizer.shadow.server.binaries import bundled_binaries
from optimizer.shadow.source.additions import Additions, read_additions
from optimizer.shadow.source.connection import connected, dump
from optimizer.shadow.source.dump_order import Place, read_ranks
from optimizer.shadow.source.inherent_limits import read_limits
from optimizer.shadow.source.introspect import read_catalog
from optimizer.shadow.source.locale import Locale, read_locale
from optimizer.shadow.source.page_costs import read_page_costs
from optimizer.shadow.source.planner_settings import read_settings
from optimizer.shadow.source.privileges import read_rights
from optimizer.shadow.source.range_statistics import read_range_statistics
from optimizer.shadow.source.redaction import read_redacted
from optimizer.shadow.source.role import named_role, search_path, session_settings
from optimizer.shadow.source.shape_reader import read_shape
from optimizer.shadow.source.statistics_sql import read_statistics
from optimizer.shadow.template.clone_options import CloneOptions

#: Told what is being done and which share of the whole is behind us, 0 to 1.
Progress = Callable[[str, float], None]
#: That of a database of which none is known.
DEFAULT_LOCALE = Locale("libc", "C.UTF-8", "C.UTF-8")


@dataclass(frozen=True, slots=True)
class Origin:
    """What a template needs to be made beside SQL.

    Parameters:
        locale: of the source.
        settings: the source's planner settings, all of them, by name.
        search_path: the source's schemas in order.
    """

    locale: Locale = DEFAULT_LOCALE
    settings: Mapping[str, str] = field(default_factory=dict)
    search_path: tuple[str, ...] = ("public",)

    def to_json(self) -> str:
        """Return the JSON form, which `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Origin:
        """Read what `to_json` wrote.

        Errors: `InputError` when it is damaged.
        """
        try:
            raw = json.loads(text)
            return cls(Locale(**raw["locale"]), raw["settings"], tuple(raw["search_path"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError("the shadow's origin is damaged: refresh the shadow") from error


@dataclass(frozen=True, slots=True)
class Reading:
    """What a source told.

    Parameters:
        text: SQL for schema and statistics, as pg_dump prints it.
        catalog, origin, additions, shape: see their classes.
        ranks: the order in which the source made what decides between equal plans.
        notes: what could not be read, with its effect.
        version: of the source's server.
    """

    text: str
    catalog: Catalog
    origin: Origin
    additions: Additions
    shape: Shape
    ranks: Mapping[Place, int]
    notes: tuple[str, ...]
    version: str


def read_source(dsn: str, options: CloneOptions, progress: Progress) -> Reading:
    """Read a source; its rows stay where they are.

    Statistics hold values of the source all the same: common ones, bounds of histograms, and the ends of indexes.

    Parameters:
        dsn: the source.
        options: how to clone it.

    Errors: `InputError`, `ShadowUnavailableError`.
    """
    progress("connecting", 0.0)
    with connected(dsn) as source:
        progress("reading the catalog", 0.02)
        # First: when a library is loaded inside a transaction, its settings are the library's own after that one.
        with source.transaction():
            source.execute("SET LOCAL search_path = pg_catalog")
            own = read_settings(source)
        catalog = read_catalog(source)
        # The path is known now; what comes is read past any operator or function of the source's own.
        source.execute("SET search_path = pg_catalog")
        role = named_role(source, options.role)
        catalog = replace(catalog, search_path=search_path(source, role, catalog.search_path))
        rights = read_rights(source)
        if not options.only_readable:
            rights.check()
        refused = {table.place for table in rights.refused}
        redacted = read_redacted(source, options.redact_statistics)
        readable = replace(catalog, tables={p: t for p, t in catalog.tables.items() if p not in refused})
        catalog = redacted.catalog(readable)
        planner = session_settings(source, role, own)
        costs = read_page_costs(source, planner)
        planner |= costs.settings
        origin = Origin(read_locale(source), planner, tuple(catalog.search_path))
        additions = read_additions(source, role, catalog.tables, planner)
        additions = replace(additions, extended=redacted.extended(additions.extended))
        notes = (*costs.notes, *additions.notes, *rights.notes(), *redacted.notes)
        progress("reading sizes and index heights", 0.1)
        shape = read_shape(source, without_ends=redacted.indexes)
        progress("dumping schema and statistics", 0.2)
        words = options.redact_statistics
        text = dump(bundled_binaries(), source, statistics=not words, without=refused) + additions.schema()
        # pg_dump knows no redaction: then the source itself prints its statistics, less what is redacted.
        text += read_statistics(source, words) if words else ""
        ranges, unread = read_range_statistics(source, redacting=bool(words))
        text += ranges
        notes += (*unread, *read_limits(source))
        ranks = read_ranks(source)
        version = source.info.parameter_status("server_version") or ""
    return Reading(text, catalog, origin, additions, shape, ranks, notes, version)
