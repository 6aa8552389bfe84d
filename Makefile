# Every target sets itself up in a virtual environment of its own; nothing outside this folder is changed.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
SEED ?= $(shell date +%Y%m%d%H%M%S)

.PHONY: demo test test-all test-native test-haswell test-aarch64 lint clean

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

test-all: lint test-native test-haswell test-aarch64  ## The exhaustive battery
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/cpu.txt -e '.[dev,bench,ray,postgres]'
	$(BIN)/python -m pytest -n 2

test-native: $(STAMP)  ## The native library's own tests, with address and undefined-behaviour sanitizers
	$(BIN)/cmake -S csrc -B build/native -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DPRECUT_SANITIZE=ON
	$(BIN)/cmake --build build/native
	$(BIN)/ctest --test-dir build/native --output-on-failure

test-haswell: $(STAMP)  ## The same on an emulated processor with AVX2 and no AVX-512; needs qemu-user-static
ifneq ($(shell command -v qemu-x86_64-static),)
	$(BIN)/cmake -S csrc -B build/haswell -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja
	$(BIN)/cmake --build build/haswell
	for t in kernels conv networks life hostile; do qemu-x86_64-static -cpu Haswell build/haswell/tests/test_$$t || exit 1; done
else
	@echo "skipped: qemu-x86_64-static is not installed"
endif

test-aarch64: $(STAMP)  ## The same for 64-bit ARM, cross-compiled and emulated; needs g++-aarch64-linux-gnu, qemu-user-static
ifneq ($(and $(shell command -v qemu-aarch64-static),$(shell command -v aarch64-linux-gnu-g++)),)
	$(BIN)/cmake -S csrc -B build/aarch64 -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake
	$(BIN)/cmake --build build/aarch64
	$(BIN)/ctest --test-dir build/aarch64 --output-on-failure
else
	@echo "skipped: qemu-aarch64-static or aarch64-linux-gnu-g++ is not installed"
endif

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
