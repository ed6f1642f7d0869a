# What people do with this project. Each target does what it needs of the set-up, and nothing twice.
#
#   make demo       four machines, one of them slow, in lockstep and on the leash; a minute
#   make test       the whole test suite
#   make torture    what people do to a model, in every combination of settings, against torch;
#                   runs that are resumed, 40 times; resets, outages and kills by the hundred;
#                   SEEDS=100000 simulated clusters; a million messages that are nearly right, and
#                   a million pushes of workers that come and go
#   make check      linters, types, formatting, stubs
#   make docs       the documentation site, in build/docs; a warning or a dead link is an error
#   make bench      a short version of every benchmark
#   make sanitize   the core's tests under sanitizers: of addresses, undefined behaviour, threads
#   make wheel      the sdist, and the wheel for this Python, tried where there is no compiler
#   make fuzz       a million headers that somebody made up, read by the core and by another library
#   make install    the set-up alone: .venv with everything in it, and the compiled core
#   make clean      remove what was built

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONUNBUFFERED := 1
export PATH := $(abspath $(BIN)):$(PATH)

SOURCES := $(shell find csrc \( -path csrc/tests -o -path csrc/fuzz \) -prune -o -type f -print) CMakeLists.txt setup.py
CXX_FILES := $(shell find csrc -name '*.cpp' -o -name '*.h')
PY_DIRS := leash ps worker tests bench examples tools docs setup.py

.PHONY: help install demo test torture check docs bench sanitize wheel fuzz clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

install: $(VENV)/.core

$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Leash needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

# --no-build-isolation: the core is built with the pinned tools of this environment, and again only
# where its sources have changed.
$(VENV)/.dependencies: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		setuptools 'scikit-build-core[setuptools]' pybind11 cmake ninja
	$(BIN)/python tools/requirements | \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt --requirement /dev/stdin
	@touch $@

$(VENV)/.core: $(VENV)/.dependencies $(SOURCES)
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

demo: install
	$(BIN)/leash demo

# Most of the tests wait for processes of their own, so that several at a time cost little; those that
# compare real times come afterwards.
test: install
	$(BIN)/pytest --numprocesses 3 --dist worksteal -m "not alone"
	$(BIN)/pytest -m alone

# `make test` has only so many that every two settings meet, and a few thousand seeds.
SEEDS ?= 100000
torture: install
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --jobs $(shell nproc)
	$(BIN)/pytest --numprocesses 3 --dist worksteal --torture tests/oracle \
		tests/e2e/training/test_resume.py tests/e2e/outages \
		tests/e2e/faults/test_killed_server.py tests/e2e/faults/test_mutated_messages.py \
		tests/e2e/faults/test_soak.py

check: install
	$(BIN)/ruff check $(PY_DIRS)
	$(BIN)/ruff format --check $(PY_DIRS)
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	@mkdir -p build/stubs
	PYTHON=$(BIN)/python tools/stubs build/stubs/_core.pyi && diff -u ps/_core.pyi build/stubs/_core.pyi

# Lessons stand there with the outputs that they were committed with; `tools/lessons` runs them anew.
docs: install
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --jobs auto -b html docs build/docs
	$(BIN)/python docs/_ext/dead_links.py build/docs

bench: install
	$(BIN)/leash bench --short

sanitize: install
	PYTHON=$(BIN)/python tools/sanitize

wheel: install
	PYTHON=$(BIN)/python tools/wheel
	$(BIN)/pytest --packages dist tests/packages

fuzz: install
	tools/fuzz 1000000

clean:
	rm -rf $(VENV) build dist *.egg-info ps/_core*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
