"""Shadow databases; this package is itself the plugin that opens those of the kinds hollow, files and attached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimizer.hooks import hookimpl
from optimizer.shadow.attached import AttachedShadow
from optimizer.shadow.cluster import ClusterKind
from optimizer.shadow.hollow import HollowShadow
from optimizer.shadow.port import ShadowDatabase
from optimizer.shadow.registry import Registry, ShadowRecord

if TYPE_CHECKING:
    from optimizer.services import Services


@hookimpl
def planproof_open_shadow(record: ShadowRecord, services: Services) -> ShadowDatabase | None:
    """Open shadows of the kinds hollow, files and attached."""
    supervisor, settings = services.supervisor, services.settings
    registry = Registry(record.folder.parent.parent)
    if record.kind in ("hollow", "files"):
        return HollowShadow(record, registry, lambda: supervisor.cluster(ClusterKind.HOLLOW), settings, services.idle)
    if record.kind == "attached":
        return AttachedShadow(record, registry.dsn(record.name), settings)
    return None
