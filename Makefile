# Everything runs in .venv, which the first target makes. Needs Python 3.11 or newer, pip and make; nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# Two steps, so that the demo need not wait for what only the tests need.
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready
# The pages of docs/ that are written by api/docs.py.
PAGES := rules settings

.PHONY: demo test check format docs bench lock clean
.DEFAULT_GOAL := demo

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "planproof needs Python 3.11 or newer; name it: make PYTHON=python3.12"; exit 1; }
	@echo "installing planproof into $(VENV)" >&2
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
	  { echo "the venv module is missing: on Debian, apt install python3-venv"; exit 1; }
	@$(PIP) install -r requirements.lock
	@$(PIP) install --no-deps --editable .
	@touch $@

$(READY): $(INSTALLED) requirements-dev.lock
	@echo "installing the tools that tests need into $(VENV)" >&2
	@$(PIP) install -r requirements-dev.lock
	@touch $@

demo: $(INSTALLED)
	@$(BIN)/planproof demo $(ARGS)

# Each worker starts servers of its own.
test: $(READY)
	@$(BIN)/pytest -n logical --maxprocesses 4 $(ARGS)

check: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@for page in $(PAGES); do $(BIN)/python -m api.docs $$page --check || exit 1; done
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec compose.yaml
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

format: $(READY)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(READY)
	@for page in $(PAGES); do \
	  $(BIN)/python -m api.docs $$page > docs/$$page.md.new && mv docs/$$page.md.new docs/$$page.md || exit 1; done

# Not here: the two long ones, which are run by name, and those that fill a database which is named to them.
bench: $(READY)
	@for script in $$(grep -l __main__ benchmarks/*.py | grep -v -e load_bench -e kill_bench -e tpch.py -e tpcds.py); do \
	  echo "== $$script"; $(BIN)/python $$script || exit 1; done

# The versions that are tested, written anew from the bounds in pyproject.toml.
lock: $(READY)
	@$(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/pip install --quiet 'pip-tools>=7.4'
	@$(VENV)/lock/bin/pip-compile --quiet --strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
	  --no-header --no-annotate --output-file requirements.lock pyproject.toml
	@$(VENV)/lock/bin/pip-compile --quiet --strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
	  --no-header --no-annotate --extra dev --extra telemetry --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
