"""What the files for deployment say, read for the tests: Dockerfile, compose.yaml, the systemd unit."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from command_line import ROOT

UNIT = ROOT / "deploy" / "planproof.service"
PREFIX = "/opt/planproof"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in text.splitlines() if line.strip()]


def last_stage() -> dict[str, list[str]]:
    """The arguments of the last stage's instructions, by instruction."""
    found: dict[str, list[str]] = {}
    for name, argument in instructions():
        if name == "FROM":
            found = {}
        found.setdefault(name, []).append(argument)
    return found


def image_environment() -> dict[str, str]:
    """The variables of the image."""
    words = [word for line in last_stage()["ENV"] for word in shlex.split(line)]
    return dict(word.split("=", 1) for word in words)


def image_health() -> tuple[dict[str, str], list[str]]:
    """The options and the command of the image's health check."""
    options, _, command = last_stage()["HEALTHCHECK"][0].partition("CMD ")
    return dict(word.removeprefix("--").split("=") for word in options.split()), json.loads(command)


def composed() -> dict[str, Any]:
    """compose.yaml, with its anchors merged in."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return loaded


def unit() -> dict[str, list[str]]:
    """The systemd unit's [Service] section: the values of each key, in order."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


def build_context() -> list[str]:
    """What .dockerignore lets into the build: it excludes everything, then admits paths one by one."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert lines[-1] == "**/__pycache__"
    assert all(line.startswith("!") for line in lines[1:-1])
    return [line.removeprefix("!") for line in lines[1:-1]]


def documents() -> list[Path]:
    """The files that name settings to people."""
    named = [ROOT / "README.md", ROOT / "compose.yaml", ROOT / "Dockerfile"]
    return [*named, *(ROOT / "docs").glob("*.md"), *(ROOT / "deploy").iterdir()]
