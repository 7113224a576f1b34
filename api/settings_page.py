"""The settings as a page of documentation, read off the classes that hold them."""

from __future__ import annotations

import inspect
import json
import pkgutil
import types
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

import plugins
from optimizer.settings import Settings

_INTRODUCTION = """\
# Settings

Every setting is an environment variable. Lists are written as JSON (`["a", "b"]`), times are milliseconds and sizes
bytes unless a name says otherwise. A file of the same name in `/run/secrets` (containers) or `$CREDENTIALS_DIRECTORY`
(systemd), such as `/run/secrets/planproof_redis_url`, gives a setting too; the environment wins. A setting that is
wrong ends the command with its name.

Beside these, `PLANPROOF_DEBUG=1` prints the traceback of a defect, and tracing heeds OpenTelemetry's own `OTEL_...`.

This page is generated from the settings' classes.
"""
_WORDS: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    Path: "path",
    SecretStr: "text, secret",
}
_SIGNS = {Gt: "gt", Ge: "ge", Lt: "lt", Le: "le"}
_SHOWN = {Gt: "> ", Ge: "at least ", Lt: "< ", Le: "at most "}


def settings_classes() -> list[type[BaseSettings]]:
    """Return the classes of settings: the core's, then those in the plugins' modules named `settings`, by name."""
    found: list[type[BaseSettings]] = [Settings]
    for module in pkgutil.walk_packages(plugins.__path__, "plugins."):
        if module.name.rpartition(".")[2] == "settings":
            members = vars(import_module(module.name)).values()
            found += [
                member
                for member in members
                if inspect.isclass(member) and issubclass(member, BaseSettings) and member.__module__ == module.name
            ]
    return found


def variables(settings: type[BaseSettings]) -> dict[str, FieldInfo]:
    """Return a class's fields by the environment variables that they are read from."""
    prefix = settings.model_config.get("env_prefix", "")
    return {f"{prefix}{name}".upper(): field for name, field in settings.model_fields.items()}


def settings_page() -> str:
    """The reference of all settings as Markdown."""
    return "\n".join((_INTRODUCTION, *(line for settings in settings_classes() for line in _section(settings))))


def _section(settings: type[BaseSettings]) -> Iterator[str]:
    prefix = settings.model_config.get("env_prefix", "")
    yield f"## `{prefix}`...\n\n{inspect.getdoc(settings)}\n"
    yield "| variable | type | default | meaning |\n| --- | --- | --- | --- |"
    for name, field in variables(settings).items():
        yield f"| `{name}` | {_type(field)} | {_default(field)} | {field.description} |"
    yield ""


def _type(field: FieldInfo) -> str:
    bounds = [f"{_SHOWN[type(m)]}{getattr(m, _SIGNS[type(m)]):,}" for m in field.metadata if type(m) in _SIGNS]
    return ", ".join((_words(field.annotation), *bounds))


def _words(annotation: Any) -> str:
    """What a value must look like, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(one) for one in arguments if one is not type(None))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments[:-1]) + f" or `{arguments[-1]}`"
    if origin is tuple:
        return f"list of {_words(arguments[0])}"
    return _WORDS[annotation]


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        first = (inspect.getdoc(field.default_factory) or "").partition("\n")[0]
        return first.removeprefix("Return ").rstrip(".")
    if field.default is None or field.default is PydanticUndefined:
        return "none"
    value = field.default
    if isinstance(value, str):
        return f"`{value}`"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"
