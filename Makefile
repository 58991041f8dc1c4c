# Everything here sets itself up: it needs python3 (3.11 or newer) with pip, and make. `make PYTHON=...`
# takes another Python. The environment is made without pip and filled by the outer one, which also works
# where the system's Python lacks ensurepip (Debian without python3-venv).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCHES = $(filter-out bench/gpu.py bench/_%.py, $(sort $(wildcard bench/*.py)))
INSTALL = "$(PYTHON)" -m pip --python $(BIN)/python install --quiet --disable-pip-version-check

.PHONY: help demo test lint bench gpu clean

help:
	@echo "make demo   seal a small bank's events, tamper with them and see each change named"
	@echo "make test   run the tests"
	@echo "make lint   check style and types"
	@echo "make bench  measure this machine"
	@echo "make gpu    test and measure on a CUDA GPU"
	@echo "make clean  remove what the commands above have made"

demo: $(VENV)/demo.stamp
	@$(BIN)/eventchain demo

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -q

lint: $(VENV)/dev.stamp
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

bench: $(VENV)/dev.stamp
	@for file in $(BENCHES); do echo "$$file"; $(BIN)/python "$$file" || exit 1; done

gpu: $(VENV)/gpu.stamp
	$(BIN)/python bench/gpu.py

clean:
	rm -rf $(VENV) build dist eventchain-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

# A stamp says: installed as pyproject.toml asks.

$(VENV)/demo.stamp: EXTRAS := demo
$(VENV)/dev.stamp: EXTRAS := dev
$(VENV)/gpu.stamp: EXTRAS := dev,cuda

$(VENV)/%.stamp: pyproject.toml | $(BIN)/python
	@echo "Installing eventchain[$(EXTRAS)] into $(VENV) (once; it takes a minute or two)"
	@$(INSTALL) --editable ".[$(EXTRAS)]"
	@touch $@

$(BIN)/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "EventChain needs Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -m pip --version > /dev/null \
	    || { echo "EventChain needs pip beside $(PYTHON) (Debian: apt install python3-pip)" >&2; exit 1; }
	@"$(PYTHON)" -m venv --without-pip $(VENV)
