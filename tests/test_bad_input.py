"""Bad input, over the command line and over HTTP: one clear error, the right status, and nothing broken afterwards."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from command_line import Outcome, planproof
from http_server import problem, serving

from api.app import create_app
from api.commands import application
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import ClusterKind, Supervisor

Run = Callable[..., Outcome]
SCHEMA = "CREATE TABLE books (id int PRIMARY KEY, title text NOT NULL); INSERT INTO books VALUES (1, 'x'), (2, 'y');"
GOOD = "SELECT title FROM books WHERE id = 1"

#: name: (query, words that the error must hold, HTTP status); the exit status is 3 for all.
QUERIES: dict[str, tuple[str, str, int]] = {
    "empty": ("", "the query is empty", 400),
    "whitespace": (" \t\r\n ", "the query is empty", 400),
    "only comments": ("-- nothing\n/* here */", "only comments", 400),
    "two megabytes": ("SELECT " + "1," * 1_000_000 + "1", "larger than 1,000,000 bytes", 413),
    "ten thousand parentheses": ("SELECT " + "(" * 10_000 + "1" + ")" * 10_000, "parentheses", 400),
    "a chain of twenty thousand": ("SELECT 1" + "+1" * 20_000, "", 400),
    "NUL byte": ("SELECT 1\0", "NUL byte", 400),
    "two statements": ("SELECT 1;\nSELECT 2", "2 statements where one is expected: send them one by one (line 2", 400),
    "a hidden second statement": ("SELECT 1; DROP TABLE books", "2 statements", 400),
    "CREATE TABLE": ("CREATE TABLE x (a int)", "give one SELECT, INSERT, UPDATE or DELETE", 400),
    "DROP TABLE": ("DROP TABLE books", "give one SELECT", 400),
    "COPY TO PROGRAM": ("COPY books TO PROGRAM 'id'", "give one SELECT", 400),
    "DO": ("DO $$ BEGIN END $$", "give one SELECT", 400),
    "EXPLAIN": ("EXPLAIN SELECT 1", "give one SELECT", 400),
    "SET": ("SET ROLE postgres", "give one SELECT", 400),
    "VACUUM": ("VACUUM books", "give one SELECT", 400),
    "syntax error": ("SELECT *\nFORM books", 'at or near "FORM"', 400),
    "unknown table": ("SELECT * FROM nowhere", '"nowhere" does not exist', 400),
    "unknown column": ("SELECT nothing FROM books", '"nothing" does not exist', 400),
    "unknown function": ("SELECT nonsense(id) FROM books", "nonsense(integer) does not exist", 400),
    "division by a constant zero": ("SELECT * FROM books WHERE id = 1 / 0", "division by zero", 400),
    "psycopg parameter": ("SELECT * FROM books WHERE id = %s", "%s is a driver's placeholder, write $1", 400),
    "named psycopg parameter": ("SELECT * FROM books WHERE id = %(id)s", "placeholder, write $1", 400),
    "SQLAlchemy parameter": ("SELECT * FROM books WHERE id = :id", ":id is a driver's placeholder, write $1", 400),
    "JDBC parameter": ("SELECT * FROM books WHERE id = ?", "? is a driver's placeholder, write $1", 400),
    "MySQL": ("SELECT `id` FROM `books`", "syntax error", 400),
    "T-SQL": ("SELECT TOP 10 * FROM [books]", "syntax error", 400),
}

#: name: (schema, words that the error must hold)
SCHEMAS: dict[str, tuple[str, str]] = {
    "shell command": (f"{SCHEMA}\n\\! touch /tmp/planproof-was-here", "command of psql"),
    "include": ("\\i /etc/passwd", "command of psql"),
    "role": ("CREATE ROLE evil SUPERUSER", "is not accepted in a schema file"),
    "COPY FROM PROGRAM": (f"{SCHEMA} COPY books FROM PROGRAM 'id'", "only COPY table FROM stdin"),
    "COPY from a file": (f"{SCHEMA} COPY books FROM '/etc/passwd'", "only COPY table FROM stdin"),
    "ALTER SYSTEM": ("ALTER SYSTEM SET archive_command = 'id'", "is not accepted in a schema file"),
    "DO": ("DO $$ BEGIN PERFORM pg_read_file('/etc/passwd'); END $$", "is not accepted in a schema file"),
    "C function": ("CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'libc.so.6', 'system'", "language c"),
    "catalog": ("INSERT INTO pg_authid (rolname) VALUES ('x')", ""),
    "syntax error": ("CREATE TABLE books (id int", "(line 1"),
    "MySQL": ("CREATE TABLE `books` (id int AUTO_INCREMENT)", "MySQL"),
    "NUL byte": ("CREATE TABLE books (id int);\0", "NUL byte"),
    "unknown type": ("CREATE TABLE books (id nonsense)", "nonsense"),
}


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[httpx.Client]:
    with Services.open(settings) as services, serving(create_app(services)) as client:
        yield client


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    path = tmp_path / "schema.sql"
    path.write_text(SCHEMA)
    return path


def still_works(client: httpx.Client) -> None:
    """A good request is answered."""
    explanation = client.post("/v1/explain", json={"sql": GOOD, "schema": SCHEMA}).raise_for_status().json()
    assert explanation["total_cost"] > 0


@pytest.fixture
def command(settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs the command line inside this process: the same code without a second and more of imports each time."""

    def run(*arguments: str | Path, stdin: str = "") -> Outcome:
        monkeypatch.setattr(sys, "argv", ["planproof", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        status = application.run()
        return Outcome(status, *capfd.readouterr())

    monkeypatch.setenv("PLANPROOF_HOME", str(settings.home))
    monkeypatch.setenv("PLANPROOF_CLUSTER_LINGER_S", "10")
    logger = logging.getLogger("planproof")
    before = logger.handlers[:], logger.propagate
    yield run
    logger.handlers[:], logger.propagate = before


@pytest.mark.parametrize("case", QUERIES)
def test_bad_query_over_http(client: httpx.Client, case: str) -> None:
    sql, words, status = QUERIES[case]
    for route, body in (
        ("/v1/optimize", {"sql": sql, "schema": SCHEMA}),
        ("/v1/explain", {"sql": sql, "schema": SCHEMA}),
    ):
        response = client.post(route, json=body)
        assert words.partition(" (line")[0] in problem(response, status)
        if "(line" in words or case in ("syntax error", "unknown table", "unknown column"):
            assert response.json()["line"] >= 1
            assert response.json()["column"] >= 1
    still_works(client)


@pytest.mark.parametrize("case", sorted(set(QUERIES) - {"division by a constant zero", "unknown function"}))
def test_bad_query_for_the_gate(client: httpx.Client, case: str) -> None:
    sql, words, status = QUERIES[case]
    for body in ({"left": sql, "right": GOOD}, {"left": GOOD, "right": sql}):
        response = client.post("/v1/equivalence", json={**body, "schema": SCHEMA})
        assert words.partition(" (line")[0] in problem(response, status)
    still_works(client)


@pytest.mark.parametrize("case", ["division by a constant zero", "unknown function"])
def test_a_query_that_can_only_fail_is_not_taken_for_the_same(client: httpx.Client, case: str) -> None:
    body = {"left": GOOD, "right": QUERIES[case][0], "schema": SCHEMA}
    verdict = client.post("/v1/equivalence", json=body).raise_for_status().json()
    assert verdict["verdict"] in ("refuted", "unknown")


@pytest.mark.parametrize("case", QUERIES)
def test_bad_query_on_the_command_line(command: Run, schema: Path, case: str) -> None:
    sql, words, _ = QUERIES[case]
    line = command("optimize", "--schema", schema, "--json", stdin=sql).failed(3)
    assert words in line
    assert len(line) < 400
    assert command("explain", "--schema", schema, "--json", stdin=GOOD).json["total_cost"] > 0


def test_the_command_line_still_works(settings: Settings, schema: Path) -> None:
    done = planproof("optimize", "--schema", schema, "--json", home=settings.home, stdin=GOOD)
    assert (done.status, done.stderr) == (0, "")
    assert done.json["baseline"]["total_cost"] > 0


@pytest.mark.parametrize("case", SCHEMAS)
def test_bad_schema_over_http(client: httpx.Client, case: str) -> None:
    text, words = SCHEMAS[case]
    for route in ("/v1/optimize", "/v1/explain"):
        detail = problem(client.post(route, json={"sql": "SELECT 1", "schema": text}), 400)
        assert detail.startswith("in the schema: ")
        assert words.partition(" (line")[0] in detail
    problem(client.post("/v1/equivalence", json={"left": "SELECT 1", "right": "SELECT 1", "schema": text}), 400)
    assert not Path("/tmp/planproof-was-here").exists()
    still_works(client)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("CREATE EXTENSION plpython3u", "plpython3u"),
        ("SET ROLE planproof", "SET role"),
        ("GRANT ALL ON books TO PUBLIC", "GRANT"),
    ],
)
def test_what_a_schema_may_not_have_is_left_out_and_said(client: httpx.Client, statement: str, words: str) -> None:
    request = {"sql": GOOD, "schema": f"{SCHEMA} {statement};"}
    report = client.post("/v1/optimize", json=request).raise_for_status().json()
    assert any(words in line for line in report["shadow"]["not_cloned"])
    assert any(words in finding["detail"] for finding in report["findings"])


