"""What is shipped: an sdist and a wheel with the program and nothing else, which work where they are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import ROOT

from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Supervisor

PACKAGES = {"api", "optimizer", "plugins", "rules"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist and a wheel of this tree."""
    backend, out = tmp_path_factory.mktemp("backend"), tmp_path_factory.mktemp("dist")
    requirement = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"][0]
    _python("-m", "pip", "install", "--quiet", "--target", str(backend), requirement)
    _python("-m", "hatchling", "build", "--directory", str(out), PYTHONPATH=str(backend))
    return out


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment that holds the wheel; what it depends on is lent by the one that runs the tests."""
    venv = tmp_path_factory.mktemp("venv")
    _python("-m", "venv", "--without-pip", str(venv))
    (wheel,) = built.glob("*.whl")
    python = venv / "bin" / "python"
    options = ("--quiet", "--no-deps", "--no-index")
    _python("-m", "pip", "--python", str(python), "install", *options, str(wheel))
    (packages,) = (venv / "lib").glob("python*/site-packages")
    lent = [path for path in map(Path, sys.path) if path.name == "site-packages"]
    (packages / "lent.pth").write_text("".join(f"{path}\n" for path in lent))
    return venv


@pytest.fixture
def home() -> Iterator[Path]:
    """A data folder, short since it holds sockets."""
    with tempfile.TemporaryDirectory(prefix="pp-") as folder:
        path = Path(folder)
        path.chmod(0o711)
        yield path
        supervisor = Supervisor(Settings(home=path))
        supervisor.stop_all()
        supervisor.close()


def test_the_wheel_holds_the_four_packages_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    files = zipfile.ZipFile(wheel).namelist()
    tops = {file.partition("/")[0] for file in files if ".dist-info/" not in file}
    assert tops == PACKAGES
    sources = {str(p.relative_to(ROOT)) for name in PACKAGES for p in (ROOT / name).rglob("*.py")}
    assert sources <= set(files)
    assert any(file.endswith(".dist-info/licenses/LICENSE") for file in files)


def test_the_wheel_holds_what_the_demo_reads(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    files = set(zipfile.ZipFile(wheel).namelist())
    demo = {str(path.relative_to(ROOT)) for path in (ROOT / "plugins" / "demo").rglob("*.sql")}
    assert len(demo) > 10
    assert demo <= files


def test_the_sdist_holds_no_tests(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        tops = {member.name.split("/")[1] for member in opened.getmembers() if "/" in member.name}
    assert tops >= PACKAGES | {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}
    assert not tops & {"tests", "fixtures", "benchmarks", ".venv"}


def test_the_installed_command_knows_its_version_and_rules(installed: Path) -> None:
    expected = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert _planproof(installed, "--version").stdout == f"planproof {expected}\n"
    codes = {rule["code"] for rule in json.loads(_planproof(installed, "rules", "--json").stdout)}
    assert {"RW101", "RW401", "IX101"} <= codes


def test_the_demo_runs_from_the_wheel(installed: Path, home: Path) -> None:
    done = _planproof(installed, "demo", "--scale", "0.01", "--query", "login", "--json", PLANPROOF_HOME=str(home))
    assert done.returncode == 0, done.stderr
    (query,) = json.loads(done.stdout)["queries"]
    assert query["report"]["advice"]
    assert query["proof"]["same_rows"]


def _python(*arguments: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _planproof(venv: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command, from a folder that has nothing to do with it."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PLANPROOF_", "PYTHON"))}
    return subprocess.run(
        [venv / "bin" / "planproof", *arguments],
        cwd="/",
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
