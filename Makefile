# Commands for working on media-worker. `make` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash

UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
# uv looks for Python 3.13 on the PATH and downloads it if there is none. The pyenv shim of a version that is not
# selected fails, so uv gets the path of the interpreter itself.
PYENV_PYTHON := $(shell command -v pyenv >/dev/null && ls -d "$$(pyenv root)"/versions/3.13.*/bin/python3.13 2>/dev/null | tail -n 1)
PYTHON_313 := $(or $(PYENV_PYTHON),3.13)
export UV_PROJECT_ENVIRONMENT := $(VENV)

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

# uv is installed into a venv below .cache, with any Python 3.11 or newer, and creates the project's .venv.
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

include cli/cli.mk
include layers/layers.mk
include bench/coldstart.mk
include tests/crash/crash.mk

.PHONY: test
# The tests of the local cloud wait most of the time. They run beside all others, in a process of their own.
test: setup ## run all tests, with coverage of lines
	@rm -f .coverage .coverage.*
	@$(BIN)/pytest -q tests/e2e > .cache/e2e.log 2>&1 & e2e=$$!; \
		$(BIN)/pytest -q -n 2 tests/unit tests/functional tests/rights tests/template tests/worker \
			--cov $(COV_OPTIONS) --cov-report= && \
		$(BIN)/coverage report && \
		$(BIN)/pytest -q -n 2 tests/crash tests/hostile && \
		$(BIN)/pytest -q -n 2 tests/packaging -k "contents or processed and 3.10"; \
		others=$$?; wait $$e2e; e2e=$$?; cat .cache/e2e.log; exit $$((others + e2e))

.PHONY: coverage
coverage: export COVERAGE_CORE := ctrace
coverage: COV_OPTIONS := --cov-branch
coverage: test ## run all tests, with coverage of lines and branches

.PHONY: test-wheel
test-wheel: setup ## install the wheel into every Python of this machine, by uv, pip and pipx, and work with it
	@$(BIN)/pytest -q tests/packaging

.PHONY: ui-screenshot
ui-screenshot: setup ## test the page in a browser, and write docs/ui.png
	@MEDIA_WORKER_SCREENSHOT=docs/ui.png $(BIN)/pytest -q tests/e2e/test_ui.py

# The linters of template.yaml are a separate project: .ci/template-checks/pyproject.toml says why.
TEMPLATE_CHECKS := .cache/template-checks
$(TEMPLATE_CHECKS)/.synced: $(BIN)/.synced .ci/template-checks/pyproject.toml .ci/template-checks/uv.lock
	@UV_PROJECT_ENVIRONMENT="$(CURDIR)/$(TEMPLATE_CHECKS)" \
		$(UV) sync -q --frozen --project .ci/template-checks --python $(BIN)/python
	@touch $@

.PHONY: joins
joins: setup ## measure holes in the audio over 30 joins, for each container and encoder
	@$(BIN)/python -m tests.fidelity.joins

CORPUS ?= .cache/clips
.PHONY: fidelity
fidelity: setup ## compare the final with the source for every video in CORPUS=dir (default: generated clips)
	@$(BIN)/python -m tests.fidelity $(CORPUS) $(if $(filter .cache/clips,$(CORPUS)),--make)
	@$(BIN)/python -m tests.fidelity.workers $(filter-out .cache/clips,$(CORPUS))

.PHONY: check
check: setup $(TEMPLATE_CHECKS)/.synced ## check lint, format, types and the template
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy .
	@$(BIN)/codespell
	@SAM_CLI_TELEMETRY=0 $(BIN)/sam validate --lint
	@SAM_CLI_TELEMETRY=0 $(BIN)/sam validate --lint --template examples/ecs-worker/template.yaml
	@$(TEMPLATE_CHECKS)/bin/cfn-lint --append-rules cfn_lint_serverless.rules
	@$(TEMPLATE_CHECKS)/bin/checkov

.PHONY: format
format: setup ## format the code and fix lint errors
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: bench
bench: setup-bench ## compare ways to split and join: writes docs/performance.json and .svg
	@$(BIN)/python -m bench.compare --out docs

.PHONY: bench-memory
bench-memory: setup-bench ## measure the peak memory of both handlers with a source of 2 GB
	@$(BIN)/python -m bench.memory

.PHONY: bench-local-memory
bench-local-memory: setup ## measure the memory and the disk space of a run in the local cloud
	@$(BIN)/python -m bench.local_memory

.PHONY: bench-plan
bench-plan: setup ## measure time and memory of planning a source of ten hours
	@$(BIN)/python -m bench.plan

.PHONY: bench-depth
bench-depth: setup ## files and functions executed, and stack depth at the first S3 call, for one chunking and one join
	@$(BIN)/python -m bench.call_depth

.PHONY: bench-requests
bench-requests: setup ## count the AWS requests of a job of 25 segments, with each engine
	@$(BIN)/python -m bench.job_requests $(ARGS)

.PHONY: load
load: setup ## kill workers of a job of 200 segments, and run 200 jobs at once, in the local cloud; ARGS=--help: larger runs
	@$(BIN)/python -m bench.load $(ARGS)

.PHONY: setup-bench
setup-bench: setup
	@$(UV) sync -q --frozen --inexact --group bench