@pytest.mark.parametrize("case", SCHEMAS)
def test_bad_schema_on_the_command_line(command: Run, tmp_path: Path, case: str) -> None:
    text, words = SCHEMAS[case]
    path = tmp_path / "bad.sql"
    path.write_text(text)
    for arguments in (["optimize", "--schema", path], ["shadow", "add", "bad", "--schema", path]):
        assert words in command(*arguments, stdin="SELECT 1").failed(3)
    listed = command("shadow", "list", "--json").json
    assert "bad" not in [shadow["name"] for shadow in listed]
    assert not Path("/tmp/planproof-was-here").exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"SELECT 'caf\xe9'", "byte 11 is 0xe9"),
        (b"\xef\xbb\xbfSELECT '\xff'", "byte 11 is 0xff"),
        ("SELECT 1".encode("utf-16"), "UTF-16"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"x" * 1_000_001, "larger than 1,000,000 bytes"),
    ],
)
def test_bad_bytes(settings: Settings, schema: Path, tmp_path: Path, data: bytes, words: str) -> None:
    query = tmp_path / "query.sql"
    query.write_bytes(data)
    from_file = planproof("optimize", query, "--schema", schema, home=settings.home).failed(3)
    from_stdin = planproof("optimize", "-", "--schema", schema, home=settings.home, stdin=data).failed(3)
    assert words in from_file
    assert words in from_stdin
    assert "query.sql" in from_file
    assert "standard input" in from_stdin


