"""What jobs do. A further kind of long work is one more entry of `TASKS`.

A job may begin more than once, since a worker can die at any moment. So every task has a mark: a text that its work
changes. An attempt that finds another mark than there was before the first one has nothing left to do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optimizer.errors import InputError
from optimizer.services import Services
from optimizer.shadow.source.reading import Progress
from optimizer.shadow.template.clone_options import CloneOptions

ADD_SHADOW, REFRESH_SHADOW = "shadow.add", "shadow.refresh"


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of job.

    Parameters:
        run: does the work, and tells its progress; what a killed run left behind must not disturb the next.
        mark: of what there is now; changes when, and only when, the work is done.
    """

    run: Callable[[Services, Mapping[str, Any], Progress], object]
    mark: Callable[[Services, Mapping[str, Any]], str]


def _add(services: Services, request: Mapping[str, Any], progress: Progress) -> object:
    name = request["name"]
    if "from" in request:
        options = CloneOptions().changed(**request.get("options", {}))
        return services.add_hollow(name, request["from"], progress, options)
    if "attach" in request:
        progress("reading the server", 0.1)
        return services.add_attached(name, request["attach"])
    progress("running the schema", 0.1)
    return services.add_files(name, request["schema"], request.get("stats"))


def _refresh(services: Services, request: Mapping[str, Any], progress: Progress) -> object:
    name = request["name"]
    options = services.registry.get(name).options.changed(**request.get("options", {}))
    return services.refresh(name, progress, options)


def _revision(services: Services, request: Mapping[str, Any]) -> str:
    """The shadow's revision; empty where there is none."""
    name = request["name"]
    if name not in services.registry.names():
        return ""
    with contextlib.suppress(InputError):
        return services.registry.get(name).revision
    return "damaged"


TASKS: Mapping[str, Task] = {
    ADD_SHADOW: Task(_add, _revision),
    REFRESH_SHADOW: Task(_refresh, _revision),
}
