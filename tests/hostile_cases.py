"""The corpus of hostile cases under fixtures/hostile/, and how one is run against an `Arena`.

Each file is a theme:

    theme: what these attacks are after
    schema: DDL for the cases that bring none of their own, or the file beside it that holds it
    cases:
      - id: unique in the corpus
        why: what the attack is
        face: optimize | explain | equivalence | schema | stats | http | clone | attached | llm     (default: explain)
        via: http (default) | core | cli                  how the face is reached
        ...: the input, see `FACES`
        expect: what must happen: an error's class, `planned`, `made`, a verdict, `advised` or `unadvised` (by a model),
            an HTTP status, or a list of these
        answer: for `llm`, what the model answers: `rewrites`, `indexes`, `title`, `why`, or `text` for anything else
        unsent: texts that the model must not be sent
        says: a regular expression that the answer must hold
        absent: texts that the answer must not hold, beside the arena's secret
        present: texts that it must hold

Instead of a face and its input, a case may give `attempt: COMMAND`. The command is then tried by a function of the
theme's schema in each of these places (`at`, all by default), where it has to fail:

    plan      while a query is planned, by a function that says it is immutable
    gate      while the gate runs a query; the commands of a theme that are tried everywhere share some verdicts
    schema    while the schema is made, by its owner

Wherever input is wanted, a text may be given as a list of pieces, joined; a piece is a text or `{repeat: text, times:
n, between: text}`. Names such as `@FILE@` are replaced (`Arena.replace`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from command_line import planproof
from hostile_arena import Arena
from hostile_sources import attached_record, source
from model_server import KEY, completion, proposing

from api.errors import TABLE
from api.views import explanation_view, record_view
from optimizer.clock import Deadline, limited
from optimizer.errors import PlanproofError
from optimizer.pipeline import Options

FOLDER = Path(__file__).parents[1] / "fixtures" / "hostile"
_SLUGS = {problem.type: cls.__name__ for cls, problem in TABLE.items()}
_STATUSES = {cls.__name__: problem.exit_status for cls, problem in TABLE.items()}
#: Commands that are tried in one verdict of the gate.
GATE_BATCH = 20
_QUERY_FACES = ("optimize", "explain", "equivalence")
_FIELDS = frozenset(
    {
        *("id", "why", "face", "via", "schema", "expect", "says", "absent", "present"),
        *("sql", "left", "right", "params", "indexes", "options", "stats"),
        *("answer", "unsent"),
        *("method", "path", "body", "headers", "source", "source_after"),
    }
)


@dataclass(frozen=True)
class Case:
    """One hostile input and what must come of it."""

    theme: str
    raw: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Unique in the corpus."""
        return str(self.raw["id"])

    @property
    def face(self) -> str:
        """What the input is given to."""
        return str(self.raw.get("face", "explain"))

    @property
    def via(self) -> str:
        """How that face is reached."""
        return str(self.raw.get("via", "http" if self.face in (*_QUERY_FACES, "schema", "http") else "core"))

    @property
    def expected(self) -> list[str]:
        """The outcomes of which one must come."""
        expect = self.raw["expect"]
        return [str(one) for one in (expect if isinstance(expect, list) else [expect])]

    def text(self, field: str) -> str | None:
        """A field of the input, its pieces joined; None where the case has none."""
        return pieces(self.raw.get(field))


@dataclass(frozen=True)
class Outcome:
    """What came of it: `kind` as in `expect`, and the whole answer."""

    kind: str
    answer: str


