"""The catalog as JSON, so that a shadow knows its source as it was when it was cloned."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from optimizer.catalog import Catalog, Function, Table
from optimizer.errors import InputError


@dataclass(frozen=True, slots=True)
class _File:
    """The catalog with its mappings as lists: JSON has no tuple keys."""

    tables: list[Table]
    functions: list[tuple[str, str, Function]]
    search_path: tuple[str, ...]
    server_version_num: int
    time_zone: str


_FILE = TypeAdapter(_File)


def catalog_to_json(catalog: Catalog) -> str:
    """Return the JSON form, which `catalog_from_json` reads."""
    return _FILE.dump_json(
        _File(
            tables=list(catalog.tables.values()),
            functions=[(schema, name, function) for (schema, name), function in catalog.functions.items()],
            search_path=tuple(catalog.search_path),
            server_version_num=catalog.server_version_num,
            time_zone=catalog.time_zone,
        )
    ).decode()


def catalog_from_json(text: str) -> Catalog:
    """Read what `catalog_to_json` wrote.

    Errors: `InputError` when it is damaged.
    """
    try:
        file = _FILE.validate_json(text)
    except ValidationError as error:
        # The cause would list every value that is wrong.
        raise InputError(f"the shadow's catalog is damaged ({error.errors()[0]['msg']}): refresh the shadow") from None
    return Catalog(
        tables={(table.schema, table.name): table for table in file.tables},
        functions={(schema, name): function for schema, name, function in file.functions},
        search_path=file.search_path,
        server_version_num=file.server_version_num,
        time_zone=file.time_zone,
    )
