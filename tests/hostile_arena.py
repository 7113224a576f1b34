"""Where hostile input is let loose: a service on real clusters with short limits, and the canaries that must survive.

A canary is something that hostile input wants: a file's content, another session's query, another shadow's rows, a
changed catalog, a file written, disk filled, a lock or a session left behind, a server ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
from http_server import serving
from model_server import ModelServer, model_server

from api.app import create_app
from optimizer.equivalence.scratch import Lease
from optimizer.equivalence.session import Command, Session
from optimizer.equivalence.templates import MAX_TEMPLATES
from optimizer.errors import ShadowUnavailableError
from optimizer.pipeline import Optimizer
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.hollow import HollowSession
from optimizer.shadow.pool import MAX_ALL
from optimizer.shadow.server.cluster import Cluster, ClusterKind

#: Short, so that what never ends ends soon.
LIMITS: Final[dict[str, Any]] = {
    "explain_timeout_ms": 1_000,
    "verify_timeout_ms": 2_000,
    "optimize_timeout_ms": 8_000,
    "verify_databases": 16,
    "planning_memory_bytes": 1_200_000_000,
    "scratch_memory_bytes": 800_000_000,
    "max_schema_disk_bytes": 40_000_000,
    "cluster_linger_s": 10,
    "log_level": "error",
}
#: Bytes on disk that cases may leave behind: the log that each server keeps (256 MB, and what is on its way), copies
#: and templates that are kept for their next use (an empty database takes 8 MB), and anything else.
MAX_LOG: Final = 320 * 1024**2
MAX_DATABASES: Final = {ClusterKind.HOLLOW: MAX_ALL * 9_000_000, ClusterKind.SCRATCH: (MAX_TEMPLATES + 8) * 9_000_000}
MAX_OTHER: Final = 40_000_000
#: Seconds in which whatever a case started has to be gone.
PATIENCE_S: Final = 10.0
_KINDS: Final = (ClusterKind.HOLLOW, ClusterKind.SCRATCH)
_FIXED_DATABASES: Final = {
    ClusterKind.HOLLOW: ("postgres", "template1"),
    ClusterKind.SCRATCH: ("postgres", "template1"),
}
# Names of what comes and goes with requests.
_PASSING: Final = r"^(plan_|gate_|own_|read_|throwaway_|planproof_|hostile_)"
_MOVING: Final = re.compile(
    r"^(base|global|pg_[a-z]+|planproof_files|postmaster\.(pid|opts)|PG_VERSION|.*\.conf|socket)(/|$)"
)
_CATALOG: Final = r"""
    SELECT (SELECT md5(string_agg(p::text, '' ORDER BY p.oid)) FROM pg_proc p),
           (SELECT md5(string_agg(concat_ws(' ', oid, relname, relowner, relkind, relacl, reloptions), '' ORDER BY oid))
              FROM pg_class),
           (SELECT md5(string_agg(concat_ws(' ', oid, nspname, nspowner, nspacl), '' ORDER BY oid)) FROM pg_namespace),
           (SELECT md5(string_agg(l::text, '' ORDER BY l.oid)) FROM pg_largeobject_metadata l),
           (SELECT md5(string_agg(concat_ws(' ', oid, evtname), '')) FROM pg_event_trigger),
           (SELECT md5(string_agg(concat_ws(' ', oid, lanname, lanacl), '' ORDER BY oid)) FROM pg_language),
           (SELECT md5(string_agg(e::text, '' ORDER BY e.oid)) FROM pg_extension e)"""
_SHARED: Final = r"""
    SELECT (SELECT json_agg(to_json(a) ORDER BY a.oid) FROM pg_authid a WHERE rolname !~ %(passing)s),
           (SELECT json_agg(json_build_array(datname, datdba, datistemplate, datallowconn, datconnlimit, datacl)
                            ORDER BY oid) FROM pg_database WHERE datname !~ %(passing)s),
           (SELECT json_agg(json_build_array(name, setting) ORDER BY name) FROM pg_settings
             WHERE source IN ('configuration file', 'global', 'database', 'user')),
           (SELECT json_agg(s) FROM pg_db_role_setting s WHERE setdatabase = 0 AND setrole = 0),
           (SELECT count(*) FROM pg_tablespace),
           (SELECT count(*) FROM pg_prepared_xacts),
           (SELECT count(*) FROM pg_subscription)"""
_LEFT_BEHIND: Final = r"""
    SELECT (SELECT json_agg(json_build_array(usename, state, wait_event, left(query, 60))) FROM pg_stat_activity
             WHERE backend_type = 'client backend' AND usename <> 'planproof'
               AND (state <> 'idle' OR backend_xmin IS NOT NULL)),
           (SELECT json_agg(json_build_array(l.locktype, l.mode, a.usename)) FROM pg_locks l
              JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND a.usename <> 'planproof'),
           (SELECT json_agg(datname) FROM pg_database
             WHERE datname LIKE '%\_making' OR (datistemplate AND datname !~ '^template[01]$'))"""


@dataclass
class Arena:
    """A running service with its neighbours and secrets.

    Parameters:
        home: its data folder.
        services, optimizer: of this process.
        client: of its HTTP face.
        secret: a text that must appear in no answer.
        marker: with which the names of files begin that hostile input may try to write.
        neighbour: a planning session on another shadow.
        lease, reader: a database of the gate for another schema, and a session in it.
        model: a language model's endpoint that says what it is told to.
        cases: run so far.
    """

    home: Path
    services: Services
    optimizer: Optimizer
    client: httpx.Client
    secret: str
    marker: Path
    neighbour: HollowSession
    lease: Lease
    reader: Session
    model: ModelServer
    generations: dict[ClusterKind, str] = field(default_factory=dict)
    catalogs: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=lambda: dict(LIMITS))
    disk: Counter[str] = field(default_factory=Counter)
    cases: int = 0
    files: frozenset[str] = frozenset()
    watchers: dict[ClusterKind, psycopg.Connection[Any]] = field(default_factory=dict)

    def cluster(self, kind: ClusterKind) -> Cluster:
        """The running cluster."""
        return self.services.supervisor.cluster(kind)

    def replace(self, text: str) -> str:
        """Put the arena's own names into a case's text."""
        hollow = self.cluster(ClusterKind.HOLLOW)
        for name, value in {
            "@FILE@": str(hollow.home / "canary.txt"),
            "@DATA@": str(hollow.home),
            "@SCRATCH@": str(self.cluster(ClusterKind.SCRATCH).home / "canary.txt"),
            "@OUT@": str(self.marker),
            "@NEIGHBOUR@": self.neighbour._database.name,
            "@NEIGHBOUR_PID@": str(self.neighbour._explainer.connection.connection.info.backend_pid),
            "@READER_PID@": str(self.reader.pid),
            "@SUPERUSER_PID@": str(self.neighbour._database.superuser.info.backend_pid),
        }.items():
            text = text.replace(name, value)
        return text

    def remember(self) -> None:
        """Note how everything is that must stay so."""
        self.generations = {kind: self.cluster(kind).generation for kind in _KINDS}
        self.catalogs = self.shared() | self.private()
        self.disk = self.used_disk()
        self.files = self.listed()

    def harm(self, *, deep: bool = False) -> list[str]:
        """Say what was harmed since `remember`; nothing where all is well.

        Parameters:
            deep: look at the disk and into the catalogs of all fixed databases, too.
        """
        found = [
            f"the {kind} server was restarted"
            for kind in _KINDS
            if self.cluster(kind).generation != self.generations[kind]
        ]
        if found:
            return found
        found += self._left_behind()
        catalogs = self.shared() | (self.private() if deep else {})
        found += [f"changed: {name}" for name, value in catalogs.items() if value != self.catalogs[name]]
        found += [f"file written: {path}" for path in self.marker.parent.glob(f"{self.marker.name}*")]
        found += [f"new file: {name}" for name in self.listed() - self.files]
        if deep:
            found += self._disk_taken()
        return found + self._neighbour_harm()

    def shared(self) -> dict[str, Any]:
        """Roles, databases and settings of both servers, without those that come and go."""
        found: dict[str, Any] = {}
        for kind in _KINDS:
            with self.cluster(kind).connect() as admin:
                ((roles, databases, settings, defaults, *counts),) = admin.execute(
                    _SHARED, {"passing": _PASSING}
                ).fetchall()
            names = ("roles", "databases", "settings", "role settings", "tablespaces and the like")
            found |= dict(
                zip([f"{kind} {name}" for name in names], (roles, databases, settings, defaults, counts), strict=True)
            )
        return found

    def private(self) -> dict[str, Any]:
        """Digests of the catalogs of databases that no case may change."""
        found = {}
        for kind in _KINDS:
            fixed = [*_FIXED_DATABASES[kind]]
            fixed.append(self.neighbour._database.name if kind is ClusterKind.HOLLOW else "gate_blank")
            for name in fixed:
                with self.cluster(kind).connect(name, options="-c search_path=pg_catalog") as admin:
                    found[f"catalog of {kind} {name}"] = admin.execute(_CATALOG).fetchall()
        return found

    def used_disk(self) -> Counter[str]:
        """Bytes that the clusters take on disk, by folder; holes in sparse files take none."""
        taken: Counter[str] = Counter()
        for kind in _KINDS:
            data = self.cluster(kind).home
            for path in data.rglob("*"):
                with contextlib.suppress(FileNotFoundError):
                    taken[f"{kind} {path.relative_to(data).parts[0]}"] += path.lstat().st_blocks * 512
        return taken

    def _disk_taken(self) -> list[str]:
        """Say which folders grew beyond what is kept for good reason."""
        grown = self.used_disk() - self.disk
        limits = {f"{kind} pg_wal": MAX_LOG for kind in _KINDS}
        limits |= {f"{kind} base": limit for kind, limit in MAX_DATABASES.items()}
        return [
            f"{taken:,} bytes of disk taken in {folder}"
            for folder, taken in grown.items()
            if taken > limits.get(folder, MAX_OTHER)
        ]

    def listed(self) -> frozenset[str]:
        """Files of the data folders other than those that PostgreSQL itself makes, and links anywhere."""
        found = set()
        for kind in _KINDS:
            data = self.cluster(kind).home
            found |= {str(path) for path in data.iterdir() if not _MOVING.match(path.name)}
            found |= {str(path) for path in (data / "pg_tblspc").iterdir()}
        return frozenset(found)

    def _left_behind(self) -> list[str]:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            left = []
            for kind in _KINDS:
                try:
                    rows = self._watcher(kind).execute(_LEFT_BEHIND).fetchall()
                    left += [f"{kind}: {row}" for row in rows if any(row)]
                except (ShadowUnavailableError, psycopg.OperationalError) as error:
                    left.append(f"{kind}: {error}")
            if not left or time.monotonic() > deadline:
                return [f"left behind: {line}" for line in left]
            time.sleep(0.1)

    def _watcher(self, kind: ClusterKind) -> psycopg.Connection[Any]:
        """A superuser's connection that is kept as long as it stands."""
        known = self.watchers.get(kind)
        if known is None or known.closed or known.broken:
            self.watchers[kind] = known = self.cluster(kind).connect()
        return known

    def _neighbour_harm(self) -> list[str]:
        """The neighbours' sessions still answer, with their rows."""
        found = []
        try:
            plan = self.neighbour.explain(f"SELECT * FROM neighbour WHERE note = '{self.secret}'")
            if plan.root.type != "Seq Scan":
                found.append("the neighbour's plan has changed")
            answer = self.reader.run([[Command(f"SELECT '{self.secret}'")]], limit_s=5)[0][0]
            if answer.rows != ((self.secret.encode(),),):
                found.append(f"the neighbour's reader says {answer}")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is harm done
            found.append(f"the neighbour fails: {type(error).__name__}: {error}")
        return found