def pieces(value: Any) -> str | None:
    """Join a text that is given in pieces."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict):
        return str(value.get("between", "")).join([str(value["repeat"])] * int(value["times"]))
    return "".join(pieces(piece) or "" for piece in value)


def themes() -> dict[str, list[Case]]:
    """All cases by theme.

    Errors: `ValueError` for a case that is not well-formed.
    """
    found: dict[str, list[Case]] = {}
    seen: set[str] = set()
    for path in sorted(FOLDER.glob("*.yaml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        schema = str(document.get("schema", ""))
        if schema.endswith(".sql"):
            schema = (FOLDER / schema).read_text(encoding="utf-8")
        given = [{"schema": schema, **raw} for raw in document["cases"]]
        cases = [Case(path.stem, raw) for entry in given for raw in _placed(entry)]
        cases += [Case(path.stem, raw) for raw in _together(given)]
        for case in cases:
            unknown = set(case.raw) - _FIELDS
            if unknown or case.id in seen or not case.raw.get("why") or not case.expected:
                raise ValueError(f"{path.name}: {case.id}: not well-formed ({unknown or 'id, why or expect'})")
            seen.add(case.id)
        found[path.stem] = cases
    return found


def _placed(raw: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A case as it stands, or the cases that try its command in each place."""
    command = raw.get("attempt")
    if command is None:
        yield raw
        return
    rest = {name: value for name, value in raw.items() if name not in ("attempt", "at")}
    tried = f"attempt($hostile${command}$hostile$)"
    inputs: dict[str, Mapping[str, Any]] = {
        "plan": {"face": "explain", "sql": f"SELECT * FROM t WHERE note = {tried}", "expect": "planned"},
        "gate": {
            "face": "equivalence",
            "left": f"SELECT {tried} AS x FROM t",
            "right": "SELECT 'nothing'::text AS x FROM t",
            "expect": "refuted",
        },
        "schema": {
            "face": "schema",
            "schema": f"{raw['schema']}\nCREATE TABLE tried AS SELECT run($hostile${command}$hostile$);",
            "expect": "SqlError",
        },
    }
    for place in raw.get("at", ("plan", "schema")):
        refused = {} if place == "schema" else {"present": ["failed: "], "absent": ["done: "]}
        yield (
            inputs[place]
            | refused
            | rest
            | {"id": f"{raw['id']}@{place}"}
            | ({"schema": inputs[place]["schema"]} if place == "schema" else {})
        )


