"""The objects of the HTTP interface, as OpenAPI describes them.

Requests are checked against these; responses are the core's own dictionaries, and a test holds them to these models.
Times are milliseconds, sizes bytes, costs PostgreSQL planner units.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
)


def _storable(value: str) -> str:
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("it holds characters that PostgreSQL text cannot hold")
    return value


Text = Annotated[StrictStr, AfterValidator(_storable), Field(max_length=100_000)]
ParameterValue = StrictBool | StrictInt | StrictFloat | Text | None
ShadowName = Annotated[StrictStr, Field(pattern=r"^[a-z0-9_-]{1,40}$", examples=["production"])]
RuleCode = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$", examples=["RW401"])]
Sql = Annotated[StrictStr, Field(examples=["SELECT * FROM orders WHERE date(placed_at) = '2026-01-01'"])]
Schema = Annotated[
    StrictStr | None,
    Field(description="DDL of a throw-away shadow, rows or statistics included.", examples=["CREATE TABLE t (a int)"]),
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class OptimizeRequest(_Request):
    """One query to find advice for. Neither `shadow` nor `schema`: the shadow named `default`."""

    sql: Sql
    shadow: ShadowName | None = None
    schema_: Annotated[Schema, Field(alias="schema")] = None
    params: Annotated[list[ParameterValue], Field(max_length=1_000, fail_fast=True)] | None = Field(
        None, description="Values of $1, $2, ...; without them the plan is generic."
    )
    llm: StrictBool = Field(False, description="Ask the configured language model for rewrites too.")
    measure: StrictBool = Field(False, description="Execute before and after; only on an attached shadow.")
    disable: Annotated[list[RuleCode], Field(max_length=1_000, fail_fast=True)] = []
    min_equivalence: Literal["tested", "bounded", "proved"] = "tested"
    timeout_ms: Annotated[StrictInt, Field(ge=1, le=3_600_000)] | None = None


class EquivalenceRequest(_Request):
    """Two queries to compare."""

    left: Sql
    right: Sql
    shadow: ShadowName | None = None
    schema_: Annotated[Schema, Field(alias="schema")] = None
    timeout_ms: Annotated[StrictInt, Field(ge=1, le=3_600_000)] | None = None


class ExplainRequest(_Request):
    """One query to plan, with hypothetical indexes."""

    sql: Sql
    shadow: ShadowName | None = None
    schema_: Annotated[Schema, Field(alias="schema")] = None
    indexes: Annotated[list[Annotated[StrictStr, Field(max_length=10_000)]], Field(max_length=100, fail_fast=True)] = (
        Field([], examples=[["CREATE INDEX ON orders (user_id, placed_at)"]])
    )


class CloneRequest(_Request):
    """How a hollow clone is made. What a refresh leaves out stays as it was."""

    redact_statistics: Annotated[list[Annotated[Text, Field(max_length=400)]] | None, Field(max_length=1_000)] = Field(
        None,
        description="Whose values are left out of the statistics: `table.column`, `schema.table.column`, `text` or "
        "`all`; `none` alone ends an earlier redaction.",
        examples=[["users.email", "text"]],
    )
    only_readable: StrictBool | None = Field(
        None, description="Leave out tables that the role may not read, instead of failing."
    )
    role: Annotated[Text, Field(max_length=63)] | None = Field(
        None, description="Whose rights, policies and settings count; the role of the connection by default."
    )

    @property
    def clone_options(self) -> dict[str, Any]:
        """What was asked for, as `CloneOptions.changed` takes it."""
        asked = {"redact_statistics": self.redact_statistics, "only_readable": self.only_readable, "role": self.role}
        return {name: value for name, value in asked.items() if value is not None}


class ShadowRequest(CloneRequest):
    """A shadow to make: exactly one of `from`, `schema` and `attach`; how it is cloned only goes with `from`."""

    name: ShadowName
    from_: Annotated[StrictStr | None, Field(alias="from", max_length=4_000, description="DSN to clone hollow.")] = None
    schema_: Annotated[Schema, Field(alias="schema")] = None
    stats: StrictStr | None = Field(
        None, description="Statistics for `schema`, as pg_dump or the script of `planproof shadow script` writes them."
    )
    attach: Annotated[StrictStr | None, Field(max_length=4_000, description="DSN to plan in.")] = None


class CounterexampleModel(BaseModel):
    """A database on which two queries differ; values are PostgreSQL's text images."""

    setup: str = Field(description="DDL, INSERTs and both queries: replay it in psql.")
    left_rows: list[list[str | None]]
    right_rows: list[list[str | None]]


class VerdictModel(BaseModel):
    """What the equivalence gate says."""

    verdict: Literal["proved", "bounded", "tested", "refuted", "unknown"]
    method: str
    databases: int
    bound: int | None
    detail: str
    counterexample: CounterexampleModel | None


class CostModel(BaseModel):
    """Cost before and after on the same shadow; `ratio` is after divided by before."""

    before: float
    after: float
    ratio: float
    unit: Literal["planner", "steps", "ru"]


