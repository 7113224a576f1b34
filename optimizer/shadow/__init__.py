"""Shadow databases; this package is itself the plugin that opens those of the kinds hollow, files and attached.

port.py      what every shadow is; hollow.py and attached.py are the two, registry.py says which there are
source/      what is read of a source, and how
template/    the database that is made of it, once a revision
pages/       a source's physical shape without its rows: sizes of files, and the pages that planners read
pool.py      private copies of a template, in which requests plan
whatif/      hypothetical indexes in a copy; sizes/ says how large they would be
server/      the embedded PostgreSQL servers in which all of this happens
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from optimizer.hooks import hookimpl
from optimizer.shadow.attached import AttachedShadow
from optimizer.shadow.hollow import HollowShadow
from optimizer.shadow.port import ShadowDatabase
from optimizer.shadow.registry import Registry, ShadowRecord
from optimizer.shadow.server.cluster import ClusterKind

if TYPE_CHECKING:
    from optimizer.services import Services


@hookimpl
def planproof_open_shadow(record: ShadowRecord, services: Services) -> ShadowDatabase | None:
    """Open shadows of the kinds hollow, files and attached."""
    supervisor, settings = services.supervisor, services.settings
    registry = Registry(record.folder.parent.parent)
    if record.kind in ("hollow", "files"):
        cluster = functools.partial(supervisor.cluster, ClusterKind.HOLLOW, record.planner_major)
        return HollowShadow(record, registry, cluster, settings, services.idle)
    if record.kind == "attached":
        return AttachedShadow(record, registry.dsn(record.name), settings)
    return None
