# `make sweep` runs the study `quickstart`; `make test` passes lint, types and tests.
# Both set up .venv by themselves: nothing but Python 3.11+ and make is needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ROOMS := orchestrator tasks clusters results
HOME_DIR ?= runs
# Progress marks that pip prints are lost in a log; its errors are not.
PIP := $(BIN)/pip --disable-pip-version-check --quiet

.PHONY: help setup sweep test test-slow lint types clean
.DEFAULT_GOAL := help

help:
	@echo "make sweep      set up, then run the study 'quickstart' (at most 4 minutes on two cores)"
	@echo "make test       set up, then lint, types and tests (under 12 minutes on two cores)"
	@echo "make test-slow  the tests that take minutes each"
	@echo "make clean      remove .venv and caches; results in $(HOME_DIR)/ stay"

$(VENV)/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sensweep needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip
	$(PIP) install -e '.[dev]'
	touch $@

setup: $(VENV)/ready

sweep: setup
	$(BIN)/sensweep run quickstart --home $(HOME_DIR)

# A tree in which mypy finds each folder X as sensweep.X, as the installed package does.
.typing:
	mkdir -p .typing/sensweep
	for room in $(ROOMS); do ln -sfn ../../$$room .typing/sensweep/$$room; done

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup .typing
	$(BIN)/mypy $(foreach room,$(ROOMS),-p sensweep.$(room))

test: lint types
	$(BIN)/pytest -m "not slow"

test-slow: setup
	$(BIN)/pytest -m slow

clean:
	rm -rf $(VENV) .typing .mypy_cache .ruff_cache .hypothesis build *.egg-info
