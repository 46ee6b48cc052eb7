# make demo and make test are all that is needed on a machine with Python 3.11 and make.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
AIRFLOW ?= 3.3.2
VENV ?= .venv
CONSTRAINTS = .ci/constraints-$(AIRFLOW).txt
BIN = $(VENV)/bin
# An Airflow without compiled bytecode starts three times slower, each time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all test-long test-floors lint types bench architecture protocol clean

demo: $(VENV)/ready
	$(BIN)/impala-lb demo

# The quick tests. They wait more than they work: two cores do six files at a time.
test: $(VENV)/ready
	$(BIN)/python -m pytest -n 6 --dist loadfile -m "not slow and not long" $(PYTEST_ARGS)

# All but hours, two files at a time. Only what `make test` leaves out: PYTEST_ARGS="-m 'slow and not long'".
test-all: $(VENV)/ready
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not long" $(PYTEST_ARGS)

# Hours; see tests/support/sizes.py.
test-long: $(VENV)/ready
	$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

# The quick tests with the lowest versions that pyproject.toml allows.
test-floors: .venv-floors/ready
	.venv-floors/bin/python -m pytest -n 6 --dist loadfile -m "not slow and not long" $(PYTEST_ARGS)

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
	$(BIN)/python benchmarks/common_path.py
	$(BIN)/python benchmarks/policies.py

# The picture of the floors in docs/architecture.md, after a change of what imports what.
architecture: $(VENV)/ready
	$(BIN)/python -m tests.house.architecture

# The picture of the machine in docs/protocol.md, after a change of impala/statement/protocol.py.
protocol: $(VENV)/ready
	$(BIN)/python -m tests.house.protocol_picture

$(VENV)/ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode \
	  --constraint $(CONSTRAINTS) "apache-airflow==$(AIRFLOW)" --editable ".[dev]"
	touch $@

.venv-floors/ready: pyproject.toml .ci/floors.txt $(VENV)/ready
	$(PYTHON) -m venv --clear .venv-floors
	$(BIN)/uv pip install --quiet --python .venv-floors/bin/python --compile-bytecode --requirement .ci/floors.txt
	$(BIN)/uv pip install --quiet --python .venv-floors/bin/python --no-deps --editable .
	touch $@

# After a change of a floor in pyproject.toml.
floors: $(VENV)/ready
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --python-version 3.11 --no-annotate \
	  --custom-compile-command "make floors" --extra dev --output-file .ci/floors.txt pyproject.toml

clean:
	rm -rf .venv* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
