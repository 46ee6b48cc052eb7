# make demo and make test are all that is needed on a machine with Python 3.11 and make.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
AIRFLOW ?= 3.3.2
VENV ?= .venv
CONSTRAINTS = .ci/constraints-$(AIRFLOW).txt
BIN = $(VENV)/bin
# An Airflow without compiled bytecode starts three times slower, each time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint types bench clean

demo: $(VENV)/ready
	$(BIN)/impala-lb demo

test: $(VENV)/ready
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/ready
	$(BIN)/python -m mypy

bench: $(VENV)/ready
	$(BIN)/python benchmarks/split.py
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/pick.py
	$(BIN)/python benchmarks/wait.py
	$(BIN)/python benchmarks/policies.py

$(VENV)/ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode \
	  --constraint $(CONSTRAINTS) "apache-airflow==$(AIRFLOW)" --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
