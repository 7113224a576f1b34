"""The command line, run as users run it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from command_line import COMMAND, ROOT, planproof

from api import docs
from api.errors import INTERNAL, TABLE, problem_of
from api.installation import InstallationError, check_installation
from optimizer.errors import PlanproofError, SqlError
from optimizer.hooks import HookSpecs
from optimizer.settings import Settings

SCHEMA = """
CREATE TABLE authors (id int PRIMARY KEY, email text NOT NULL UNIQUE, name text);
CREATE TABLE books (id int PRIMARY KEY, author_id int REFERENCES authors (id), title text NOT NULL);
INSERT INTO books SELECT i, NULL, 'title ' || i FROM generate_series(1, 2000) AS i;
"""


@pytest.fixture(scope="module")
def home(settings: Settings) -> Path:
    return settings.home


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    path = tmp_path / "schema.sql"
    path.write_text(SCHEMA)
    return path


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_optimize_json_is_the_report_and_nothing_else(home: Path, schema: Path) -> None:
    sql = "SELECT DISTINCT id, title FROM books"
    done = planproof("optimize", "--schema", schema, "--json", home=home, stdin=sql)
    assert (done.status, done.stderr) == (0, "")
    assert {"query", "shadow", "baseline", "advice", "rejected", "findings", "cached", "timings"} <= set(done.json)
    (advice,) = [a for a in done.json["advice"] if "RW401" in a["rules"]]
    assert advice["evidence"] == "estimated"
    assert advice["equivalence"]["verdict"] in ("tested", "bounded", "proved")
    assert advice["cost"]["after"] < advice["cost"]["before"]


def test_optimize_text_shows_both_scales(home: Path, schema: Path, tmp_path: Path) -> None:
    query = written(tmp_path, "q.sql", "SELECT DISTINCT id, title FROM books;\n")
    done = planproof("optimize", query, "--schema", schema, home=home)
    assert (done.status, done.stderr) == (0, "")
    assert "x cheaper)" in done.stdout
    assert re.search(r"evidence +estimated: ", done.stdout)
    assert re.search(r"equivalence +(tested|bounded|proved): ", done.stdout)
    assert "\x1b" not in done.stdout


def test_optimize_markdown(home: Path, schema: Path) -> None:
    done = planproof("optimize", "--schema", schema, "-f", "markdown", home=home, stdin="SELECT 1")
    assert done.status == 0
    assert done.stdout.startswith("# Query advice\n\n```sql\nSELECT 1\n```\n")


def test_optimize_with_parameters(home: Path, schema: Path) -> None:
    sql = "SELECT DISTINCT id FROM books WHERE title = $1"
    given = planproof("optimize", "--schema", schema, "--json", "-p", "title 7", home=home, stdin=sql)
    generic = planproof("optimize", "--schema", schema, "--json", home=home, stdin=sql)
    assert (given.status, generic.status) == (0, 0)
    assert "generic-plan" in [f["code"] for f in generic.json["findings"]]
    assert "generic-plan" not in [f["code"] for f in given.json["findings"]]
    assert "2 values were given" in planproof(
        "optimize", "--schema", schema, "-p", "1", "-p", "2", home=home, stdin=sql
    ).failed(3)


def test_disable(home: Path, schema: Path) -> None:
    sql = "SELECT DISTINCT id, title FROM books"
    done = planproof("optimize", "--schema", schema, "--json", "--disable", "RW401", home=home, stdin=sql)
    assert all("RW401" not in advice["rules"] for advice in done.json["advice"])
    assert "planproof rules" in planproof(
        "optimize", "--disable", "NOPE", "--schema", schema, home=home, stdin=sql
    ).failed(3)


def test_min_equivalence(home: Path, schema: Path) -> None:
    sql = "SELECT DISTINCT id, title FROM books"
    arguments = ["optimize", "--schema", schema, "--json", "--min-equivalence"]
    strict = planproof(*arguments, "proved", home=home, stdin=sql).json
    assert all(a["equivalence"] is None or a["equivalence"]["verdict"] == "proved" for a in strict["advice"])
    assert planproof(*arguments, "refuted", home=home, stdin=sql).status == 2


def test_measure_and_llm_say_what_is_missing(home: Path, schema: Path) -> None:
    base = ["optimize", "--schema", schema]
    assert "holds no rows" in planproof(*base, "--measure", home=home, stdin="SELECT 1").failed(3)
    assert "model" in planproof(*base, "--llm", home=home, stdin="SELECT 1").failed(3)


@pytest.mark.parametrize(
    ("left", "right", "status", "verdict"),
    [
        ("SELECT id FROM books", "SELECT  id FROM books -- same", 0, "proved"),
        ("SELECT DISTINCT title FROM books", "SELECT title FROM books", 1, "refuted"),
        ("SELECT random() FROM books", "SELECT random() FROM books WHERE true", 5, "unknown"),
    ],
)
def test_equivalent(home: Path, schema: Path, tmp_path: Path, left: str, right: str, status: int, verdict: str) -> None:
    files = [written(tmp_path, "left.sql", left), written(tmp_path, "right.sql", right)]
    done = planproof("equivalent", *files, "--schema", schema, "--json", home=home)
    assert (done.status, done.stderr) == (status, "")
    assert done.json["verdict"] == verdict
    shown = planproof("equivalent", *files, "--schema", schema, home=home)
    assert shown.status == status
    assert shown.stdout.startswith(f"{verdict}: ")
    if verdict == "refuted":
        assert "Replay it in psql" in shown.stdout


def test_explain_with_a_hypothetical_index(home: Path, schema: Path) -> None:
    sql = "SELECT * FROM books WHERE title = 'title 7'"
    plain = planproof("explain", "--schema", schema, "--json", home=home, stdin=sql)
    index = planproof(
        "explain", "--schema", schema, "--json", "--index", "CREATE INDEX ON books (title)", home=home, stdin=sql
    )
    assert (plain.status, index.status) == (0, 0), index.stderr
    assert plain.json["indexes"] == []
    assert index.json["total_cost"] < plain.json["total_cost"]
    assert index.json["indexes"][0]["used"] is True
    shown = planproof("explain", "--schema", schema, "-i", "CREATE INDEX ON books (title)", home=home, stdin=sql)
    assert re.match(r"(Index Scan using|Bitmap Heap Scan on) \S+", shown.stdout)
    assert "\nused: CREATE INDEX" in shown.stdout
    wrong = planproof("explain", "--schema", schema, "-i", "CREATE INDEX ON books (nope)", home=home, stdin=sql)
    assert "nope" in wrong.failed(3)


def test_shadow_life(home: Path, schema: Path, tmp_path: Path) -> None:
    added = planproof("shadow", "add", "default", "--schema", schema, "--json", home=home)
    assert added.status == 0, added.stderr
    assert [table["name"] for table in added.json["tables"]] == ["public.authors", "public.books"]

    listed = planproof("shadow", "list", "--json", home=home).json
    assert [s["name"] for s in listed if s["name"] == "default"] == ["default"]
    shown = planproof("shadow", "show", "default", home=home)
    assert "public.books" in shown.stdout
    query = written(tmp_path, "q.sql", "SELECT * FROM books")
    assert planproof("optimize", query, "--json", home=home).json["shadow"]["name"] == "default"

    refreshed = planproof("shadow", "refresh", "default", home=home)
    assert "drop it and add it again" in refreshed.failed(3)  # its files are not read again

    assert planproof("shadow", "drop", "default", home=home).status == 0
    assert "no shadow is named" in planproof("shadow", "show", "default", home=home).failed(3)
    assert "no shadow is named" in planproof("shadow", "drop", "default", home=home).failed(3)
    assert "planproof shadow add default" in planproof("optimize", query, home=home).failed(3)


def test_rules(home: Path) -> None:
    rules = planproof("rules", "--json", home=home).json
    assert {"code", "name", "kind", "what", "why", "example", "preconditions"} <= set(rules[0])
    shown = planproof("rules", home=home).stdout
    assert [line.split()[0] for line in shown.splitlines()] == [rule["code"] for rule in rules]
    assert planproof("rules", "--markdown", home=home).stdout.startswith("# Rules\n")


def test_documentation_is_up_to_date() -> None:
    assert docs.main(["rules", "--check"]) == 0, "run: python -m api.docs rules > docs/rules.md"


def test_every_hook_is_documented() -> None:
    text = (ROOT / "docs" / "hooks.md").read_text()
    hooks = [name for name in vars(HookSpecs) if name.startswith("planproof_")]
    assert len(hooks) <= 10
    for name in hooks:
        arguments = HookSpecs.__dict__[name].__code__.co_varnames[1 : HookSpecs.__dict__[name].__code__.co_argcount]
        assert f"### `{name}({', '.join(arguments)})`" in text


def test_usage_errors(home: Path, tmp_path: Path) -> None:
    query = written(tmp_path, "q.sql", "SELECT 1")
    for arguments in (
        ["optimize", "--nope"],
        ["nonsense"],
        ["equivalent", str(query)],
        ["shadow", "add", "x"],
        ["shadow", "add", "x", "--from", "a", "--attach", "b"],
        ["shadow", "add", "x", "--from", "a", "--stats", "b"],
        ["optimize", "--timeout", "0"],
    ):
        done = planproof(*arguments, home=home)
        assert done.status == 2, arguments
        assert done.stdout == ""
        assert "Traceback" not in done.stderr


def test_help_and_version(home: Path) -> None:
    shown = planproof("--help", home=home)
    assert shown.status == 0
    for command in ("optimize", "equivalent", "explain", "shadow", "rules", "serve"):
        assert command in shown.stdout
        assert planproof(command, "--help", home=home).status == 0
    assert re.fullmatch(r"planproof \d+\.\d+.*\n", planproof("--version", home=home).stdout)


def test_wrong_settings_name_the_variable(home: Path) -> None:
    wrong = planproof("shadow", "list", home=home, env={"PLANPROOF_MIN_GAIN": "much"})
    assert "PLANPROOF_MIN_GAIN" in wrong.failed(3)
    wrong = planproof("shadow", "list", home=home, env={"PLANPROOF_ALLOW_HTTP_SOURCES": "a,b"})
    assert "PLANPROOF_" in wrong.failed(3)


def on_a_terminal(home: Path, schema: Path, **env: str) -> str:
    """Run `optimize` with standard output on a pseudo terminal."""
    leader, follower = pty.openpty()
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [COMMAND, "optimize", "--schema", schema],
        stdin=subprocess.PIPE,
        stdout=follower,
        stderr=subprocess.DEVNULL,
        env=clean | {"PLANPROOF_HOME": str(home), "TERM": "xterm"} | env,
    )
    os.close(follower)
    assert process.stdin is not None
    process.stdin.write(b"SELECT DISTINCT id, title FROM books")
    process.stdin.close()
    shown = b""
    try:
        while piece := os.read(leader, 65_536):
            shown += piece
    except OSError:  # Linux says EIO once the other end is closed
        pass
    finally:
        os.close(leader)
    assert process.wait(60) == 0
    return shown.decode()


def test_colours_only_on_a_terminal_that_wants_them(home: Path, schema: Path) -> None:
    assert "\x1b[" in on_a_terminal(home, schema)
    assert "\x1b[" not in on_a_terminal(home, schema, NO_COLOR="1")
    assert "\x1b[" not in on_a_terminal(home, schema, TERM="dumb")


def test_a_reader_that_goes_away_is_no_error(home: Path) -> None:
    process = subprocess.Popen(
        [COMMAND, "rules", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PLANPROOF_HOME": str(home)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_interrupted(home: Path) -> None:
    """Interrupt a command that waits for its input."""
    process = subprocess.Popen(
        [COMMAND, "optimize", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PLANPROOF_HOME": str(home)},
        # A shell's background jobs ignore it, and what they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
    )
    waiting = Path(f"/proc/{process.pid}/wchan")
    deadline = time.monotonic() + 60
    while "pipe" not in waiting.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, b"", b"")


def test_serve(home: Path) -> None:
    process = subprocess.Popen(
        [COMMAND, "serve", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PLANPROOF_HOME": str(home)},
    )
    assert process.stderr is not None
    found = re.search(r"listening on (http://127\.0\.0\.1:\d+)", process.stderr.readline())
    assert found is not None
    try:
        with httpx.Client(base_url=found[1], transport=httpx.HTTPTransport(retries=20), timeout=60) as client:
            assert client.get("/healthz").json() == {"status": "ok"}
            taken = planproof("serve", "--port", found[1].rsplit(":", 1)[1], home=home)
            assert "choose others with --host and --port" in taken.failed(3)
    finally:
        process.terminate()
        assert process.wait(60) in (0, -signal.SIGTERM)
        process.stderr.close()


def test_every_error_has_a_place_in_the_table() -> None:
    def below(cls: type[PlanproofError]) -> list[type[PlanproofError]]:
        return [cls, *(deeper for sub in cls.__subclasses__() for deeper in below(sub))]

    for cls in below(PlanproofError):
        if cls is not PlanproofError:
            assert problem_of(cls("x")) is not INTERNAL, cls
    assert problem_of(SqlError("x")) is TABLE[SqlError]
    assert problem_of(KeyError("x")) is INTERNAL
    assert {p.exit_status for p in TABLE.values()} <= {3, 4}


def test_another_owner_of_an_import_name_is_found(tmp_path: Path) -> None:
    check_installation()
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder, names in ((ours, ("api", "optimizer", "plugins", "rules")), (theirs, ("rules",))):
        for name in names:
            (folder / name).mkdir(parents=True)
            (folder / name / "__init__.py").write_text("")
    check_installation(ours, [str(ours), str(theirs)])
    with pytest.raises(InstallationError, match=r"the package rules is not planproof's but the one in .*theirs"):
        check_installation(ours, [str(theirs), str(ours)])

    record = ours / "other_tool-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: other-tool\nVersion: 1.0\n")
    (record / "RECORD").write_text("other.py,,\noptimizer/__init__.py,,\n")
    with pytest.raises(InstallationError, match="optimizer is not planproof's but that of the distribution other-tool"):
        check_installation(ours, [str(ours)])


def test_a_shared_environment_fails_at_start(tmp_path: Path, home: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "__init__.py").write_text("")
    done = planproof("rules", home=home, env={"PYTHONPATH": str(tmp_path)})
    assert "environment of its own" in done.failed(78)


def test_a_missing_part_is_one_line(tmp_path: Path, home: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ImportError('no typer')\n")
    done = planproof("rules", home=home, env={"PYTHONPATH": str(tmp_path)})
    assert "install planproof again" in done.failed(78)


def test_port_is_checked_before_anything_starts(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = planproof("serve", "--port", str(taken.getsockname()[1]), home=home)
    done.failed(3)


def test_main_module_is_the_command(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", "rules", "--json"],
        capture_output=True,
        check=True,
        env=os.environ | {"PLANPROOF_HOME": str(home)},
        cwd=ROOT,
    )
    assert json.loads(done.stdout)
