# `make demo`, `make test` and `make docs` set up everything they need in .venv, on any machine with Python >= 3.10 and a
# C++ compiler. PYTHON=python3.12 chooses the interpreter of a new .venv, WORKERS the processes of the tests.

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin

# Folders are listed too: their time changes when a file in them is removed.
SOURCES := pyproject.toml CMakeLists.txt $(wildcard README.md LICENSE) \
  $(shell find csrc python -name '__pycache__' -prune -o -print)

# cmake, ctest and ninja come with the test extra, and must be those of the environment.
WITH_TOOLS := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: demo test native sanitize wheel docs lint clean

demo: $(VENV)/installed-demo
	$(BIN)/ribs demo

# One thread for each worker: torch would start a thread per core in every one of them.
test: $(VENV)/installed-test native
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

native: $(VENV)/installed-test
	$(WITH_TOOLS) cmake --preset native
	$(WITH_TOOLS) cmake --build --preset native
	$(WITH_TOOLS) ctest --preset native

sanitize: $(VENV)/installed-test
	$(WITH_TOOLS) tests/native/run_sanitizers.sh

wheel:
	PYTHON="$(PYTHON)" tests/wheel/run.sh

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	find csrc tests/native -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \
	  | xargs $(BIN)/clang-format --dry-run -Werror

# Every page anew, and notebooks run; what Sphinx warns of is an error.
docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx -b html -E -W --keep-going docs build/docs
	@echo "The site is in build/docs/index.html"

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Not an editable install: what is tested is what a user gets, and changed sources install again (cheap, since
# pip keeps the dependencies). The stamps lie in the environment, so that removing it removes them.
$(VENV)/installed-demo: EXTRAS := demo
$(VENV)/installed-test: EXTRAS := test,dev
$(VENV)/installed-docs: EXTRAS := docs,demo
$(VENV)/installed-%: $(SOURCES) | $(BIN)/pip
	$(BIN)/python -m pip install ".[$(EXTRAS)]"
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit("ribs needs Python 3.10 or newer; try: make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