@contextlib.contextmanager
def arena() -> Iterator[Arena]:
    """Open a service with a home of its own, with neighbours that hold secrets."""
    home = Path(tempfile.mkdtemp(prefix="pp-"))
    home.chmod(0o711)
    secret = f"canary{secrets.token_hex(12)}"
    marker = Path(tempfile.gettempdir()) / f"pp-hostile-{secrets.token_hex(6)}"
    settings = Settings(home=home, **LIMITS)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        model = stack.enter_context(model_server())
        for name, value in model.environment.items():
            stack.callback(os.environ.pop, name, None)
            os.environ[name] = value
        services = stack.enter_context(Services.open(settings))
        stack.callback(services.supervisor.stop_all)
        client = stack.enter_context(serving(create_app(services)))
        optimizer = Optimizer(services)
        stack.callback(optimizer.close)
        for kind in _KINDS:
            cluster = services.supervisor.cluster(kind)
            canary = cluster.home / "canary.txt"
            canary.write_text(secret)
            cluster.chown(canary)
        shadow = services.throwaway(f"CREATE TABLE neighbour (note text); INSERT INTO neighbour VALUES ('{secret}');")
        session = stack.enter_context(shadow.session())
        assert isinstance(session, HollowSession)
        scratch = optimizer.gate._scratch
        lease = stack.enter_context(
            scratch.lease(scratch.schema(f"CREATE TABLE neighbour (note text DEFAULT '{secret}');"))
        )
        reader = scratch.reader(lease)
        stack.callback(reader.close)
        ready = Arena(home, services, optimizer, client, secret, marker, session, lease, reader, model)
        ready.remember()
        yield ready
        for watcher in ready.watchers.values():
            watcher.close()
