"""A stranger's package of plugins, really built and installed: one that works and two that are broken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import sqlglot
from command_line import ROOT, Outcome, planproof

from optimizer.catalog import Catalog
from optimizer.dialect import PlanproofPostgres
from optimizer.hooks import Plugins
from optimizer.query import Query
from optimizer.rule import RewriteRule
from optimizer.settings import Settings

SOURCE = ROOT / "fixtures" / "plugin_package"
SCHEMA = """
CREATE TABLE reviews (id bigint PRIMARY KEY, body text);
INSERT INTO reviews SELECT i, md5(i::text) FROM generate_series(1, 2000) AS i;
"""
SLOW = "SELECT count(*) FROM (SELECT body FROM reviews ORDER BY body) AS r"


def wheel(folder: Path) -> Path:
    """Build the fixture's wheel (the format is that of PEP 427), since no build backend is there without a network."""
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    stem = f"{project['name'].replace('-', '_')}-{project['version']}"
    entries = "".join(f"{name} = {value}\n" for name, value in project["entry-points"]["planproof"].items())
    files = {str(path.relative_to(SOURCE)): path.read_text() for path in SOURCE.rglob("*.py")}
    files |= {
        f"{stem}.dist-info/METADATA": "Metadata-Version: 2.1\n"
        f"Name: {project['name']}\nVersion: {project['version']}\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{stem}.dist-info/entry_points.txt": f"[planproof]\n{entries}",
    }
    files[f"{stem}.dist-info/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{stem}.dist-info/RECORD"])
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package was installed into."""
    folder = tmp_path_factory.mktemp("plugin")
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-warn-script-location"]
    subprocess.run([*pip, "--target", target, wheel(folder)], check=True)
    return target


def with_plugin(installed: Path, settings: Settings, *arguments: str | Path, stdin: str = "") -> Outcome:
    path = os.pathsep.join(filter(None, (str(installed), os.environ.get("PYTHONPATH"))))
    return planproof(*arguments, home=settings.home, stdin=stdin, env={"PYTHONPATH": path})


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    path = tmp_path / "schema.sql"
    path.write_text(SCHEMA)
    return path


def test_the_rules_are_listed(installed: Path, settings: Settings) -> None:
    done = with_plugin(installed, settings, "rules", "--json")
    rules = {rule["code"]: rule for rule in done.json}
    assert rules["ACME001"]["source"] == "plugin"
    assert rules["ACME001"]["preconditions"].startswith("The derived table has no LIMIT")
    assert (rules["ACME666"]["summary"], rules["ACME666"]["what"]) == ("broken", "")  # it documents nothing
    assert "RW401" in rules
    assert "ACME001" not in {rule["code"] for rule in planproof("rules", "--json", home=settings.home).json}


def test_a_plugin_that_cannot_be_imported_is_one_warning(installed: Path, settings: Settings) -> None:
    done = with_plugin(installed, settings, "rules", "--json")
    assert done.status == 0
    assert "warning: plugin acme_broken_import failed in import: RuntimeError: acme's licence server\n" in done.stderr
    assert done.stderr.count("acme_broken_import") == 1
    assert "Traceback" not in done.stderr


def test_effect_and_failures_in_one_report(installed: Path, settings: Settings, schema: Path) -> None:
    done = with_plugin(installed, settings, "optimize", "--schema", schema, "--json", stdin=SLOW)
    assert done.status == 0, done.stderr
    (advice,) = [a for a in done.json["advice"] if a["rules"] == ["ACME001"]]
    assert advice["source"] == "plugin"
    assert "ORDER BY" not in advice["sql"]
    assert advice["cost"]["after"] < advice["cost"]["before"]
    assert advice["equivalence"]["verdict"] in ("tested", "bounded", "proved")
    failures = {r["rule"]: r["detail"] for r in done.json["rejected"] if r["reason"] == "plugin_error"}
    assert "ZeroDivisionError: acme cannot count" in failures["ACME666"]
    assert "RuntimeError: acme's licence server" in failures["acme_broken_import"]


def test_a_wrong_rewrite_of_a_plugin_cannot_pass(installed: Path, settings: Settings, schema: Path) -> None:
    """With LIMIT the plugin's own precondition holds it back, so nothing of it is in the report."""
    sql = "SELECT count(*) FROM (SELECT body FROM reviews ORDER BY body LIMIT 5) AS r"
    done = with_plugin(installed, settings, "optimize", "--schema", schema, "--json", stdin=sql)
    assert all("ACME001" not in advice["rules"] for advice in done.json["advice"])


def test_commands_and_formats(installed: Path, settings: Settings, schema: Path) -> None:
    assert with_plugin(installed, settings, "acme").stdout == "hello from acme\n"
    shown = with_plugin(installed, settings, "optimize", "--schema", schema, "--format", "acme", stdin=SLOW)
    assert re.fullmatch(r"\d+ pieces of advice\n", shown.stdout)
    assert "command optimize was left out: the name is taken" in shown.stderr
    unknown = planproof("optimize", "--schema", schema, "-f", "acme", home=settings.home, stdin=SLOW)
    assert "no renderer knows the format acme" in unknown.failed(3)


def test_the_worked_example_of_the_documentation(installed: Path) -> None:
    """The page's code is a plugin that does what the page says."""
    page = (ROOT / "docs" / "hooks.md").read_text()
    (code,) = re.findall(r"`acme_planproof/__init__\.py`:\n\n````python\n(.*?)````", page, flags=re.DOTALL)
    module: dict[str, object] = {"__name__": "acme_documented"}
    exec(code, module)
    (rule,) = module["planproof_rules"]()  # type: ignore[operator]
    assert isinstance(rule, RewriteRule)
    (rewrite,) = rule.rewrites(Query.parse(SLOW), Catalog({}))
    expected = sqlglot.parse_one(SLOW.replace(" ORDER BY body", ""), dialect=PlanproofPostgres)
    assert sqlglot.parse_one(rewrite.sql, dialect=PlanproofPostgres) == expected
    assert rule.doc.preconditions


def test_one_plugin_that_raises_hurts_no_other() -> None:
    assert Plugins().failures == []
