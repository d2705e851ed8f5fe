# `make demo` and `make test` set everything up in .venv first; nothing but Python 3.11 is needed.
#
# To have PyTorch's CPU build where the default index has a larger one:
#     make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PIP_FLAGS ?=
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_FLAGS)

.PHONY: demo test test-slow test-all lint types docs wheel check clean

demo: $(VENV)/.ready  ## all four stages on synthetic people
	$(BIN)/fpd demo -w work/demo

test: $(VENV)/.ready-dev  ## the fast tests, on all cores
	$(BIN)/python -m pytest -m "not slow" -n auto

# Long tables of damaged and hostile files, each handled in one process.
TABLES := tests/test_fuzz.py tests/stages/test_store_damage.py tests/stages/test_untrusted_store.py

test-slow: $(VENV)/.ready-dev  ## tables on all cores; clusters, browsers, kills two at a time
	$(BIN)/python -m pytest -m slow -n auto $(TABLES)
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile $(addprefix --ignore=,$(TABLES))

test-all: test test-slow

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready-dev
	$(BIN)/mypy

docs: $(VENV)/.ready-docs  ## check the generated pages, build the site
	$(BIN)/python docs/generate.py --check
	$(BIN)/mkdocs build --strict

wheel: $(VENV)/.ready-dev
	$(BIN)/python -m build --wheel --outdir dist .

check: lint types test

clean:
	rm -rf $(VENV) build dist site fast_pose_distillation.egg-info

$(VENV)/.ready: setup.cfg pyproject.toml constraints.txt
	@echo "setting up $(VENV) (PyTorch and the rest; a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(INSTALL) -e '.[dev]'
	@touch $@

$(VENV)/.ready-docs: $(VENV)/.ready
	$(INSTALL) -e '.[docs]'
	@touch $@