class MeasuredModel(BaseModel):
    """Median execution times."""

    before_ms: float
    after_ms: float


class AdviceModel(BaseModel):
    """One validated change."""

    id: str
    kind: str
    rules: list[str]
    title: str
    why: str
    sql: str | None
    ddl: list[str]
    rollback: list[str]
    cost: CostModel | None
    measured: MeasuredModel | None
    evidence: Literal["static", "estimated", "measured"]
    equivalence: VerdictModel | None
    plan: dict[str, Any] | None
    storage_bytes: int
    source: str


class RejectedModel(BaseModel):
    """A candidate that did not become advice."""

    rule: str
    sql: str
    reason: Literal["refuted", "unknown", "not_cheaper", "invalid", "timeout", "plugin_error"]
    detail: str
    counterexample: CounterexampleModel | None = None


class FindingModel(BaseModel):
    """Something to know that is not advice."""

    code: str
    title: str
    detail: str
    severity: Literal["info", "warning", "error"]


class QueryModel(BaseModel):
    """The query as it was read."""

    sql: str
    fingerprint: str
    tables: list[str]


class ShadowInfoModel(BaseModel):
    """The shadow that was planned on; `server_version` is the planner's, `source_version` the source's."""

    name: str
    kind: Literal["hollow", "files", "attached", "sqlite"]
    server_version: str
    source_version: str
    planned_by: str
    revision: str
    not_cloned: list[str]


class BaselineModel(BaseModel):
    """The original's plan."""

    total_cost: float
    startup_cost: float
    plan_rows: float
    plan: dict[str, Any]


class TimingsModel(BaseModel):
    """Milliseconds by phase, and the number of EXPLAINs."""

    parse: float
    propose: float
    explain: float
    verify: float
    total: float
    explain_calls: int


class ReportModel(BaseModel):
    """Everything that was found, best advice first."""

    query: QueryModel
    shadow: ShadowInfoModel
    baseline: BaselineModel
    advice: list[AdviceModel]
    rejected: list[RejectedModel]
    findings: list[FindingModel]
    cached: bool
    timings: TimingsModel


class HypotheticalIndexModel(BaseModel):
    """An index that only the plan sees; `used` says whether the plan reads it."""

    ddl: str
    name: str
    storage_bytes: int
    used: bool


class ExplanationModel(BaseModel):
    """One plan: `plan` is the Plan object of EXPLAIN (FORMAT JSON)."""

    plan: dict[str, Any]
    total_cost: float
    indexes: list[HypotheticalIndexModel]


class ShadowModel(BaseModel):
    """One registered shadow; `origin` never holds a password."""

    name: str
    kind: Literal["hollow", "files", "attached", "sqlite"]
    server_version: str
    revision: str
    created: str
    origin: str
    not_cloned: list[str]
    redact_statistics: list[str] = Field(description="Whose values are left out of a clone's statistics.")
    only_readable: bool = Field(description="Whether tables that the role may not read were left out.")
    role: str = Field(description="Whose rights, policies and settings count; empty: the role of the connection.")
    changes: str = Field(description="What the refresh that made this revision found, such as `3 tables changed`.")


class TableModel(BaseModel):
    """One relation of a shadow; `rows` is null where it was never analyzed."""

    name: str
    kind: str
    rows: float | None
    bytes: int
    indexes: int


class ShadowDetailModel(ShadowModel):
    """One shadow with its tables; `server_version` is the planner's, `source_version` the source's."""

    source_version: str
    planned_by: str
    settings: dict[str, str] = Field(description="Planner settings of the source, where they differ from the default.")
    tables: list[TableModel]


class RuleModel(BaseModel):
    """One rule's documentation."""

    code: str
    name: str
    kind: Literal["rewrite", "index", "schema"]
    source: str
    summary: str
    what: str
    why: str
    example: str
    instead: str
    preconditions: str


class JobStartedModel(BaseModel):
    """A job was queued: ask GET /v1/jobs/ID how it goes."""

    job: str


class ProblemModel(BaseModel):
    """RFC 9457 problem details; `line` and `column` are 1-based places in the SQL."""

    type: str = Field(examples=["urn:planproof:problem:sql"])
    title: str
    status: int
    detail: str
    line: int | None = None
    column: int | None = None


class JobModel(BaseModel):
    """How a job is doing: `progress` is the share that is done, 0 to 1, `step` what is being done."""

    id: str
    kind: str = Field(examples=["shadow.add", "shadow.refresh"])
    shadow: str = Field(description="The shadow that it makes or changes.")
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: float
    step: str
    error: ProblemModel | None
    created: str = Field(description="ISO 8601, UTC, as are the others.")
    started: str | None
    ended: str | None
    attempt: int = Field(description="How often it was begun.")
    cancel_requested: bool
    version: int = Field(description="Counts its changes; the id of the event that told of this one.")


class HealthModel(BaseModel):
    """The service answers."""

    status: Literal["ok"]


class ReadyModel(HealthModel):
    """The service can work; `jobs` says how its store of jobs was when it was last needed."""

    jobs: Literal["ok", "unavailable", "unused"]
