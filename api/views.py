"""JSON shapes of the contract that no type of the core has by itself; all faces print these."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from optimizer.errors import InputError
from optimizer.rule import Rule, RuleDoc

if TYPE_CHECKING:
    from optimizer.pipeline import Explanation
    from optimizer.shadow.port import ShadowDatabase
    from optimizer.shadow.registry import Registry, ShadowRecord

#: PostgreSQL's block size as embedded and as nearly everywhere.
BLOCK_BYTES = 8_192
_log = logging.getLogger("planproof")


def rule_view(rule: Rule) -> dict[str, Any]:
    """One entry of `planproof rules --json`; a plugin's rule without documentation has empty texts."""
    doc = documentation(rule)
    return {
        "code": rule.code,
        "name": rule.name,
        "kind": rule.kind,
        "source": rule.source,
        "summary": doc.summary,
        "what": doc.what,
        "why": doc.why,
        "example": doc.example,
        "instead": doc.instead,
        "preconditions": doc.preconditions,
    }


def documentation(rule: Rule) -> RuleDoc:
    """A rule's documentation; an undocumented rule of a plugin has its name as its summary, and nothing else."""
    try:
        return rule.doc
    except ValueError:
        return RuleDoc(rule.name, "", "", "", "", "")


def explanation_view(explanation: Explanation) -> dict[str, Any]:
    """What `planproof explain --json` prints."""
    plan = explanation.plan
    return {
        "plan": dict(plan.raw),
        "total_cost": plan.cost.total_cost,
        "indexes": [
            {
                "ddl": index.candidate.ddl(concurrently=False),
                "name": index.name,
                "storage_bytes": index.storage_bytes,
                "used": index.serves(plan),
            }
            for index in explanation.indexes
        ],
    }


def readable_records(registry: Registry) -> tuple[ShadowRecord, ...]:
    """All shadows whose records can be read; of a damaged one there is only a warning."""
    records = []
    for name in registry.names():
        try:
            records.append(registry.get(name))
        except InputError as error:
            _log.warning("%s", error)
    return tuple(records)


def record_view(record: ShadowRecord) -> dict[str, Any]:
    """One entry of `planproof shadow list --json`, without asking any server."""
    return {
        "name": record.name,
        "kind": record.kind,
        "server_version": record.server_version,
        "revision": record.revision,
        "created": record.created,
        "origin": record.origin,
        "not_cloned": list(record.not_cloned),
        "redact_statistics": list(record.options.redact_statistics),
        "only_readable": record.options.only_readable,
        "role": record.options.role,
        "changes": record.changes,
    }


def shadow_view(record: ShadowRecord, shadow: ShadowDatabase) -> dict[str, Any]:
    """What `planproof shadow show --json` prints: the entry, the planner that speaks, and the tables."""
    tables = shadow.catalog().tables.values()
    return {
        **record_view(record),
        **shadow.info.as_dict(),
        "source_version": record.server_version,
        "settings": dict(record.settings),
        "tables": [
            {
                "name": table.qualified,
                "kind": table.kind,
                "rows": table.rows if table.rows >= 0 else None,
                "bytes": table.pages * BLOCK_BYTES,
                "indexes": len(table.indexes),
            }
            for table in sorted(tables, key=lambda table: (table.schema, table.name))
        ],
    }
