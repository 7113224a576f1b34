"""Settings: read once from the environment (prefix `PLANPROOF_`), handed down explicitly."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

import platformdirs
from pydantic import Field
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

    @cached_property
    def clusters(self) -> Path:
        """Folder of the embedded clusters."""
        return self.home / "clusters"

    @cached_property
    def shadows(self) -> Path:
        """Folder of the registered shadows."""
        return self.home / "shadows"
