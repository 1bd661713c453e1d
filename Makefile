# The commands of media-worker. `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash

UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
# uv looks for Python 3.13 on the PATH and fetches it when there is none. A pyenv shim of a version that is not
# selected answers with an error, so uv is shown the real interpreter behind it.
PYENV_PYTHON := $(shell command -v pyenv >/dev/null && ls -d "$$(pyenv root)"/versions/3.13.*/bin/python3.13 2>/dev/null | tail -n 1)
PYTHON_313 := $(or $(PYENV_PYTHON),3.13)
export UV_PROJECT_ENVIRONMENT := $(VENV)

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# uv lives in a venv of its own below .cache, made by whatever Python 3.11+ is there; the project's .venv is uv's.
UV := .cache/uv/bin/uv
$(UV): Makefile
	@python3 -m venv .cache/uv
	@.cache/uv/bin/pip install -q --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

.PHONY: setup
setup: $(BIN)/.synced ## create .venv from uv.lock
$(BIN)/.synced: $(UV) pyproject.toml uv.lock
	@test -x $(BIN)/python || $(UV) venv -q --python "$(PYTHON_313)" $(VENV)
	@$(UV) sync -q --frozen
	@$(UV) pip install -q --python $(BIN)/python uv==$(UV_VERSION)
	@touch $@

include local/local.mk
include local/sam_local.mk
include layers/layers.mk
include bench/coldstart.mk
include tests/crash/crash.mk

.PHONY: test
# Three processes on two cores: these tests wait for ffmpeg and for clocks as much as they compute.
test: setup ## run all tests, with coverage
	@rm -f .coverage .coverage.*
	@$(BIN)/pytest -q -n 3 tests/unit tests/functional tests/rights tests/template --cov --cov-report=
	@$(BIN)/coverage report
	@$(BIN)/pytest -q -n 2 tests/crash tests/hostile
	@$(BIN)/pytest -q tests/e2e

# What looks at template.yaml is a project of its own: .ci/template-checks/pyproject.toml says why.
TEMPLATE_CHECKS := .cache/template-checks
$(TEMPLATE_CHECKS)/.synced: $(BIN)/.synced .ci/template-checks/pyproject.toml .ci/template-checks/uv.lock
	@UV_PROJECT_ENVIRONMENT="$(CURDIR)/$(TEMPLATE_CHECKS)" \
		$(UV) sync -q --frozen --project .ci/template-checks --python $(BIN)/python
	@touch $@

CORPUS ?= .cache/clips
.PHONY: fidelity
fidelity: setup ## judge split and join: every media file in CORPUS=dir (default: clips made for it)
	@$(BIN)/python -m tests.fidelity $(CORPUS) $(if $(filter .cache/clips,$(CORPUS)),--make)

.PHONY: check
check: setup $(TEMPLATE_CHECKS)/.synced ## lint, format, types, template
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy .
	@SAM_CLI_TELEMETRY=0 $(BIN)/sam validate --lint
	@$(TEMPLATE_CHECKS)/bin/cfn-lint --append-rules cfn_lint_serverless.rules -- template.yaml
	@$(TEMPLATE_CHECKS)/bin/checkov --file template.yaml --framework cloudformation --compact --quiet --skip-download

.PHONY: format
format: setup ## put the code into its one format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: bench
bench: setup-bench ## compare four ways to split and join: writes docs/performance.json and .svg
	@$(BIN)/python -m bench.compare --out docs

.PHONY: bench-memory
bench-memory: setup-bench ## peak memory of both handlers for a source of 2 GB
	@$(BIN)/python -m bench.memory

.PHONY: bench-depth
bench-depth: setup ## files and functions executed, and stack depth at the first S3 call, for one chunking and one join
	@$(BIN)/python -m bench.call_depth

.PHONY: setup-bench
setup-bench: setup
	@$(UV) sync -q --frozen --inexact --group bench
