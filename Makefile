# Everything a developer needs; CI runs the same targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Processes of pytest; each uses one thread of torch.
WORKERS ?= auto
OUT ?= quickstart-out
# Which onnxruntime: `gpu` brings CUDA too, and exists for Linux on x86-64 and Windows alone. Its tests need no GPU.
RUNTIME ?= $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),gpu,cpu)

.PHONY: help install quickstart test lint lowest newest lowest-versions format browser docs dist clean

help:
	@echo "make install     virtual environment in $(VENV) with everything to learn, export, classify and test"
	@echo "make quickstart  learn, export and classify small real tasks offline; writes $(OUT)/"
	@echo "make test        ruff, mypy, deptry and pytest"
	@echo "make browser     chromium, nginx and node of Debian and npm's onnxruntime, for tests (make test calls it)"
	@echo "make lint        ruff, mypy and deptry alone"
	@echo "make lowest      the fast tests at the lowest versions that pyproject.toml allows (make test calls it)"
	@echo "make newest      the tests of towers with open_clip's newest release, where it is newer than here (make test calls it)"
	@echo "make format      let ruff format the code"
	@echo "make docs        the documentation site in site/, to be opened in a browser as it is"
	@echo "make dist        source archive and wheel in dist/, checked as PyPI checks them"
	@echo "make clean       remove caches, builds and the quickstart's output (not $(VENV))"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: python3.11 (or a newer python3) was not found" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed, $(PYTHON) is older; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[all,$(RUNTIME),dev]" -c constraints.txt
	touch $(STAMP)

quickstart: install
	$(BIN)/igsp quickstart --out $(OUT)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/deptry .

browser:
	sh tests/browser/install.sh

test: lint browser
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal
	$(MAKE) lowest
	$(MAKE) newest

lowest: install
	$(BIN)/python -m tests.installs.lowest -q -n $(WORKERS)

newest: install
	$(BIN)/python -m tests.installs.newest -q -n $(WORKERS)

# After a change of a lower bound.
lowest-versions: install
	$(BIN)/uv pip compile --quiet --upgrade pyproject.toml tests/installs/lowest.in --extra all --extra cpu --extra otel \
	  --resolution lowest-direct --override tests/installs/no_torch.txt --python-version 3.11 --no-annotate \
	  --custom-compile-command "make lowest-versions" --output-file tests/installs/lowest.txt

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: install
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf build dist site $(OUT) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
