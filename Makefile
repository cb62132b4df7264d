# make        set everything up and run the default study to its figures and report.html
# make test   set everything up and run the tests
# make lint   formatting, lint and types, without the tests
PYTHON ?= python3
CORES ?= all
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count(), 4))')
STUDY ?= config.yaml
BIN := .venv/bin

.PHONY: study test lint format clean

study: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --cores $(CORES) --configfile $(STUDY)

test: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --lint

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules

# The stamp is written last, so that a setup that broke off is taken up again.
.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; say which with: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[workflow,cluster,language,embeddings,test]'
	touch $@

clean:
	rm -rf .venv .snakemake results report.html
