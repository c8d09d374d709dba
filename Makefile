# Every target works on a fresh checkout: it makes .venv and installs into it if need be.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ROUNDS ?= 5
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install train launch tune test test-all test-cluster chaos check docs format bench bench-ray bench-tune bench-reproducible bench-accuracy cluster-files clean

help:  ## say what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## make .venv and install distcnn into it

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "distcnn needs Python 3.11 or newer; set PYTHON=python3.11, say"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

train: $(VENV)/.installed  ## train on this machine: make train CONFIG=article ARGS="training.epochs=3"
	$(BIN)/distcnn train $(CONFIG) $(ARGS)

launch: $(VENV)/.installed  ## train on two workers through Ray: make launch ARGS="workers.count=4"
	$(BIN)/distcnn launch $(CONFIG) $(ARGS)

tune: $(VENV)/.installed  ## search learning rates and channel counts: make tune ARGS="num_trials=20"
	$(BIN)/distcnn tune $(CONFIG) $(ARGS)

test: $(VENV)/.installed  ## run the unit tests, and a smoke test of each promise (3 min on two cores)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" tests/unit tests/smoke $(ARGS)

test-all: test $(VENV)/.mlflow-server  ## run all tests of one machine (11 min more)
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow tests/unit tests/integration $(ARGS)

# A server for one test. Its packages stay out of .venv: Lightning would import SciPy and matplotlib
# in every process, which makes a start a third slower.
$(VENV)/.mlflow-server: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --target $@ 'mlflow>=3.1'

# Two at a time: what starts a cluster keeps two cores busy, mostly with imports.
test-cluster: $(VENV)/.installed  ## run the tests on clusters: Ray, Slurm, hosts that fail (20 min)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/cluster $(ARGS)

chaos: $(VENV)/.installed  ## kill and stop workers on longer random schedules: make chaos ROUNDS=10
	$(BIN)/python -m pytest -s tests/cluster/test_launch_recovery.py -k killed_or_hang \
	  --chaos-rounds=$(ROUNDS) $(ARGS)

check: $(VENV)/.installed  ## lint, format, types, import direction, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/python -m pytest -q tests/unit/test_imports.py
	$(MAKE) --no-print-directory docs

# The theme's advertisement of its successor is no warning about these pages.
docs: $(VENV)/.installed  ## build the site of the documentation, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

format: $(VENV)/.installed  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed  ## measure against a plain loop and the best hand-written one (10 min)
	$(BIN)/python -m benchmarks.bench $(ARGS)

bench-ray: $(VENV)/.installed  ## measure launches against Ray's guide and one process (20 min)
	$(BIN)/python -m benchmarks.bench_ray $(ARGS)

bench-tune: $(VENV)/.installed  ## measure sweeps against Ray Tune's guide and their own training (80 min)
	$(BIN)/python -m benchmarks.bench_tune $(ARGS)

bench-reproducible: $(VENV)/.installed  ## measure what the same bits on any number of workers cost (35 min)
	$(BIN)/python -m benchmarks.bench_reproducible $(ARGS)

bench-accuracy: $(VENV)/.installed  ## measure the accuracy of the best recipes over five seeds (hours on a CPU)
	$(BIN)/python -m benchmarks.bench_accuracy $(ARGS)

cluster-files: $(VENV)/.installed  ## render the files in cluster/ from their specs
	$(BIN)/python -m distcnn.cluster.shipped

clean:  ## remove .venv and caches; runs are kept
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
