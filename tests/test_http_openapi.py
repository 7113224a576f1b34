"""The OpenAPI document and the page that shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema_rs
import pytest
from http_server import problem, serving

from api.app import create_app
from api.examples import PROBLEMS
from api.routes import page
from optimizer.services import Services
from optimizer.settings import Settings

METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[httpx.Client]:
    with Services.open(settings) as services, serving(create_app(services)) as client:
        yield client


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").raise_for_status().json()
    return found


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


def check(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    jsonschema_rs.Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def test_every_request_has_examples_that_fit(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        for content in operation.get("requestBody", {}).get("content", {}).values():
            assert content.get("examples"), name
            for example in content["examples"].values():
                check(document, content["schema"], example["value"])


def test_every_answer_has_an_example_that_fits(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        for status, response in operation["responses"].items():
            for content in response.get("content", {}).values():
                assert "example" in content, (name, status)
                check(document, content["schema"], content["example"])


def test_every_error_is_a_problem(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        assert {"500"} <= set(operation["responses"]), name
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert list(response["content"]) == ["application/problem+json"], (name, status)
                assert response["content"]["application/problem+json"]["example"]["status"] == int(status)
    assert {status: example["status"] for status, example in PROBLEMS.items()} == {s: s for s in PROBLEMS}


def test_operations_are_named_and_grouped(document: dict[str, Any]) -> None:
    found = operations(document)
    identifiers = [operation["operationId"] for operation in found.values()]
    assert len(set(identifiers)) == len(identifiers)
    assert all(re.fullmatch(r"[a-z]+_[a-z_]+", identifier) for identifier in identifiers)
    known = {tag["name"] for tag in document["tags"]}
    for name, operation in found.items():
        assert set(operation["tags"]) <= known, name
        assert operation["summary"], name
        assert operation["description"], name


def test_the_real_advice_fits_its_description(client: httpx.Client, document: dict[str, Any]) -> None:
    """The requests that the document offers work as written."""
    for path in ("/v1/optimize", "/v1/equivalence", "/v1/explain"):
        operation = document["paths"][path]["post"]
        for name, example in operation["requestBody"]["content"]["application/json"]["examples"].items():
            if "schema" not in example["value"]:
                continue
            answer = client.post(path, json=example["value"])
            assert answer.status_code == 200, (path, name, answer.text)
            check(document, operation["responses"]["200"]["content"]["application/json"]["schema"], answer.json())
    refuted = document["paths"]["/v1/equivalence"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert client.post("/v1/equivalence", json=refuted["refuted"]["value"]).json()["verdict"] == "refuted"


def test_the_page_loads_everything_from_here(client: httpx.Client) -> None:
    assert page.has_page()
    landed = client.get("/", follow_redirects=True)
    assert landed.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in landed.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', landed.text)
    assert len(loaded) == 4
    for address in loaded:
        assert not address.startswith(("http", "//"))
        part = client.get(httpx.URL(str(landed.url)).join(address))
        assert part.status_code == 200
        assert part.content
        assert part.headers["cache-control"].startswith("public")
    assert "<script>" not in landed.text  # its policy would not run it
    problem(client.get("/docs/nothing.js"), 404)
    problem(client.get("/docs/..%2f..%2fapp.py"), 404)


def test_methods_that_a_path_lacks_are_refused_with_those_it_has(client: httpx.Client) -> None:
    for path, methods in {
        "/v1/shadows": "GET, POST",
        "/v1/shadows/x": "DELETE, GET",
        "/v1/optimize": "POST",
        "/healthz": "GET",
        "/docs": "GET",
    }.items():
        response = client.request("PATCH", path)
        problem(response, 405)
        assert response.headers["allow"] == methods
