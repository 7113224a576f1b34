"""Opens the store: the database that the settings name, or one of our own in the embedded store cluster."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Engine, create_engine, text
from sqlalchemy import exc as sqlalchemy_errors
from sqlalchemy.orm import Session

from optimizer.errors import ShadowUnavailableError, StoreUnavailableError
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Cluster, ClusterKind, Supervisor
from optimizer.store.migrate import migrate

DATABASE = "planproof"
#: The unprivileged owner of the embedded store's database.
ROLE = "planproof_store"
#: Connections that one process may have at once.
CONNECTIONS = 8
#: Seconds: for a connection out of the pool, for a new one, and for one statement.
POOL_TIMEOUT_S, CONNECT_TIMEOUT_S, STATEMENT_TIMEOUT_S = 5, 5, 30
#: Seconds for which a store that could not be reached is not tried again: the callers wait on threads of the service.
AWAY_S = 2.0

State = Literal["ok", "unavailable", "unused"]
_T = TypeVar("_T")
_log = logging.getLogger("planproof")
_AWAY = "the store of jobs cannot be reached: try again later (the log says why)"
_LOST = (
    sqlalchemy_errors.OperationalError,
    sqlalchemy_errors.InterfaceError,
    sqlalchemy_errors.TimeoutError,
    psycopg.OperationalError,
)


class Store:
    """The store of one process. Nothing is started or connected before it is needed; threads may share it.

    Parameters:
        settings: `store_url` names the database; without it the embedded store cluster is used.
        supervisor: of the embedded clusters.
    """

    def __init__(self, settings: Settings, supervisor: Supervisor) -> None:
        self._url = settings.store_url
        self._supervisor = supervisor
        self._engine: Engine = create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            pool_pre_ping=True,
            pool_size=CONNECTIONS // 2,
            max_overflow=CONNECTIONS - CONNECTIONS // 2,
            pool_timeout=POOL_TIMEOUT_S,
        )
        self._lock = threading.Lock()
        self._prepared = False
        self._migrated = False
        self._away_until = 0.0
        self._state: State = "unused"

    @contextlib.contextmanager
    def begin(self) -> Iterator[Session]:
        """Yield a session inside a transaction, which is committed at the end of the block.

        Errors: `StoreUnavailableError` when the store cannot be reached or goes away meanwhile; nothing is changed
            then, but where the connection broke during the commit it may be.
        """
        with self._told():
            self._migrate()
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                yield session
        self._state = "ok"

    def run(self, work: Callable[[Session], _T]) -> _T:
        """Call `work` in a transaction, and once more if the server went away meanwhile, as it does when it restarts.

        Parameters:
            work: comes to the same when it is done twice.

        Errors: as `begin`.
        """
        try:
            with self.begin() as session:
                return work(session)
        except StoreUnavailableError as error:
            if not isinstance(error.__cause__, sqlalchemy_errors.OperationalError):
                raise
        with self.begin() as session:
            return work(session)

    def prepare(self) -> None:
        """Make sure that the store is there, and its tables are this version's.

        Errors: `StoreUnavailableError`.
        """
        self.run(lambda session: session.execute(text("SELECT 1")))

    @property
    def state(self) -> State:
        """How the store was when it was last needed: `ok`, `unavailable`, or `unused` so far."""
        return self._state

    def conninfo(self) -> str:
        """A connection string, password included, to the store as it runs now; starts the embedded cluster.

        Errors: `StoreUnavailableError`.
        """
        with self._told():
            return self._conninfo()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _conninfo(self) -> str:
        options: dict[str, Any] = {"application_name": "planproof", "connect_timeout": CONNECT_TIMEOUT_S}
        options["client_encoding"] = "UTF8"  # a database in SQL_ASCII would hand out bytes
        if self._url is not None:
            given = conninfo_to_dict(self._url.get_secret_value())
            # A network that swallows packets must not hold a thread for the hours that the kernel would.
            options |= {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, **given}
            return make_conninfo(**options)
        cluster = self._supervisor.cluster(ClusterKind.STORE)
        with self._lock:
            if not self._prepared:
                _make_database(cluster)
                self._prepared = True
        return make_conninfo(cluster.conninfo(DATABASE, ROLE), **options)

    def _connect(self) -> psycopg.Connection[Any]:
        """Open a connection for the pool; at once unavailable if that has just failed."""
        if time.monotonic() < self._away_until:
            raise StoreUnavailableError(_AWAY)
        try:
            # No named statements: a pooler between us and the server may give each transaction another session.
            connection = psycopg.connect(self._conninfo(), prepare_threshold=None, autocommit=True)
            connection.execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT_S}s'".encode())
            connection.autocommit = False
        except (psycopg.Error, ShadowUnavailableError):
            self._away_until = time.monotonic() + AWAY_S
            raise
        return connection

    def _migrate(self) -> None:
        with self._lock:
            migrated = self._migrated
        if not migrated:
            with self._engine.begin() as connection:
                migrate(connection)
            with self._lock:
                self._migrated = True

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what means "it is not there" into our error; the reason, which names hosts and files, is logged."""
        try:
            yield
        except StoreUnavailableError:
            self._state = "unavailable"
            raise
        except _LOST as error:
            self._state = "unavailable"
            _log.warning("the store cannot be reached: %s", _reason(error))
            raise StoreUnavailableError(_AWAY) from error
        except ShadowUnavailableError as error:
            self._state = "unavailable"
            _log.warning("the store cannot be reached: %s", error)
            raise StoreUnavailableError(_AWAY) from error


def _make_database(cluster: Cluster) -> None:
    """Make the store's role and database, if they are not there."""
    cluster.ensure_role(ROLE)
    with cluster.connect() as admin:
        admin.execute("SELECT pg_advisory_lock(hashtext('planproof.store'))")  # until the connection is closed
        if admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
            names = sql.Identifier(DATABASE), sql.Identifier(ROLE)
            admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(*names))
        admin.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(DATABASE)))


def _reason(error: Exception) -> str:
    """The first line of what the driver says; SQLAlchemy's own text would add the statement and its values."""
    cause = error.orig if isinstance(error, sqlalchemy_errors.DBAPIError) else error
    return next((line.strip() for line in str(cause).splitlines() if line.strip()), type(error).__name__)
