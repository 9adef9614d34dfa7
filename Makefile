PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# Both names, for pip's own resolver and for the isolated environment in which the C++ core is built.
# Not by its full path: pip cuts these at spaces.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
# What CMake tries if the environment does not say CXX.
COMPILERS := $(if $(filter environment,$(origin CXX)),$(firstword $(CXX)),c++ g++ clang++ icpx)

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1: /p' Makefile

demo: $(READY) ## run examples/demo.py
	$(BIN)/python examples/demo.py

test: lint ## lint, then every test and doctest
	$(BIN)/python -m pytest -n auto --maxprocesses 4

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

sanitize: $(READY) ## the core's tests under sanitizers: addresses, undefined behaviour, threads (Linux, ten minutes)
	$(BIN)/python -m pip install --quiet cmake ninja nanobind
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tests/sanitize.py

fuzz: $(READY) ## what reads files, on many more mutated ones than the tests take (ten minutes)
	OPENLSTM_FUZZ=20000 $(BIN)/python -m pytest -n auto -k "mutated_files or any_file_is"

bench: $(READY) ## time this against its peers: see benchmarks/
	$(BIN)/python -m benchmarks.run

paper: .venv/paper ## the experiment of Sak, Senior and Beaufays 2014 on synthetic speech (hours; it goes on where it ended)
	$(BIN)/python -m benchmarks.sak2014

paper-quick: .venv/paper ## three models of that experiment (ten minutes)
	$(BIN)/python -m benchmarks.sak2014 --quick

docs: .venv/docs ## the teaching pages, to build/docs/html
	rm -rf build/docs
	$(BIN)/python -m sphinx -W --keep-going --quiet -d build/docs/doctrees docs build/docs/html
	@echo "Open build/docs/html/index.html"

clean: ## remove all that make made
	rm -rf .venv build dist demo .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find src tests examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# torch comes first and alone, so that no other package's looser wish picks a different build of it.
$(READY): pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "openlstm needs Python 3.10 or newer: '$(PYTHON)' is not. Install one, or name it: make PYTHON=/path/to/python3." >&2; exit 1; }
	@for compiler in $(COMPILERS); do command -v $$compiler >/dev/null && exit 0; done; \
	  echo "openlstm needs a C++17 compiler: none was found. Install one (Debian: apt-get install g++; macOS: xcode-select --install) or set CXX." >&2; exit 1
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -e '.[test]'
	@touch $@

# What is installed already stays: openlstm is not built a second time.
.venv/docs: $(READY)
	$(BIN)/python -m pip install --quiet 'openlstm[docs]'
	@touch $@

.venv/paper: $(READY)
	$(BIN)/python -m pip install --quiet 'openlstm[paper]'
	@touch $@

.PHONY: help demo test lint sanitize fuzz bench paper paper-quick docs clean
