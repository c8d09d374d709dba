# Every target works on a fresh checkout: it makes .venv and installs into it if need be.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONFIG ?= local
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install train test check format bench clean

help:  ## say what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## make .venv and install distcnn into it

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "distcnn needs Python 3.11 or newer; set PYTHON=python3.11, say"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

train: $(VENV)/.installed  ## train on this machine: make train CONFIG=article ARGS="training.epochs=3"
	$(BIN)/distcnn train $(CONFIG) $(ARGS)

test: $(VENV)/.installed  ## run all tests
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

check: $(VENV)/.installed  ## lint, format, types, import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/python -m pytest -q tests/unit/test_imports.py

format: $(VENV)/.installed  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed  ## measure against a plain loop and the best hand-written one (10 min)
	$(BIN)/python -m benchmarks.bench $(ARGS)

clean:  ## remove .venv and caches; runs are kept
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
