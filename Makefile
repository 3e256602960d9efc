# The two commands of the README: `make demo` and `make test`. Both set up `.venv` by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help test lint types demo bench clean

help:
	@echo 'make demo   set up .venv, train the embedded digits, superpose, show table and plots'
	@echo 'make test   set up .venv, then lint, types, doctests and the whole test suite'
	@echo 'make bench  every benchmark and the table of targets: 50 minutes on 2 idle cores'
	@echo 'make lint   ruff alone;  make types   mypy alone'
	@echo 'make clean  remove .venv and every cache'

$(VENV)/ready: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[experiments,test]'
	touch $@

demo: $(VENV)/ready
	$(BIN)/python -m experiments.main --workdir=runs/digits
	@echo 'plots are in runs/digits/plots; now try it on your own: README.md'

bench: $(VENV)/ready
	$(BIN)/python -m benchmarks

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/mypy

test: lint types
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

clean:
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
