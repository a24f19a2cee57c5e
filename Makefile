# `make test` and `make demo` set up all they need: Python >= 3.11 with pip is enough.  `make help` lists the rest.
#
# TORCH_INDEX=<address> installs torch from that package index; see CONTRIBUTING.md for when you want this.
# PYTHON=<interpreter>  makes the environment with that Python.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
# Made first thing and removed last thing by the set-up: an environment that still holds it is half made.
UNFINISHED := $(VENV)/.unfinished
STAMP := $(VENV)/.ready
LOCK := requirements/lock.txt
# What `make test` and `make demo` need beyond the core.
EXTRAS := text als report tensorboard serve redis postgres dev
# What a machine that only serves needs: the part of the lock that the image is made of.
SERVER_LOCK := requirements/server.txt
SERVER_EXTRAS := text serve redis postgres
# pip-audit has an environment of its own: it needs what nothing else here does.
AUDIT_VENV := .venv-audit
AUDIT_LOCK := requirements/audit.txt
# Empty: the package is copied into the environment, which then needs this directory no more.
EDITABLE := --editable
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
WORKERS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Bytecode is left to the first import: compiling all of the packages takes longer than installing them.
PIP_INSTALL := $(PIP) install -qq --no-compile
# uv installs the lock in a quarter of pip's time; where there is none, the set-up takes the locked one.
UV := $(or $(shell command -v uv 2>/dev/null),$(BIN)/uv)

.DEFAULT_GOAL := help
.PHONY: help setup check test demo audit format lock clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv with the locked versions

$(STAMP): $(LOCK) requirements/torch.txt pyproject.toml setup.py $(wildcard sememe/decode/native/*.cpp sememe/decode/native/*.h)
	@test -n "$(PYTHON)" || { echo "Sememe needs Python >= 3.11; make PYTHON=/path/to/python3" >&2; exit 1; }
	@if test -e $(UNFINISHED) || ! $(PIP) --version >/dev/null 2>&1; then \
		echo "making $(VENV) with $$($(PYTHON) --version)"; \
		rm -rf $(VENV) && mkdir $(VENV) && touch $(UNFINISHED) && \
		{ $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || \
		  { $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }; }; \
	fi
	@touch $(UNFINISHED) && rm -f $@
	@echo "installing the locked packages (the first time downloads about 500 MB)"
	@test -x $(UV) || ! grep -q '^uv==' $(LOCK) || { \
		awk '/^[a-z]/ {wanted = /^uv==/} wanted' $(LOCK) >$(VENV)/uv.txt && \
		$(PIP_INSTALL) --no-deps --require-hashes --only-binary :all: -r $(VENV)/uv.txt; } || true
	@# A uv that reaches no package index may stand beside a pip that is set up for one.
	@test -x $(UV) && $(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r $(LOCK) || \
		$(PIP_INSTALL) --no-deps --require-hashes -r $(LOCK)
	@# torch comes from pip whatever else is there: pip's own settings may say where a CPU build lies.
	@$(PIP_INSTALL) $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") -r requirements/torch.txt
	@$(PIP_INSTALL) --no-deps --no-build-isolation $(EDITABLE) .
	@rm -f $(UNFINISHED)
	@$(PIP) check || { echo "pyproject.toml and $(LOCK) disagree: make lock" >&2; exit 1; }
	@touch $@

check: $(STAMP)  ## lint, types and import layers, without the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## set up, then everything that must hold: lint, types, layers, tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

demo: $(STAMP)  ## set up, then recommend films from real ratings, end to end
	$(BIN)/sememe demo

audit:  ## look up known vulnerabilities of the locked packages; says so where they cannot be looked up
	@if test -x $(AUDIT_VENV)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT_VENV) && \
		$(AUDIT_VENV)/bin/python -m pip --disable-pip-version-check install -qq --no-deps --require-hashes -r $(AUDIT_LOCK); \
	} >/dev/null 2>&1; then \
		$(AUDIT_VENV)/bin/python .ci/audit.py $(AUDIT_VENV)/bin/pip-audit $(LOCK) requirements/torch.txt; \
	else \
		echo "audit SKIPPED: pip-audit could not be installed"; \
	fi

format: $(STAMP)  ## put the code in its standard form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:  ## write the locks in requirements/ anew from pyproject.toml
	@test -x $(UV) || { echo "make lock needs uv: make setup, or pip install uv" >&2; exit 1; }
	$(UV) pip compile pyproject.toml $(EXTRAS:%=--extra %) --constraints requirements/torch.txt --output-file $(LOCK) \
		--universal --python-version 3.11 --generate-hashes --no-emit-package torch \
		--no-annotate --no-header --no-emit-index-url --quiet $(LOCKFLAGS)
	$(UV) pip compile pyproject.toml $(SERVER_EXTRAS:%=--extra %) --constraints requirements/torch.txt \
		--constraints $(LOCK) --output-file $(SERVER_LOCK) \
		--universal --python-version 3.11 --generate-hashes --no-emit-package torch \
		--no-annotate --no-header --no-emit-index-url --quiet
	echo pip-audit | $(UV) pip compile - --output-file $(AUDIT_LOCK) --universal --python-version 3.11 --generate-hashes \
		--no-annotate --no-header --no-emit-index-url --quiet $(LOCKFLAGS)

clean:  ## remove the environment and all caches
	rm -rf $(VENV) $(AUDIT_VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find sememe tests -name __pycache__ -type d -prune -exec rm -rf {} +
