"""The language model as users meet it: `planproof optimize --llm` and `"llm": true`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from command_line import ROOT, planproof
from http_server import problem, serving
from model_server import KEY, ModelServer, completion, model_server, plugins_with_model, proposing, refusing

from api.app import create_app
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Supervisor
from plugins.llm_advisor.settings import LlmSettings

SCHEMA = """
CREATE TABLE orders (id integer PRIMARY KEY, total numeric(10, 2) NOT NULL);
INSERT INTO orders SELECT n, n % 500 FROM generate_series(1, 20000) AS n;
"""
SLOW = "SELECT o.total FROM orders o WHERE concat(o.id) = '4711'"
GOOD = "SELECT o.total FROM orders o WHERE o.id = 'pp_1'"
WRONG = "SELECT o.total FROM orders o WHERE o.id = 'pp_1' AND false"
PAGE = (ROOT / "docs" / "llm.md").read_text()


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    path = tmp_path / "schema.sql"
    path.write_text(SCHEMA)
    return path


def test_the_command_line_shows_whose_words_they_are(settings: Settings, schema: Path, server: ModelServer) -> None:
    server.answers(proposing([WRONG]), proposing([GOOD], title="Compare the key"))
    run = planproof("optimize", "--llm", "--schema", schema, home=settings.home, stdin=SLOW, env=server.environment)
    assert run.status == 0, run.stderr
    assert "Proposed by a model: Compare the key" in run.stdout
    assert "WHERE o.id = '4711'" in run.stdout
    assert re.search(r"from +llm llm", run.stdout)
    assert "refuted" in run.stdout
    assert len(server.requests) == 2
    assert "4711" not in "".join(request.raw for request in server.requests)


def test_the_command_line_does_without_an_endpoint_that_fails(
    settings: Settings, schema: Path, server: ModelServer
) -> None:
    server.answers(refusing(500))
    run = planproof(
        "optimize", "--llm", "--json", "--schema", schema, home=settings.home, stdin=SLOW, env=server.environment
    )
    assert run.status == 0
    codes = {finding["code"]: finding for finding in run.json["findings"]}
    assert "answered with status 500" in codes["llm-incomplete"]["detail"]
    assert KEY not in run.stdout + run.stderr


def test_the_command_line_says_what_to_set(settings: Settings, schema: Path) -> None:
    run = planproof("optimize", "--llm", "--schema", schema, home=settings.home, stdin=SLOW)
    said = run.failed(3)
    assert "set PLANPROOF_LLM_MODEL and PLANPROOF_LLM_API_KEY" in said


@pytest.fixture(scope="module")
def client(settings: Settings, supervisor: Supervisor) -> Iterator[httpx.Client]:
    with serving(create_app(Services(settings, supervisor, plugins_with_model()))) as client:
        yield client


def test_http_asks_keeps_what_is_whole_and_forgets_what_is_not(
    client: httpx.Client, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = {"sql": SLOW, "schema": SCHEMA, "llm": True}
    assert "PLANPROOF_LLM_MODEL" in problem(client.post("/v1/optimize", json=request), 422)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.answers(refusing(503), proposing([GOOD]))
    failed = client.post("/v1/optimize", json=request).json()
    assert "llm-incomplete" in [finding["code"] for finding in failed["findings"]]
    found = client.post("/v1/optimize", json=request).json()
    assert not found["cached"]
    assert [(a["source"], a["rules"], a["equivalence"]["verdict"]) for a in found["advice"]] == [
        ("llm", ["llm"], "tested")
    ]
    again = client.post("/v1/optimize", json=request).json()
    assert again["cached"]
    assert again["advice"] == found["advice"]
    assert len(server.requests) == 2
    without = client.post("/v1/optimize", json=request | {"llm": False}).json()
    assert without["advice"] == []


def test_who_does_not_ask_does_not_pay() -> None:
    """The client of the model's endpoint is not even imported."""
    code = (
        "import sys; from api.commands.application import build; build()\n"
        "from optimizer.hooks import Plugins\n"
        "assert 'llm' in Plugins().names and not Plugins().failures, Plugins().names\n"
        "assert not {'openai', 'httpx2'} & set(sys.modules), 'imported'"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PLANPROOF_")}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr


# The page: what it says is so


def shell_blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize(
    "block", shell_blocks(), ids=lambda block: re.findall(r"PROVIDER=(\w+)|$", block)[0] or "other"
)
def test_the_commands_of_the_page_run_as_written(
    block: str, settings: Settings, schema: Path, tmp_path: Path, server: ModelServer
) -> None:
    """Addresses of real endpoints lead to the local one; everything else is as the page has it."""
    server.answers(completion(json.dumps({"rewrites": [], "indexes": []})))
    (tmp_path / "slow.sql").write_text(SLOW)
    local = server.url.removesuffix("/v1")
    script = re.sub(r"https?://[\w.-]+(?::\d+)?", local, block)
    if "BASE_URL" not in script:
        script = f"export PLANPROOF_LLM_BASE_URL={server.url}\n{script}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PLANPROOF_", "PG"))}
    environment |= {"PLANPROOF_HOME": str(settings.home), "PLANPROOF_CLUSTER_LINGER_S": "10"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    run = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert len(server.requests) == 1
    assert "A language model was asked" in run.stdout
    assert server.requests[0].path.split("?")[0].endswith("/chat/completions")


def test_every_setting_is_on_the_page() -> None:
    for name in LlmSettings.model_fields:
        assert f"`PLANPROOF_LLM_{name.upper()}`" in PAGE, name
