"""Who may ask: API keys, host names, and what browsers are told."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from http_server import eventually, problem, serving
from pydantic import SecretStr

from api.access import Access, is_loopback
from api.app import create_app
from api.headers import proper_request_id
from optimizer.errors import InputError
from optimizer.services import Services
from optimizer.settings import Settings

FIRST, SECOND = "first-key-0123456789", "second-key-0123456789"


@pytest.fixture(scope="module")
def app(settings: Settings) -> Iterator[FastAPI]:
    keys = (SecretStr(FIRST), SecretStr(SECOND))
    changes = {"api_keys": keys, "allowed_hosts": ("planproof.example.org", "*.internal.example")}
    with Services.open(settings.model_copy(update=changes)) as services:
        yield create_app(services, hosts=("box.example.org",))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[httpx.Client]:
    with serving(app, server_header=False) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {FIRST}"},
        {"Authorization": f"bearer  {SECOND}"},
        {"X-API-Key": SECOND},
        {"Authorization": "Basic xyz", "X-API-Key": FIRST},
    ],
)
def test_each_key_opens(client: httpx.Client, headers: dict[str, str]) -> None:
    assert client.get("/v1/rules", headers=headers).status_code == 200
    assert client.get("/metrics", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": FIRST},
        {"Authorization": f"Basic {FIRST}"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {FIRST}x"},
        {"Authorization": f"Bearer {FIRST[:-1]}"},
        {"X-API-Key": ""},
        {"X-API-Key": FIRST.upper()},
        {"X-API-Key": "\xe9" * 20},
        {"Cookie": f"key={FIRST}"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/rules", "/metrics", "/v1/shadows", "/v1/nothing", "/docsx"])
def test_without_a_key_there_is_401(client: httpx.Client, path: str, headers: dict[str, str]) -> None:
    response = client.get(path, headers=[(name.encode(), value.encode("latin-1")) for name, value in headers.items()])
    assert "send a key" in problem(response, 401)
    assert response.headers["www-authenticate"] == 'Bearer realm="planproof"'
    assert FIRST not in response.text


def test_a_key_in_the_address_is_no_key(client: httpx.Client) -> None:
    problem(client.get("/v1/rules", params={"api_key": FIRST, "x-api-key": FIRST}), 401)


def test_health_and_documentation_need_no_key(client: httpx.Client) -> None:
    for path in ("/healthz", "/openapi.json", "/docs"):
        assert client.get(path).status_code == 200
    eventually(lambda: client.get("/readyz").status_code == 200)
    assert client.get("/").status_code == 307


def test_the_document_names_the_keys_only_where_there_are_any(client: httpx.Client, settings: Settings) -> None:
    document = client.get("/openapi.json").json()
    assert document["security"] == [{"bearer": []}, {"header": []}]
    assert "401" in document["paths"]["/v1/optimize"]["post"]["responses"]
    assert document["paths"]["/healthz"]["get"]["security"] == []
    with Services.open(settings) as services:
        document = create_app(services).openapi()
    assert "security" not in document
    assert "401" not in document["paths"]["/v1/optimize"]["post"]["responses"]


@pytest.mark.parametrize("key", ["s3cret", "x" * 15, "with a space in the middle", "not-ascii-\xe9-0123456789", ""])
def test_weak_keys_are_refused(key: str) -> None:
    with pytest.raises(InputError, match="key 2 in PLANPROOF_API_KEYS") as caught:
        Access.of((SecretStr(FIRST), SecretStr(key)), ())
    assert not key or key not in str(caught.value)


def test_the_number_of_the_key_is_known() -> None:
    access = Access.of((SecretStr(FIRST), SecretStr(SECOND)), ())
    assert [access.key_number([key]) for key in (FIRST, SECOND, "", "x")] == [1, 2, None, None]


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8432",
        "app.localhost",
        "127.0.0.1:1",
        "127.8.9.1",
        "[::1]:8432",
        "[::1]",
        "10.1.2.3",  # in digits: nothing that can be rebound
        "planproof.example.org",
        "planproof.example.org.:80",
        "a.b.internal.example",
        "box.example.org",
    ],
)
def test_its_own_names_are_answered(client: httpx.Client, host: str) -> None:
    assert client.get("/v1/rules", headers={"Host": host, "X-API-Key": FIRST}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example:8432",
        "planproof.example.org.evil.example",
        "xplanproof.example.org",
        "internal.example",
        "evilinternal.example",
        "localhost:80:80",
        "localhost:x",
        "[::1",
        "[::1]x",
        "user@localhost",
        "2130706433",
        "",
    ],
)
def test_other_names_are_not(client: httpx.Client, host: str) -> None:
    for path in ("/v1/rules", "/openapi.json", "/docs"):
        response = client.get(path, headers={"Host": host, "X-API-Key": FIRST})
        assert "PLANPROOF_ALLOWED_HOSTS" in problem(response, 421)
    # Probes ask by whatever name they know, and learn nothing.
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


def test_every_name_can_be_allowed() -> None:
    assert Access.of((), ("*",)).answers_to("anything.example")


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("db", False)],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_browsers_are_told_to_be_careful(client: httpx.Client) -> None:
    key = {"X-API-Key": FIRST, "Origin": "https://evil.example"}
    for response in (
        client.get("/v1/rules", headers=key),
        client.get("/v1/nothing", headers=key),
        client.get("/v1/rules"),
        client.get("/healthz"),
        client.post("/v1/optimize", json={}, headers=key),
    ):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        assert response.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert not [name for name in response.headers if name.startswith("access-control")]
        assert "server" not in response.headers


def test_a_page_of_another_site_cannot_send_json_without_asking(client: httpx.Client) -> None:
    """Only these content types pass without a preflight request, which nobody answers."""
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        headers = {"X-API-Key": FIRST, "Content-Type": content_type}
        response = client.post("/v1/optimize", content=b'{"sql": "SELECT 1"}', headers=headers)
        assert response.status_code in (415, 422), content_type
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST", "X-API-Key": FIRST}
    problem(client.options("/v1/optimize", headers=preflight), 405)


@pytest.mark.parametrize("text", ["", "a b", "x" * 129, "a\nb", "a\x1b[31m", '"', "\xe9"])
def test_ids_that_could_harm_a_log_are_not_taken(text: str) -> None:
    assert not proper_request_id(text)


def test_request_ids_come_back(client: httpx.Client) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": "trace-1.2:3"}).headers["x-request-id"] == "trace-1.2:3"
    for given in ({}, {"X-Request-ID": "a b"}, {"X-Request-ID": "x" * 500}):
        made = client.get("/healthz", headers=given).headers["x-request-id"]
        assert len(made) == 32
        assert int(made, 16)
