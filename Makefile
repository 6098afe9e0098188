# Two commands do everything, set-up included: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROMPT ?=
MODEL ?=
export PROMPT MODEL
OPTIONS ?=

.PHONY: demo test lint types check bench bench-peers bench-setup setup clean

setup: $(VENV)/.ready

# uv comes from the package registry into the virtual environment, so a fresh machine needs Python 3.11 alone.
$(VENV)/.ready: pyproject.toml uv.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "uv>=0.9"
	UV_PROJECT_ENVIRONMENT=$(VENV) $(BIN)/uv sync --quiet --frozen --inexact
	touch $@

demo: setup
	$(BIN)/python -m inngest_agents.demo $(if $(MODEL),--model "$$MODEL") $(if $(PROMPT),-- "$$PROMPT")

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

check: lint types

test: check
	$(BIN)/pytest -n 2 --dist worksteal

# The plot needs a library that nothing else does. OPTIONS="--quick" for a first look.
bench: bench-setup
	$(BIN)/python -m benchmarks $(OPTIONS)

bench-peers: bench-setup
	$(BIN)/python -m benchmarks --peers $(OPTIONS)

bench-setup: setup
	UV_PROJECT_ENVIRONMENT=$(VENV) $(BIN)/uv sync --quiet --frozen --inexact --group bench

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