def test_bad_files(settings: Settings, schema: Path, tmp_path: Path) -> None:
    for name, words in (
        (tmp_path / "missing.sql", "missing.sql does not exist"),
        (tmp_path, "is a folder"),
        (schema / "below.sql", "cannot be read"),
        (Path("/dev/zero"), "larger than 1,000,000 bytes"),
    ):
        assert words in planproof("optimize", name, "--schema", schema, home=settings.home).failed(3)
    assert "missing.sql does not exist" in planproof(
        "optimize", "--schema", tmp_path / "missing.sql", home=settings.home, stdin="SELECT 1"
    ).failed(3)
    missing = planproof("equivalent", schema, tmp_path / "missing.sql", "--schema", schema, home=settings.home)
    assert "missing.sql does not exist" in missing.failed(3)


@pytest.mark.parametrize("name", ["nowhere", "No/Where", "../../etc", "", "x" * 100])
def test_unknown_shadow(client: httpx.Client, settings: Settings, name: str) -> None:
    done = planproof("optimize", "--shadow", name, home=settings.home, stdin="SELECT 1")
    assert "shadow" in done.failed(3)
    status = 404 if name == "nowhere" else 422
    problem(client.post("/v1/optimize", json={"sql": "SELECT 1", "shadow": name}), status)
    still_works(client)


