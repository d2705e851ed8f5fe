# `make demo` and `make test` set everything up in .venv first; nothing but Python 3.11 is needed.
#
# To have PyTorch's CPU build where the default index has a larger one:
#     make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PIP_FLAGS ?=
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_FLAGS)

.PHONY: demo test lint types wheel check clean

demo: $(VENV)/.ready  ## all four stages on drawn people, in under five minutes
	$(BIN)/fpd demo -w work/demo

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready-dev
	$(BIN)/mypy

wheel: $(VENV)/.ready-dev
	$(BIN)/python -m build --wheel --outdir dist .

check: lint types test

clean:
	rm -rf $(VENV) build dist fpd.egg-info

$(VENV)/.ready: setup.cfg pyproject.toml constraints.txt
	@echo "setting up $(VENV) (PyTorch and the rest; a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(INSTALL) -e '.[dev]'
	@touch $@