def _together(given: list[dict[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Cases that try commands in the gate, a batch in one verdict, whose counterexample shows what became of each."""
    tried = [raw for raw in given if "attempt" in raw and "at" not in raw]
    for start in range(0, len(tried), GATE_BATCH):
        batch = tried[start : start + GATE_BATCH]
        calls = ", ".join(f"attempt($hostile${raw['attempt']}$hostile$)" for raw in batch)
        yield {
            "id": f"{batch[0]['id']}..{batch[-1]['id']}@gate",
            "why": "; ".join(str(raw["why"]) for raw in batch),
            "face": "equivalence",
            "schema": batch[0]["schema"],
            "left": f"SELECT concat_ws('; ', {calls}) AS x FROM t",
            "right": "SELECT 'nothing'::text AS x FROM t",
            "expect": "refuted",
            "says": f"(?:failed: .*?){{{len(batch)}}}",
            "absent": ["done: "],
        }


def run(arena: Arena, case: Case) -> Outcome:
    """Give a case to its face."""
    if case.via == "cli":
        return _cli(arena, case)
    if case.via == "http" and case.face in (*_QUERY_FACES, "schema", "http"):
        return _http(arena, case)
    try:
        with limited(Deadline.after(arena.limits["optimize_timeout_ms"])):
            return _IN_PROCESS[case.face](arena, case)
    except PlanproofError as error:
        return Outcome(type(error).__name__, str(error))


def faults(case: Case, outcome: Outcome, arena: Arena) -> Iterator[str]:
    """Say in what the outcome is not the expected one."""
    if outcome.kind not in case.expected:
        yield f"came to {outcome.kind}, not {' or '.join(case.expected)}: {outcome.answer[:300]}"
    says = case.raw.get("says")
    if says and not re.search(str(says), outcome.answer, re.DOTALL):
        yield f"does not say {says!r}: {outcome.answer[:300]}"
    for text in (arena.secret, "Traceback", "SCRAM-SHA-256$", *case.raw.get("absent", ())):
        if arena.replace(text) in outcome.answer:
            yield f"the answer holds {text!r}"
    for text in case.raw.get("present", ()):
        if text not in outcome.answer:
            yield f"the answer does not hold {text!r}: {outcome.answer[:300]}"


def _texts(arena: Arena, case: Case, *fields: str) -> dict[str, Any]:
    """The case's fields of these names, without those it has not."""
    found = {field: case.text(field) for field in fields}
    return {field: arena.replace(text) for field, text in found.items() if text is not None}


def _body(arena: Arena, case: Case) -> tuple[str, dict[str, Any]]:
    """The route of a query face, and the request's body."""
    if case.face == "equivalence":
        return "/v1/equivalence", _texts(arena, case, "schema", "left", "right")
    body = _texts(arena, case, "schema", "sql")
    if case.face == "schema":
        return "/v1/explain", {"sql": "SELECT 1", **body}
    if case.face in ("explain", "stats"):
        indexes = [arena.replace(pieces(index) or "") for index in case.raw.get("indexes", ())]
        return "/v1/explain", body | ({"indexes": indexes} if indexes else {})
    return "/v1/optimize", body | dict(case.raw.get("options", {})) | (
        {"params": case.raw["params"]} if "params" in case.raw else {}
    )


def _http(arena: Arena, case: Case) -> Outcome:
    if case.face == "http":
        content = case.text("body")
        response = arena.client.request(
            case.raw.get("method", "POST"),
            case.raw["path"],
            content=arena.replace(content).encode() if content is not None else None,
            headers={"content-type": "application/json", **case.raw.get("headers", {})},
        )
        return Outcome(str(response.status_code), response.text)
    path, body = _body(arena, case)
    response = arena.client.post(path, json=body)
    if response.status_code != 200:
        kind = _SLUGS.get(response.json().get("type", ""), str(response.status_code))
        return Outcome(kind, response.text)
    return Outcome(_success(case, response.json()), response.text)


def _success(case: Case, answer: Mapping[str, Any]) -> str:
    if case.face == "equivalence":
        return str(answer["verdict"])
    return "made" if case.face == "schema" else "planned"


def _cli(arena: Arena, case: Case) -> Outcome:
    """Run the installed command in the arena's home."""
    texts = _texts(arena, case, "schema", "sql", "left", "right")
    folder = arena.home / "cli"
    folder.mkdir(exist_ok=True)
    files = {name: folder / f"{name}.sql" for name in texts}
    for name, text in texts.items():
        files[name].write_bytes(text.encode("utf-8", "surrogatepass"))
    if case.face == "equivalence":
        arguments: list[str | Path] = ["equivalent", files["left"], files["right"], "--schema", files["schema"]]
    else:
        arguments = ["optimize", files.get("sql", "-"), "--schema", files["schema"]]
    limits = {f"PLANPROOF_{name.upper()}": str(value) for name, value in arena.limits.items()}
    ran = planproof(*arguments, home=arena.home, stdin="SELECT 1", env=limits)
    answer = ran.stdout + ran.stderr
    names = [name for name in case.expected if _STATUSES.get(name) == ran.status]
    if ran.status in (0, 1, 5):
        word = re.match(r"\W*(\w+)", ran.stdout)
        kind = (word.group(1).lower() if word else "") if case.face == "equivalence" else "planned"
        return Outcome(kind, answer)
    if ran.status in _STATUSES.values() and ran.stderr.startswith("planproof: ") and ran.stderr.count("\n") == 1:
        return Outcome(names[0] if names else f"status {ran.status}", answer)
    return Outcome(f"status {ran.status}", answer)


def _core_query(arena: Arena, case: Case) -> Outcome:
    """A query face, without HTTP."""
    _, body = _body(arena, case)
    shadow = arena.services.throwaway(body["schema"], _texts(arena, case, "stats").get("stats"))
    optimizer = arena.optimizer
    if case.face == "equivalence":
        verdict = optimizer.equivalent(body["left"], body["right"], shadow.ddl())
        return Outcome(verdict.verdict.value, json.dumps(verdict.as_dict()))
    if case.face == "optimize":
        parameters = None if "params" not in case.raw else tuple(case.raw["params"])
        report = optimizer.optimize(body["sql"], shadow, Options(parameters=parameters))
        return Outcome("planned", json.dumps(report.as_dict(), allow_nan=False))
    explanation = explanation_view(optimizer.explain(body.get("sql", "SELECT 1"), shadow, body.get("indexes", ())))
    answer = {**explanation, "not_cloned": shadow.info.not_cloned}
    return Outcome("made" if case.face == "schema" else "planned", json.dumps(answer, allow_nan=False))


def _clone(arena: Arena, case: Case) -> Outcome:
    """Clone a hostile database, plan a query on the clone, and see whether the source is untouched."""
    name = f"hostile-{case.id}"[:40]
    with source(arena, case.text("source") or "") as database:
        record = arena.services.add_hollow(name, database.dsn)
        try:
            shadow = arena.services.shadow(name)
            report = arena.optimizer.optimize(case.text("sql") or "SELECT 1", shadow, Options())
            answer = {"record": record_view(record), "report": report.as_dict(), "ddl": shadow.ddl()}
        finally:
            arena.services.drop(name)
        harm = database.harm(case.text("source_after"))
    return Outcome(harm or "planned", json.dumps(answer, allow_nan=False, default=str))


def _attached(arena: Arena, case: Case) -> Outcome:
    """Plan on a database that a role without rights is attached to."""
    with source(arena, case.text("source") or "") as database:
        shadow = attached_record(arena, database)
        try:
            options = Options(measure=bool(case.raw.get("options", {}).get("measure")))
            texts = _texts(arena, case, "sql")
            if case.raw.get("indexes"):
                indexes = [arena.replace(pieces(index) or "") for index in case.raw["indexes"]]
                answer = explanation_view(arena.optimizer.explain(texts["sql"], shadow, indexes))
            else:
                answer = arena.optimizer.optimize(texts["sql"], shadow, options).as_dict()
        finally:
            arena.services.drop(shadow.info.name)
            harm = database.harm(case.text("source_after"))
    return Outcome(harm or "planned", json.dumps(answer, allow_nan=False))


def _llm(arena: Arena, case: Case) -> Outcome:
    """Ask for advice, the model's too, over HTTP; the outcome is whether any of its own was given."""
    given = case.raw["answer"]
    text = pieces(given.get("text"))
    if text is not None:
        arena.model.answers(completion(arena.replace(text)))
    else:
        rewrites, indexes = (
            [arena.replace(pieces(one) or "") for one in given.get(field, ())] for field in ("rewrites", "indexes")
        )
        words = {field: arena.replace(pieces(given[field]) or "") for field in ("title", "why") if field in given}
        arena.model.answers(proposing(rewrites, indexes, **words))
    for _ in range(3):  # on a busy machine a request may have no time left to ask
        response = arena.client.post("/v1/optimize", json=_texts(arena, case, "schema", "sql") | {"llm": True})
        if arena.model.requests:
            break
    if response.status_code != 200:
        return Outcome(_SLUGS.get(response.json().get("type", ""), str(response.status_code)), response.text)
    assert arena.model.requests, "the model was not asked"
    sent = "".join(request.raw for request in arena.model.requests)
    if any(arena.replace(unsent) in sent for unsent in (arena.secret, KEY, *case.raw.get("unsent", ()))):
        return Outcome("leaked to the model", sent)
    report = response.json()
    advised = any(advice["source"] == "llm" for advice in report["advice"])
    return Outcome("advised" if advised else "unadvised", response.text)


_IN_PROCESS: dict[str, Callable[[Arena, Case], Outcome]] = {
    "optimize": _core_query,
    "explain": _core_query,
    "equivalence": _core_query,
    "schema": _core_query,
    "stats": _core_query,
    "clone": _clone,
    "attached": _attached,
    "llm": _llm,
}
