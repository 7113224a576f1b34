"""The OpenAPI document against the service: Schemathesis sends what fits the document and what does not.

By hand, for longer: SCHEMATHESIS_EXAMPLES=500 pytest tests/test_schemathesis.py
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from command_line import COMMAND, planproof
from http_server import service

from optimizer.settings import Settings

KEY = "schemathesis-0123456789"
SCHEMA = """
CREATE TABLE authors (id int PRIMARY KEY, email text NOT NULL UNIQUE, name text);
CREATE TABLE books (id int PRIMARY KEY, author_id int REFERENCES authors (id), title text NOT NULL);
"""
#: What fits the document need not make sense: most texts are no SQL, and fields can contradict each other.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "403", "404", "413", "422", "429"]
"""


def test_the_service_keeps_what_its_document_promises(settings: Settings, tmp_path: Path) -> None:
    # Not use_after_free: deleting a job cancels it, and how it went can still be asked.
    checks = ("--checks", "all", "--exclude-checks", "use_after_free")
    schema, config = tmp_path / "schema.sql", tmp_path / "schemathesis.toml"
    schema.write_text(SCHEMA)
    config.write_text(CONFIG)
    assert planproof("shadow", "add", "default", "--schema", schema, home=settings.home).status == 0
    examples = os.environ.get("SCHEMATHESIS_EXAMPLES", "5")
    with service(settings.home, API_KEYS=f'["{KEY}"]') as running:
        with running.client() as client:
            client.get("/healthz").raise_for_status()
        done = subprocess.run(
            [
                *(COMMAND.with_name("schemathesis"), "--no-color", "--config-file", config),
                *("run", f"{running.url}/openapi.json", *checks, "--mode", "all", "--continue-on-failure"),
                *("--phases", "examples,coverage,fuzzing,stateful", "--seed", "1", "--max-examples", examples),
                *("--header", f"Authorization: Bearer {KEY}", "--request-timeout", "60"),
                *("--generation-database", "none"),
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
            timeout=3_600,
        )
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
        assert re.search(r"Operations: +(\d+) selected / \1 total", done.stdout)
        assert not [line for line in running.lines if line["level"] == "error"]
    # One of the cases may have dropped it already.
    assert planproof("shadow", "drop", "default", home=settings.home).status in (0, 3)
