# Every target sets itself up in a virtual environment of its own; nothing outside this folder is changed.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
SEED ?= $(shell date +%Y%m%d%H%M%S)

.PHONY: demo test test-all test-native lint clean

$(STAMP): pyproject.toml constraints/cpu.txt $(shell find csrc -type f)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/cpu.txt -e '.[dev]'
	touch $@

demo: $(STAMP)  ## Train four networks on a bundled sample and compare them (3 minutes on two cores)
	$(BIN)/precut demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint  ## A battery sampled by a printed seed; SEED=... repeats one
	$(BIN)/python -m pytest -n 2 --sample $(SEED) -m "not slow"

test-all: lint test-native  ## The exhaustive battery
	$(BIN)/python -m pytest -n 2

test-native: $(STAMP)  ## The native library's own tests, with address and undefined-behaviour sanitizers
	$(BIN)/cmake -S csrc -B build/native -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DPRECUT_SANITIZE=ON
	$(BIN)/cmake --build build/native
	$(BIN)/ctest --test-dir build/native --output-on-failure

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
