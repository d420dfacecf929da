# `make quickstart` and `make test` do all set-up themselves, in .venv, once.
PYTHON ?= python3
# Of the quickstart: maskformer or mask2former.
MODEL ?= maskformer
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# Modules are compiled when they are first imported: all of PyTorch's at once would take longer.
# So Python must be allowed to write byte code, also where the environment says otherwise.
export PYTHONDONTWRITEBYTECODE :=
INSTALL := $(PIP) install --no-compile --no-build-isolation --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help quickstart test gpu lint format clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 20

quickstart: $(VENV)/.stamp-run ## make data, train a small model on CPU, evaluate it, draw pictures
	$(PY) -m tools.quickstart --model $(MODEL)

test: $(VENV)/.stamp-dev ## run the tests
	$(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal

gpu: $(VENV)/.stamp-dev ## run what needs a GPU, tests and benchmarks, in ten minutes; see output/gpu
	$(PY) -m benchmarks.gpu output/gpu

lint: $(VENV)/.stamp-dev ## check style and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(VENV)/.stamp-dev ## put imports and formatting right
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean: ## remove the environment, caches and outputs (the data sets stay)
	rm -rf $(VENV) build dist output .pytest_cache .ruff_cache *.egg-info

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: Python 3.10 or newer is needed; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "error: $(PYTHON) lacks the venv module (Debian, Ubuntu: package python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# What running needs. Three dependencies come as source: setuptools and wheel build them.
$(VENV)/.stamp-run: setup.py constraints.txt tools/install_detectron2.py | $(PY)
	@echo "Setting up $(VENV): about two minutes, 6 GB with PyTorch."
	$(INSTALL) setuptools wheel
	$(INSTALL) --editable .
	$(PY) tools/install_detectron2.py
	@touch $@

# What the tests need besides.
$(VENV)/.stamp-dev: $(VENV)/.stamp-run
	$(INSTALL) --editable '.[dev]'
	@touch $@
