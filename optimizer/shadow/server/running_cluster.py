"""A running embedded cluster: connecting to it, making its logins, running client programs against it."""

from __future__ import annotations

import hashlib
import hmac
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from optimizer.errors import ShadowUnavailableError
from optimizer.shadow.server.binaries import Binaries
from optimizer.shadow.server.cluster_folder import ClusterFolder
from optimizer.shadow.server.configuration import SUPERUSER, ClusterKind
from optimizer.shadow.server.connecting import attempts, is_full, last_line, passes, reason_of
from optimizer.shadow.server.watchdog import read_postmaster

_UNPRIVILEGED: LiteralString = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT NOREPLICATION NOBYPASSRLS"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster on which this process holds a lease.

    Parameters:
        kind: which of the three.
        home: its data folder (PGDATA).
        host: the folder of its socket.
        port: names the socket.
        binaries: the programs it was started with.
        started_by_us: whether this call started the server, or found it running.
        generation: changes at every start of the server.
    """

    kind: ClusterKind
    home: Path
    host: str
    port: int
    binaries: Binaries
    started_by_us: bool
    generation: str
    _folder: ClusterFolder = field(repr=False)
    _secret: bytes = field(repr=False)

    def conninfo(self, dbname: str, role: str | None = None) -> str:
        """Return a libpq connection string, password included: it must not be shown or logged.

        Parameters:
            dbname: the database.
            role: a role made by `ensure_role`; None is the superuser.
        """
        return make_conninfo(
            host=self.host,
            port=self.port,
            dbname=dbname,
            user=role or SUPERUSER,
            password=self._password(role),
            application_name="planproof",
            connect_timeout=10,
            client_encoding="UTF8",
            # A server that someone put in our place gets no password out of us.
            require_auth="scram-sha-256",
            # Said outright, because PGOPTIONS and their like in the user's environment would say otherwise.
            hostaddr="",
            options="",
            channel_binding="disable",
            gssencmode="disable",
            target_session_attrs="any",
        )

    def connect(
        self, dbname: str = "postgres", role: str | None = None, *, autocommit: bool = True, **arguments: Any
    ) -> psycopg.Connection[TupleRow]:
        """Open a connection.

        Parameters:
            dbname: the database.
            role: a role made by `ensure_role`; None is the superuser, which must never see users' SQL.
            autocommit: as psycopg means it.
            arguments: further ones for `psycopg.connect`.

        Raises:
            ShadowUnavailableError: the server cannot be reached, or refuses; one that is full is tried for a while.
        """
        for _ in attempts():
            try:
                return psycopg.connect(self.conninfo(dbname, role), autocommit=autocommit, **arguments)
            except psycopg.OperationalError as error:
                refusal = error
                if not passes(error):
                    break
        raise ShadowUnavailableError(
            f"the {self._folder.name} cluster refused a connection: {reason_of(refusal)}"
        ) from refusal

    def ensure_role(self, name: str, *, options: LiteralString = "") -> None:
        """Make the login `name`, or set it right if it exists. It may do nothing but log in, and has a password.

        Parameters:
            name: the role.
            options: further options of CREATE ROLE, such as "CONNECTION LIMIT 4"; part of the program, not user input.

        Raises:
            ShadowUnavailableError: the server cannot be reached, or refuses.
        """
        if name == SUPERUSER:
            raise ValueError(f"{SUPERUSER} is the superuser's name")
        with self.connect() as connection, connection.transaction():
            # Hashed here, so that the password itself never travels, not even into a server log.
            encrypted = connection.pgconn.encrypt_password(
                self._password(name).encode(), name.encode(), b"scram-sha-256"
            ).decode()
            # Two processes may make the same role at once.
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('planproof.role'))")
            known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone()
            command = sql.SQL("ALTER ROLE") if known else sql.SQL("CREATE ROLE")
            connection.execute(
                sql.SQL("{} {} WITH {} {} PASSWORD {}").format(
                    command, sql.Identifier(name), sql.SQL(_UNPRIVILEGED), sql.SQL(options), sql.Literal(encrypted)
                )
            )

    def run(
        self,
        program: str,
        *arguments: str | Path,
        dbname: str = "postgres",
        role: str | None = None,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a client program such as pg_dump and return what it printed.

        Parameters:
            program: its name among the binaries.
            arguments: its arguments; secrets belong in `env`.
            dbname: the database it meets by default.
            role: as for `connect`.
            stdin: what it reads.
            env: further environment variables. A program that is to meet another server needs that one's PGPASSWORD
                here, empty if there is none, or it would offer ours.
            timeout_s: seconds before it is killed; None waits.

        Raises:
            ShadowUnavailableError: it is missing, failed (the message has its last line on stderr) or took too long.
        """
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LC_ALL": "C",
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGDATABASE": dbname,
            "PGUSER": role or SUPERUSER,
            "PGPASSWORD": self._password(role),
            "PGAPPNAME": "planproof",
        }
        try:
            outcome = subprocess.run(  # noqa: S603 - a program of ours, no shell
                [self.binaries.path(program), *arguments],
                input=stdin if stdin is not None else b"",
                capture_output=True,
                check=False,
                timeout=timeout_s,
                env=environment | dict(env or {}),
            )
        except subprocess.TimeoutExpired as error:
            raise ShadowUnavailableError(f"{program} took longer than {timeout_s:g} s and was ended") from error
        except OSError as error:
            raise ShadowUnavailableError(f"{program} cannot be run: {error.strerror}") from error
        if outcome.returncode != 0:
            raise ShadowUnavailableError(f"{program} failed: {last_line(outcome.stderr.decode(errors='replace'))}")
        return outcome

    def chown(self, path: Path) -> None:
        """Give a file or folder that we made inside `home` to the account that the server runs as.

        Raises:
            OSError: there is no such file.
        """
        self._folder.account.own(path)

    def alive(self) -> bool:
        """Tell whether the server that this object was made for still runs; costs half a millisecond."""
        postmaster = read_postmaster(self.home)
        return postmaster is not None and postmaster.ready and postmaster.generation == self.generation

    def ended(self) -> bool:
        """Tell whether the server that this object was made for is gone or on its way: what failed may be tried again.

        Waits for one that is going. Ask it when something has failed, not in good times.
        """
        for _ in attempts():
            if not self.alive():
                return True
            try:
                psycopg.connect(self.conninfo("postgres")).close()
            except psycopg.OperationalError as error:
                if is_full(error):
                    return False
            else:
                return False
        return False

    def _password(self, role: str | None) -> str:
        if role is None or role == SUPERUSER:
            return self._secret.hex()
        return hmac.new(self._secret, role.encode(), hashlib.sha256).hexdigest()
