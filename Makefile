# PayCenter. Two commands matter: `make run` and `make test`. Everything is set up inside .venv; nothing needs root.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES := pyproject.toml setup.py server/requirements.txt client/pyproject.toml client/paycenter/version.py constraints.txt
JOBS ?= 2
# The tests that run at the same time: one more than the cores, because tests also wait.
TEST_JOBS ?= 3
# A process that starts compiles the whole program again where this is set: half as long again, and the tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run demo setup test lint unit e2e whole browser pictures mutants faults bench bench-large soak interop fuzz stubs diagrams events format clean help

help:
	@echo "make run      set up and run everything on this machine (Ctrl-C stops it)"
	@echo "make demo     make two payments from end to end and check every step"
	@echo "make test     set up and pass every check and test, except those of the commands below"
	@echo "make e2e      the whole program: wheels, starts, demos (make whole), and a person in a real browser (Chromium), with pictures"
	@echo "              in .e2e (make browser)"
	@echo "make pictures makes the pictures of docs/images from those of make e2e"
	@echo "make mutants  take each guard out in a copy, and see its tests fail (ARGS='--only NAME')"
	@echo "make interop  let other SDKs drive the simulator and verify our requests"
	@echo "make faults   the long campaigns: a kill at every await, races between processes, everything fails under load"
	@echo "make soak     a steady load for two hours: memory, connections and backlog stay flat (SECONDS=600 for a try)"
	@echo "make bench    the speed of the hot paths beside their ceilings, as ratios, in less than 6 minutes"
	@echo "make bench-large  the hot statements and the lists on few rows, then with a million orders"
	@echo "make fuzz     atheris on every parser, 5 minutes each (SECONDS_EACH=20 for a try)"
	@echo "make setup    set up only"
	@echo "make stubs    generate the stubs after a change of protos/"
	@echo "make diagrams generate the state diagrams of ARCHITECTURE.md"
	@echo "make events   generate docs/events from protos/paycenter/v1/events.proto"
	@echo "make format   format the code"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "PayCenter needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python $(SOURCES)
	$(PIP) --editable ./client --editable '.[local]'
	@touch $@

$(VENV)/.dev: $(BIN)/python $(SOURCES)
	$(PIP) --editable ./client --editable '.[local,dev]'
	@touch $@ $(VENV)/.run

run: $(VENV)/.run
	@$(BIN)/paycenter dev $(ARGS)

demo: $(VENV)/.run
	@$(BIN)/paycenter demo $(ARGS)

setup: $(VENV)/.dev

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code
	cd protos && ../$(BIN)/buf breaking --against baseline.binpb
	$(BIN)/lint-imports
	$(BIN)/python -m mypy server client tests tools benchmarks
	$(BIN)/python tools/stubs.py --check
	$(BIN)/python tools/diagrams.py --check
	$(BIN)/python tools/events.py --check

# The measurement of coverage takes a third of the time, so only the tests of domain/ and channels/ have it. Files in their order, so that
# the longest ones (contract, faults) do not begin last.
PYTEST := $(BIN)/python -m pytest --numprocesses $(TEST_JOBS) --dist loadfile --no-loadscope-reorder
COVERED := tests/contract tests/unit
APART := tests/browser tests/e2e tests/support tests/fuzz tests/interop

unit: $(VENV)/.dev
	$(PYTEST) $(filter-out $(COVERED) $(APART),$(patsubst %/,%,$(wildcard tests/*/))) $(ARGS)
	$(PYTEST) $(COVERED) --cov --cov-report=term:skip-covered $(ARGS)

# At the same time, because the checks of the types use one processor.
test: $(VENV)/.dev
	@$(MAKE) --no-print-directory -j2 lint unit

e2e: $(VENV)/.dev
	@$(MAKE) --no-print-directory --keep-going whole browser

whole: $(VENV)/.dev
	$(PYTEST) tests/e2e $(ARGS)

browser: $(VENV)/.dev
	$(BIN)/python -m pytest tests/browser $(ARGS)

pictures: $(VENV)/.dev
	$(BIN)/python tools/pictures.py

mutants: $(VENV)/.dev
	$(BIN)/python tools/mutants.py --jobs $(TEST_JOBS) $(ARGS)

faults: $(VENV)/.dev
	FAULTS=all $(BIN)/python -m pytest --timeout 3600 --numprocesses $(JOBS) --dist loadfile tests/faults tests/property/test_channel_machine.py $(ARGS)

soak: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m faults.deployment.soak --seconds $(or $(SECONDS),7200) $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/run.py $(ARGS)

bench-large: $(VENV)/.dev
	$(BIN)/python benchmarks/large.py $(ARGS)

interop: $(VENV)/.dev
	$(BIN)/python tests/interop/run.py

fuzz: $(VENV)/.dev
	$(BIN)/python tests/fuzz/run.py $(or $(SECONDS_EACH),300)

stubs: $(VENV)/.dev
	$(BIN)/python tools/stubs.py

diagrams: $(VENV)/.dev
	$(BIN)/python tools/diagrams.py

events: $(VENV)/.dev
	$(BIN)/python tools/events.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	cd protos && ../$(BIN)/buf format --write

clean:
	rm -rf $(VENV) .interop .e2e build dist *.egg-info client/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