def test_both_a_shadow_and_a_schema(client: httpx.Client, settings: Settings, schema: Path) -> None:
    done = planproof("optimize", "--shadow", "x", "--schema", schema, home=settings.home, stdin="SELECT 1")
    assert "give one of them" in done.failed(3)
    problem(client.post("/v1/optimize", json={"sql": "SELECT 1", "shadow": "x", "schema": SCHEMA}), 422)


def test_parameters_of_postgresql_work(client: httpx.Client) -> None:
    request = {"sql": "SELECT title FROM books WHERE id = $1", "schema": SCHEMA}
    for more in ({}, {"params": [1]}, {"params": [None]}):
        client.post("/v1/optimize", json={**request, **more}).raise_for_status()
    problem(client.post("/v1/optimize", json={**request, "params": ["not a number"]}), 400)


def test_reading_files_through_a_query_gives_nothing(client: httpx.Client) -> None:
    """The planning login is unprivileged: nothing that planning may run can read the server's files."""
    for sql in ("SELECT pg_read_file('/etc/passwd')", "SELECT * FROM pg_read_file('/etc/passwd')"):
        response = client.post("/v1/explain", json={"sql": sql, "schema": SCHEMA})
        assert response.status_code in (200, 400)
        assert "root:" not in response.text
    still_works(client)


def test_a_server_that_cannot_be_reached(client: httpx.Client, settings: Settings) -> None:
    for option in ("--from", "--attach"):
        dsn = "postgresql://someone:hunter2@127.0.0.1:1/nothing"
        done = planproof("shadow", "add", "gone", option, dsn, home=settings.home)
        line = done.failed(4)
        assert "127.0.0.1" in line
        assert "hunter2" not in line
    wrong = planproof("shadow", "add", "gone", "--from", "nonsense://x:hunter2@y", home=settings.home).failed(3)
    assert "hunter2" not in wrong
    still_works(client)


def test_a_shadow_whose_server_vanished(settings: Settings, tmp_path: Path) -> None:
    """Attach a database, stop its server, ask; the other shadows do not notice."""
    source_settings = Settings(home=settings.home / "vanishing", cluster_linger_s=10)
    source_settings.home.mkdir(mode=0o711)
    source = Supervisor(source_settings)
    try:
        cluster = source.cluster(ClusterKind.STORE)
        with cluster.connect() as connection:
            connection.execute("CREATE TABLE books (id int PRIMARY KEY, title text)")
        cluster.ensure_role("reader")
        with cluster.connect() as connection:
            connection.execute("ALTER TABLE books OWNER TO reader")
        dsn = cluster.conninfo("postgres", "reader")
        added = planproof("shadow", "add", "vanishing", "--attach", dsn, home=settings.home)
        assert added.status == 0, added.stderr
        asked = ["optimize", "--shadow", "vanishing"]
        assert planproof(*asked, home=settings.home, stdin=GOOD).status == 0
        source.stop_all()
        planproof(*asked, home=settings.home, stdin=GOOD).failed(4)
        with Services.open(settings) as services, serving(create_app(services)) as client:
            response = client.post("/v1/optimize", json={"sql": GOOD, "shadow": "vanishing"})
            assert (response.status_code, response.json()["status"]) == (503, 503)
            assert response.json()["detail"].startswith("the server that the shadow stands for cannot be reached")
            still_works(client)
        assert "vanishing" in planproof("shadow", "list", home=settings.home).stdout
        assert planproof("shadow", "drop", "vanishing", home=settings.home).status == 0
    finally:
        source.stop_all()
        source.close()
