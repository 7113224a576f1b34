"""Settings: read once from the environment (prefix `PLANPROOF_`), handed down explicitly."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def default_home() -> Path:
    """Return `~/.local/share/planproof`, or for root `/var/lib/planproof`: where applications keep data, and services.

    root's own home is closed to the unprivileged account that the embedded server must run as.
    """
    if os.name == "posix" and os.geteuid() == 0:
        return Path("/var/lib/planproof")
    return Path(platformdirs.user_data_dir("planproof", appauthor=False))


def secret_folders() -> tuple[Path, ...]:
    """Return the folders whose files give settings too, named as the variables are, such as `planproof_redis_url`.

    They are where containers (`/run/secrets`) and systemd (`$CREDENTIALS_DIRECTORY`) put secrets. The environment wins.
    """
    named = (Path("/run/secrets"), Path(os.environ.get("CREDENTIALS_DIRECTORY") or "/run/secrets"))
    return tuple(path for path in dict.fromkeys(named) if path.is_dir() and os.access(path, os.R_OK | os.X_OK))


class Settings(BaseSettings):
    """All settings. Times are milliseconds, sizes bytes."""

    model_config = SettingsConfigDict(
        env_prefix="PLANPROOF_", frozen=True, extra="ignore", secrets_dir=secret_folders()
    )

    home: Path = Field(default_factory=default_home, description="Data folder: clusters, shadows, caches.")
    max_sql_bytes: int = Field(1_000_000, gt=0, description="Largest query accepted.")
    max_schema_bytes: int = Field(64_000_000, gt=0, description="Largest schema file or text accepted.")
    max_schema_disk_bytes: int = Field(
        1_000_000_000, gt=0, description="Disk space that a database may take while a schema file is run in it."
    )
    explain_timeout_ms: int = Field(5_000, gt=0, description="Limit for one EXPLAIN.")
    optimize_timeout_ms: int = Field(60_000, gt=0, description="Limit for one whole optimization.")
    verify_timeout_ms: int = Field(10_000, gt=0, description="Limit for one equivalence verdict.")
    verify_databases: int = Field(60, gt=0, description="Generated databases tried for one verdict.")
    cluster_linger_s: int = Field(300, ge=0, description="Seconds an unused embedded server keeps running.")
    planner: Literal["source", "embedded"] = Field(
        "source",
        description="Who plans for sources older than the embedded PostgreSQL: a PostgreSQL of the source's own major "
        "version, where this machine has one, or always the embedded one.",
    )
    postgres_binaries: tuple[Path, ...] = Field(
        (),
        description='Folders with the server programs of other PostgreSQL versions, as a JSON list: ["/opt/pg15/bin"]. '
        "Where Debian, the RPMs and Homebrew put them is known.",
    )
    planning_memory_bytes: int = Field(
        2_500_000_000, gt=0, description="Address-space limit of each server process that plans (hollow cluster)."
    )
    scratch_memory_bytes: int = Field(
        1_500_000_000, gt=0, description="Address-space limit of each server process that the gate uses."
    )
    min_gain: float = Field(
        0.05, ge=0, lt=1, description="Smallest relative cost reduction that makes a rewrite advice."
    )
    min_index_gain: float = Field(
        0.2, ge=0, lt=1, description="The same for indexes, which also cost storage and writes."
    )
    allow_http_sources: tuple[str, ...] = Field(
        (), description="Hosts that DSNs sent over HTTP may name; none by default."
    )
    redis_url: SecretStr | None = Field(
        None, description="Redis that holds cached reports for all processes; without it each process has its own."
    )
    cache_ttl_s: int = Field(86_400, ge=0, description="Seconds a cached report is kept; 0 turns the cache off.")
    cache_memory_bytes: int = Field(64_000_000, ge=0, description="Cached reports that one process holds in memory.")
    api_keys: tuple[SecretStr, ...] = Field((), description="Keys that HTTP requests must show one of; none: open.")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Host names that HTTP requests may be sent to, beside those of this machine's loopback."
    )
    max_running: int = Field(
        0, ge=0, description="HTTP requests that one process works on at once; 0 takes the number of cores."
    )
    max_waiting: int = Field(32, ge=0, description="HTTP requests that may wait for their turn; further ones get 429.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe logged event.")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="How the servers print their log to stderr; auto is console on a terminal, else json."
    )
    store_url: SecretStr | None = Field(
        None, description="PostgreSQL database for jobs; without it planproof runs one of its own."
    )
    job_concurrency: int = Field(2, gt=0, description="Jobs that one worker runs at once.")
    job_timeout_ms: int = Field(3_600_000, gt=0, description="Limit for one job.")
    job_keep_days: int = Field(7, gt=0, description="Days after which ended jobs are forgotten.")

    @field_validator("store_url")
    @classmethod
    def _names_a_database(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            import psycopg.conninfo  # noqa: PLC0415 - most commands need no store

            try:
                psycopg.conninfo.conninfo_to_dict(url.get_secret_value())
            except psycopg.Error:
                # libpq's message quotes the string, and with it perhaps the password.
                raise ValueError("write postgresql://user:password@host:port/database") from None
        return url

    @cached_property
    def clusters(self) -> Path:
        """Folder of the embedded clusters."""
        return self.home / "clusters"

    @cached_property
    def shadows(self) -> Path:
        """Folder of the registered shadows."""
        return self.home / "shadows"
