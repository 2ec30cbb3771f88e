# Everything a developer types. `make` alone lists it.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
UV ?= uv
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# One environment, two stamps: serving needs requirements/base.txt, developing needs dev.txt, which holds
# the same versions and more. A stamp is older than what it was made from exactly when it must be made again.
SERVING := $(VENV)/.serving
DEVELOPING := $(VENV)/.developing
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -q
INSTALL = $(PIP) install --progress-bar off --require-hashes -r $(1) \
	&& $(PIP) install --no-index --no-build-isolation --no-deps --editable . \
	&& touch $@

.DEFAULT_GOAL := help
.PHONY: help install setup serve test test-gcs test-transformers mutations lint format bench soak lock clean

help: ## List these commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1	\2/' | expand -t 25
	@echo 'Settings: PYTHON=python3.13 (any command, before the first setup), HOST= and PORT= (serve), ARGS= (test, bench, soak)'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "make: needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1 | head -n 1)." >&2; \
		echo 'Name another one: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.13' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo 'make: this Python lacks its venv module. On Debian or Ubuntu: apt install python3-venv' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(SERVING): requirements/base.txt pyproject.toml | $(BIN)/python
	@echo 'Installing what serving needs into $(VENV) (once)'
	@$(call INSTALL,requirements/base.txt)

$(DEVELOPING): requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo 'Installing what development needs into $(VENV) (once)'
	@$(call INSTALL,requirements/dev.txt)
	@touch $(SERVING)

install: $(SERVING) ## Make .venv with what serving needs

setup: $(DEVELOPING) ## Make .venv with everything that development needs

define TRY
Try, in another terminal:
  curl -s http://$(HOST):$(PORT)/v1/models/sentiment/predict -H 'Content-Type: application/json' -d '{"data":[{"text":"What a lovely day"}]}'
  curl -s http://$(HOST):$(PORT)/v1/jobs -H 'Content-Type: application/json' -d '{"model":"sentiment","data":[{"text":"Good"},{"text":"Awful"}]}'
  curl -s http://$(HOST):$(PORT)/v1/jobs
The API's own pages: http://$(HOST):$(PORT)/docs

endef

serve: export TRY := $(TRY)
serve: $(SERVING) ## Migrate the database, then serve on HOST:PORT (127.0.0.1:8000)
	@$(BIN)/twofold db upgrade
	@echo "$$TRY"
	@exec $(BIN)/gunicorn -b $(HOST):$(PORT) asgi:app

# Where this is set, as images of containers do, each of the hundreds of processes that tests start would compile the
# project anew, and each of pytest's own would rewrite all tests.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(DEVELOPING) ## Run all tests, on SQLite and on PostgreSQL (ARGS="-k fence -x")
	@$(BIN)/pytest --timeout 120 --numprocesses 4 --dist worksteal $(ARGS)

# Outside the locked requirements: torch from PyPI is a CUDA build of several GB. Name another one with TORCH=.
TORCH ?= torch==2.13.0

test-transformers: $(DEVELOPING) ## Test the adapter transformers, in a .venv-transformers with torch
	@test -x .venv-transformers/bin/python || $(PYTHON) -m venv .venv-transformers
	@.venv-transformers/bin/python -m pip --disable-pip-version-check -q install '$(TORCH)' 'transformers>=5.24' pytest pytest-timeout
	@.venv-transformers/bin/python -m pip --disable-pip-version-check -q install --require-hashes -r requirements/base.txt
	@.venv-transformers/bin/python -m pytest --timeout 120 tests/adapters/check_transformers.py $(ARGS)

test-gcs: $(DEVELOPING) ## Test Google's store (gs://) against an emulator, in a .venv-gcs with its clients
	@test -x .venv-gcs/bin/python || $(PYTHON) -m venv .venv-gcs
	@.venv-gcs/bin/python -m pip --disable-pip-version-check -q install --require-hashes -r requirements/dev.txt
	@.venv-gcs/bin/python -m pip --disable-pip-version-check -q install 'gcsfs>=2026.9' 'gcp-storage-emulator>=2026.7'
	@.venv-gcs/bin/python -m pytest --timeout 120 tests/data/check_gcs.py $(ARGS)

mutations: $(DEVELOPING) ## Show that the tests catch each guard of the queue that is removed
	@$(BIN)/python tests/mutations.py

lint: $(DEVELOPING) ## Check style, types and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEVELOPING) ## Format the code and mend what can be mended
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(DEVELOPING) ## Measure (ARGS="...")
	@$(BIN)/python benchmarks/run.py $(ARGS)

soak: $(DEVELOPING) ## Kill processes at random while jobs run (ARGS="--kills 200 --executor process")
	@$(BIN)/python -m tests.soak.soak $(ARGS)

# One version per package for every Python (fewest), so that all of them test what all of them serve.
LOCK = $(UV) pip compile pyproject.toml --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' --quiet

# All extras but transformers, whose torch is a CUDA build of several GB: `make lock` must not bring that to everyone.
EXTRAS = $(patsubst %,--extra %,s3 http joblib skops onnx mlflow remote dask)

lock: ## Renew requirements/*.txt from pyproject.toml (needs uv; ARGS=--upgrade for new versions)
	@command -v $(UV) >/dev/null || { echo 'make: lock needs uv: pip install uv, or make lock UV=path/to/uv' >&2; exit 1; }
	$(LOCK) $(ARGS) --group build -o requirements/base.txt
	$(LOCK) $(ARGS) --group dev $(EXTRAS) -c requirements/base.txt -o requirements/dev.txt
	@! grep -n '://' requirements/*.txt || { echo 'make: an address in a locked file: take it out' >&2; exit 1; }

clean: ## Remove .venv and what the tools left; the database stays
	rm -rf $(VENV) .venv-gcs .venv-transformers .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
