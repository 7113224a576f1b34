"""The OpenAPI document: what the framework cannot know of examples, keys and problems."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from api.examples import PROBLEMS, REQUESTS, RESPONSES
from api.problems import MEDIA_TYPE
from api.routes.common import problems
from api.schemas import ProblemModel

DESCRIPTION = """\
Proven advice for slow PostgreSQL queries. Every candidate is planned on a shadow database and compared with the
original; every rewrite is checked to return the same rows.

Times are milliseconds, sizes bytes, costs PostgreSQL planner units. Errors are problem details (RFC 9457). A request's
id is taken from the header `X-Request-ID`, or made up, and is a header of every answer.
"""
TAGS = [
    {"name": "queries", "description": "One query: advice, equivalence, plan"},
    {"name": "shadows", "description": "Databases that plan as production does"},
    {"name": "jobs", "description": "Long work in the background"},
    {"name": "service", "description": "Rules, health, figures"},
]
_METHODS = frozenset({"get", "put", "post", "delete", "patch"})
_PROBES = frozenset({"/healthz", "/readyz"})
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key of the setting PLANPROOF_API_KEYS"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same, in a header"},
}


def operation_id(route: APIRoute) -> str:
    """Name an operation by its first tag and its function: `shadows_show`, `shadows_list`."""
    if not route.tags:
        return route.name
    tag = str(route.tags[0])
    plain = {tag: "list", tag.removesuffix("s"): "show"}
    return f"{tag}_{plain.get(route.name, route.name)}"


def install(app: FastAPI, *, keys: bool) -> None:
    """Have the application describe itself completely.

    Parameters:
        app: with all its routes.
        keys: whether requests need one.
    """

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                tags=app.openapi_tags,
                routes=app.routes,
                separate_input_output_schemas=False,
            )
            app.openapi_schema = _completed(made, keys)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _completed(document: dict[str, Any], keys: bool) -> dict[str, Any]:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["ProblemModel"] = ProblemModel.model_json_schema(ref_template="#/components/schemas/{model}")
    if keys:
        document["components"]["securitySchemes"] = _KEYS
        document["security"] = [{name: []} for name in _KEYS]
    for path, method, operation in _operations(document):
        _add_problems(path, operation, keys)
        _add_examples(f"{method.upper()} {path}", operation)
    return document


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in _METHODS:
                yield path, method, operation


def _add_problems(path: str, operation: dict[str, Any], keys: bool) -> None:
    """The problems that do not depend on the route: those of the middleware, and of reading the request."""
    responses = operation["responses"]
    if "application/json" in responses.get("422", {}).get("content", {}):
        responses["422"] = problems(422)[422]  # in place of the framework's own
    general = [500]
    if path in _PROBES:
        operation["security"] = []
    else:
        general += [421, 401] if keys else [421]
    if "requestBody" in operation:
        general += [400, 408, 413, 415, 422, 503]
    for status, description in problems(*general).items():
        responses.setdefault(str(status), description)
    operation["responses"] = dict(sorted(responses.items()))


def _add_examples(operation_name: str, operation: dict[str, Any]) -> None:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body is not None and operation_name in REQUESTS:
        body["examples"] = REQUESTS[operation_name]
    for status, response in operation["responses"].items():
        for media_type, content in response.get("content", {}).items():
            if media_type == MEDIA_TYPE:
                content["example"] = PROBLEMS[int(status)]
            elif operation_name in RESPONSES:
                content["example"] = RESPONSES[operation_name]
