"""The files for deployment agree with each other, with the program, and with what hardening means."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT, planproof
from deployment import (
    PREFIX,
    UNIT,
    composed,
    documents,
    image_environment,
    image_health,
    instructions,
    last_stage,
    unit,
)

from api import docs
from api.settings_page import settings_classes, variables

SETTINGS = {name for settings in settings_classes() for name in variables(settings)}
#: Not settings: the switch for tracebacks, and compose's own variable for the published port.
OTHER_VARIABLES = {"PLANPROOF_DEBUG", "PLANPROOF_PORT"}
SERVICES = composed()["services"]
OURS = ("service", "worker")


# --- the image


def test_the_image_runs_what_people_run_and_not_as_root() -> None:
    image = last_stage()
    assert image["ENTRYPOINT"] == ['["planproof"]']
    assert image["CMD"] == ['["serve", "--host", "0.0.0.0"]']
    uid, _, gid = image["USER"][0].partition(":")
    assert int(uid) > 0
    assert int(gid) > 0
    assert image["VOLUME"] == [image_environment()["PLANPROOF_HOME"]]
    assert image["EXPOSE"] == ["8432"]


def test_the_image_holds_no_compiler_and_is_built_by_the_script_that_is_tested() -> None:
    runs = [argument for name, argument in instructions() if name == "RUN"]
    assert f'deploy/install.sh {PREFIX} "$EXTRA"' in runs
    installed = [word for run in runs for word in re.findall(r"apt-get install(?: --\S+)* (.*?)(?: &&|$)", run)]
    assert [word.strip() for word in installed] == ["locales"]
    assert not [run for run in last_stage()["RUN"] if "apt" in run or "pip" in run]


def test_the_dockerfile_checker_finds_something_in_a_bad_file(tmp_path: Path) -> None:
    """`make check` runs it over ours; here, that it works at all."""
    hadolint = Path(sys.executable).parent / "hadolint"
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian\nRUN apt-get install curl\n")
    assert subprocess.run([hadolint, bad], check=False, capture_output=True).returncode == 1
    assert subprocess.run([hadolint, ROOT / "Dockerfile"], check=False).returncode == 0


# --- compose.yaml


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert "privileged" not in service
    assert name in OURS or service["user"] not in ("root", "0")
    assert service["healthcheck"]


def test_only_the_service_is_published_and_only_on_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["service"]
    assert all(port.startswith("127.0.0.1:") for port in published["service"])
    inside = {name for name, service in SERVICES.items() if service["networks"] == ["backend"]}
    assert inside == {"postgres", "redis"}
    assert composed()["networks"]["backend"] == {"internal": True}


def test_service_and_worker_differ_in_what_they_do_and_in_nothing_else() -> None:
    own = {"command", "ports", "healthcheck"}
    service, worker = ({k: v for k, v in SERVICES[name].items() if k not in own} for name in OURS)
    assert service == worker
    assert service["volumes"] == [f"home:{image_environment()['PLANPROOF_HOME']}"]
    assert service["environment"]["PLANPROOF_HOME"] == image_environment()["PLANPROOF_HOME"]
    assert service["init"] is True


def test_the_service_is_probed_as_the_image_is() -> None:
    options, command = image_health()
    health = dict(SERVICES["service"]["healthcheck"])
    assert health.pop("test") == ["CMD", *command]
    assert {key.replace("_", "-"): str(value) for key, value in health.items()} == options


@pytest.mark.parametrize(
    "command",
    [SERVICES["service"]["command"], SERVICES["worker"]["command"], ["serve", "--host", "0.0.0.0"]],
    ids=" ".join,
)
def test_the_containers_commands_are_planproofs(command: list[str], tmp_path: Path) -> None:
    outcome = planproof(*command, "--help", home=tmp_path)
    assert outcome.status == 0, outcome.stderr


def test_every_image_but_ours_has_a_version() -> None:
    images = {service["image"] for name, service in SERVICES.items() if name not in OURS}
    bases = [argument for name, argument in instructions() if name == "ARG" and argument.startswith("PYTHON_IMAGE")]
    for image in (*images, *(base.partition("=")[2] for base in bases)):
        assert re.search(r":\d", image), image


def test_every_secret_is_declared_made_and_known(tmp_path: Path) -> None:
    declared = composed()["secrets"]
    folder = tmp_path / "secrets"
    subprocess.run([ROOT / "deploy" / "make-secrets.sh", folder], check=True, stdout=subprocess.DEVNULL)
    assert {Path(secret["file"]).name for secret in declared.values()} == {file.name for file in folder.iterdir()}
    used = {name for service in SERVICES.values() for name in service.get("secrets", ())}
    assert used == set(declared)
    assert {name.upper() for name in used if name.startswith("planproof_")} <= SETTINGS


def test_secrets_are_random_closed_to_others_and_made_once(tmp_path: Path) -> None:
    made = []
    for folder in (tmp_path / "a", tmp_path / "b", tmp_path / "a"):
        subprocess.run([ROOT / "deploy" / "make-secrets.sh", folder], check=True, stdout=subprocess.DEVNULL)
        made.append({file.name: file.read_text() for file in folder.iterdir()})
        assert folder.stat().st_mode & 0o777 == 0o700
    assert made[0] == made[2]
    assert not set(made[0].values()) & set(made[1].values())
    assert made[0]["postgres_password"] in made[0]["planproof_store_url"]


# --- systemd


@pytest.fixture
def verifiable(tmp_path: Path) -> Path:
    """The unit with a program that is there, since the checker looks for it."""
    program = tmp_path / "bin" / "planproof"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(PREFIX, str(tmp_path)))
    return copy


def _systemd_analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    assert program is not None, "systemd-analyze is missing: on Debian, apt install systemd"
    return subprocess.run([program, *arguments], check=False, capture_output=True, text=True)


def test_the_unit_is_valid(verifiable: Path) -> None:
    found = _systemd_analyze("verify", "--recursive-errors=no", verifiable)
    assert (found.returncode, found.stderr) == (0, "")
    verifiable.write_text(verifiable.read_text().replace("Restart=on-failure", "Restart=on-failures"))
    assert "restart specifier" in _systemd_analyze("verify", "--recursive-errors=no", verifiable).stderr


def test_the_unit_is_hardened(verifiable: Path) -> None:
    """systemd's own scale: 10 is open, 0 is closed; 1.5 is what needs the network."""
    review = ("security", "--offline=true", "--no-pager")
    assert _systemd_analyze(*review, "--threshold=15", verifiable).returncode == 0
    verifiable.write_text(verifiable.read_text().replace("SystemCallFilter", "#SystemCallFilter"))
    assert _systemd_analyze(*review, "--threshold=15", verifiable).returncode == 1


def test_the_units_command_and_variables_are_planproofs(tmp_path: Path) -> None:
    program, *command = shlex.split(unit()["ExecStart"][0])
    assert program == f"{PREFIX}/bin/planproof"
    assert planproof(*command, "--help", home=tmp_path).status == 0
    (home,) = unit()["Environment"]
    assert home == f"PLANPROOF_HOME=/var/lib/{unit()['StateDirectory'][0]}"
    assert unit()["User"][0] in (ROOT / "deploy" / "planproof.sysusers").read_text()


# --- the documents


def test_the_page_of_settings_is_what_the_settings_are() -> None:
    assert docs.main(["settings", "--check"]) == 0, "run: make docs"
    page = (ROOT / "docs" / "settings.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == SETTINGS


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_setting_that_a_document_names_exists(document: Path) -> None:
    named = set(re.findall(r"PLANPROOF_[A-Z][A-Z_]*[A-Z]", document.read_text()))
    families = {name for name in named if f"{name}_..." in document.read_text() or name == "PLANPROOF_LLM"}
    assert named - families <= SETTINGS | OTHER_VARIABLES
