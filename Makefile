# Plait. `make serve` and `make test` do everything on a fresh machine that has Python 3.11 to 3.13 and a package index.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install install-dev serve test lint types unit format docs clean

VENV ?= .venv
PYTHON_BIN := $(VENV)/bin/python

# make serve MODEL=DIR HOST=0.0.0.0 PORT=8000 ARGS="any other option of plait serve"
MODEL ?=
HOST ?= 127.0.0.1
PORT ?= 8000
ARGS ?=

# make unit TESTS=tests/engine
TESTS ?= tests
# Tests that only compute. They take what processors those leave that start servers and wait for them, which run one after the other.
COMPUTING := tests/engine tests/helm tests/kernels tests/model
PYTEST := $(PYTHON_BIN) -m pytest
OTHERS = $(PYTEST) $(addprefix --ignore=,$(COMPUTING)) $(TESTS)
COMPUTE = nice -n 15 $(PYTEST) --timeout 900 --numprocesses 2 --dist loadfile $(COMPUTING)
COMPUTED := build/tests-that-compute.log

PINS := pyproject.toml constraints.txt deploy/install.sh

# $(call step,NAME,COMMAND): say what runs, run it, say how long it took.
define step
	@echo "==> $(1): $(2)"; SECONDS=0; $(2); echo "==> $(1): ok, $${SECONDS} s"
endef

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

install: $(VENV)/.installed ## what serving needs, in .venv

install-dev: $(VENV)/.installed-dev ## what testing needs, in .venv

$(VENV)/.installed: $(PINS)
	$(call step,install,deploy/install.sh $(VENV))
	@touch $@

$(VENV)/.installed-dev: $(PINS)
	$(call step,install,deploy/install.sh $(VENV) dev)
	@touch $(VENV)/.installed $@

serve: install ## serve on http://127.0.0.1:8000 (MODEL=DIR for a checkpoint)
	@echo "==> serve: $(VENV)/bin/plait serve --host $(HOST) --port $(PORT) $(if $(MODEL),--model '$(MODEL)') $(ARGS)"
	@exec $(VENV)/bin/plait serve --host $(HOST) --port $(PORT) $(if $(MODEL),--model '$(MODEL)') $(ARGS)

test: lint types unit ## linters, type checker and every test
	@echo "==> test: all passed"

lint: install-dev ## ruff: rules and formatting
	$(call step,lint,$(VENV)/bin/ruff check)
	$(call step,format,$(VENV)/bin/ruff format --check)

types: install-dev ## mypy --strict
	$(call step,types,$(VENV)/bin/mypy --strict)

# One thread a process: the tests' matrices are tiny, and several processes share the cores.
unit: export OMP_NUM_THREADS ?= 1
unit: install-dev ## the tests alone (TESTS=path for some of them)
ifeq ($(TESTS),tests)
	@echo "==> tests that compute, beside the others: $(COMPUTE) >$(COMPUTED)"; mkdir -p $(dir $(COMPUTED)); SECONDS=0; failed=; \
	$(COMPUTE) >$(COMPUTED) 2>&1 & computing=$$!; trap "kill $$computing 2>/dev/null || true" EXIT; \
	echo "==> other tests: $(OTHERS)"; $(OTHERS) || failed+=" other tests"; \
	wait $$computing || failed+=" tests that compute"; cat $(COMPUTED); \
	echo "==> tests: $${failed:-ok}, $${SECONDS} s"; [ -z "$$failed" ]
else
	$(call step,tests,$(PYTEST) $(TESTS))
endif

format: install-dev ## let ruff rewrite the sources
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

docs: install ## the documentation site, in build/docs
	$(call step,install,$(VENV)/bin/pip install -q -c constraints.txt mkdocs mkdocs-material)
	$(call step,reference,$(VENV)/bin/plait reference >docs/reference/api.md)
	$(call step,docs,NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict)

clean: ## remove .venv and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
