"""Settings: read once from the environment (prefix `PLANPROOF_`), handed down explicitly."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


def default_home() -> Path:
    """Return the data folder: the user's data folder, or for root the machine's state folder.

    root's own home is closed to the unprivileged account that the embedded server must run as.
    """
    if os.name == "posix" and os.geteuid() == 0:
        return Path("/var/lib/planproof")
    return Path(platformdirs.user_data_dir("planproof", appauthor=False))


class Settings(BaseSettings):
    """All settings. Times are milliseconds, sizes bytes."""

    model_config = SettingsConfigDict(env_prefix="PLANPROOF_", frozen=True, extra="ignore")

    home: Path = Field(default_factory=default_home, description="Data folder: clusters, shadows, caches.")
    max_sql_bytes: int = Field(1_000_000, gt=0, description="Largest query accepted.")
    max_schema_bytes: int = Field(64_000_000, gt=0, description="Largest schema file or text accepted.")
    explain_timeout_ms: int = Field(5_000, gt=0, description="Limit for one EXPLAIN.")
    optimize_timeout_ms: int = Field(60_000, gt=0, description="Limit for one whole optimization.")
    verify_timeout_ms: int = Field(10_000, gt=0, description="Limit for one equivalence verdict.")
    verify_databases: int = Field(60, gt=0, description="Generated databases tried for one verdict.")
    cluster_linger_s: int = Field(300, ge=0, description="Seconds an unused embedded server keeps running.")
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
    log_format: Literal["json", "console"] = Field("json", description="How the servers print their log to stderr.")
    store_url: SecretStr | None = Field(
        None, description="PostgreSQL database for jobs; without it planproof runs one of its own."
    )
    job_concurrency: int = Field(2, gt=0, description="Jobs that one worker runs at once.")
    job_timeout_ms: int = Field(3_600_000, gt=0, description="Limit for one job.")
    job_keep_days: int = Field(7, gt=0, description="Days after which ended jobs are forgotten.")

    @cached_property
    def clusters(self) -> Path:
        """Folder of the embedded clusters."""
        return self.home / "clusters"

    @cached_property
    def shadows(self) -> Path:
        """Folder of the registered shadows."""
        return self.home / "shadows"
