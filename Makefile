# make demo   a real run on the demo models        make test   the test suite
# Both make the environment first; PYTHON=python3.12 picks another Python (3.11 to 3.13).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow check clean
.DEFAULT_GOAL := help

help:
	@head -2 Makefile

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "error: Python 3.11, 3.12 or 3.13 is needed; try  make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/bayes-merger run experiment=demo

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/pytest -n auto --dist worksteal

test-slow: check
	$(BIN)/pytest -m 'slow and not gpu'

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
