# make demo and make test do everything on a bare Debian or Ubuntu machine; elsewhere they
# say what is missing. Variables:
#   PYTHON  the Python to build the environment with, 3.11 or newer
#   VENV    where the environment goes
#   TORCH   what pip installs as PyTorch, with options if need be. By default the CPU build,
#           where pip knows of one, else the registry's (which on Linux brings gigabytes of CUDA).
#   JOBS    how many processes run the engine's tests at the same time
#   MINUTES for which `make fuzz` runs
PYTHON ?= python3
VENV ?= .venv
TORCH ?=
JOBS ?= 2
MINUTES ?= 5

export PYTHON
PROGRAMS := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN := $(VENV)/$(PROGRAMS)
WHEEL_VENV := $(VENV)-wheel
WHEEL_BIN := $(WHEEL_VENV)/$(PROGRAMS)
WHEEL_PYTHON := $(WHEEL_BIN)/python
OTHER_PYTHONS := 3.12 3.13
INSTALLED := $(VENV)/.installed
PIP_INSTALL := -m pip --disable-pip-version-check -qq install
ON_DISPLAY := $(if $(filter Linux,$(shell uname)),xvfb-run -a -s "-screen 0 1920x1080x24")
CPU_TORCH := torch==2.13.0+cpu
# $(call install_torch,python)
ifeq ($(strip $(TORCH)),)
install_torch = $(1) $(PIP_INSTALL) "$(CPU_TORCH)" 2>/dev/null || $(1) $(PIP_INSTALL) torch
else
install_torch = $(1) $(PIP_INSTALL) $(TORCH)
endif

# The tests of a file stay in one process, to share what they make; in the order of names, in which tests/cli, the longest, is first.
TEST_ENGINE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --ignore tests/plugin --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder
# The whole of the plugin's tests runs on PyQt5; on PyQt6 these are enough: the manifest, jobs beside the
# window, the dock, and the story from a folder of slides to the export.
ON_PYQT6 := $(addprefix tests/plugin/,test_manifest.py test_worker.py test_dock.py test_story.py)

.PHONY: help install demo test test-engine test-plugin test-package test-python test-lowest coverage fuzz lint format docs clean

help:
	@echo "make demo          generate a synthetic slide, index it, search it, draw what was found (in demo/)"
	@echo "make test          run all tests: test-engine, then test-plugin"
	@echo "make test-engine   run the tests of engine and command"
	@echo "make test-plugin   run the tests of the plugin (PyQt5, on a virtual display)"
	@echo "make coverage      run the tests of the engine and print how much of it they run"
	@echo "make lint          check style, types, spelling and which module imports which"
	@echo "make format        fix the style"
	@echo "make fuzz          try malformed files for MINUTES (5 by default)"
	@echo "make test-package  build sdist and wheel, test the wheel in a fresh environment with PyQt6"
	@echo "make test-python   run the slides' tests on Python 3.12 and 3.13, where installed, without torch"
	@echo "make test-lowest   run the engine's tests with the lowest versions that pyproject.toml allows"
	@echo "make docs          build the documentation (in build/docs); a broken link is an error"
	@echo "make clean         remove the environments and what was built"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
		"Python 3.11 or newer is needed, this is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	.ci/system-packages venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) --upgrade "pip>=25.1"
	$(call install_torch,$(BIN)/python)
	$(BIN)/python $(PIP_INSTALL) --editable ".[pyqt5,openslide,distributed]" --group dev
	@touch $@

demo: $(INSTALLED)
	$(BIN)/comir-search demo --out demo

test: test-engine test-plugin

test-engine: $(INSTALLED)
	$(TEST_ENGINE) $(COVERAGE)

test-plugin: $(INSTALLED)
	.ci/system-packages display
	$(ON_DISPLAY) $(BIN)/python -m pytest tests/plugin

coverage: $(INSTALLED)
	$(MAKE) --no-print-directory test-engine COVERAGE="--cov --cov-report=term:skip-covered"

fuzz: $(INSTALLED)
	$(BIN)/python tests/benchmarks/fuzz.py --minutes $(MINUTES)

# The wheel is built from the sdist, so both are whole if it works.
test-package: $(INSTALLED)
	.ci/system-packages display
	rm -rf dist build $(WHEEL_VENV)
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_PYTHON) $(PIP_INSTALL) --upgrade "pip>=25.1"
	$(call install_torch,$(WHEEL_PYTHON))
	$(WHEEL_PYTHON) $(PIP_INSTALL) "$$(echo dist/*.whl)[pyqt6,openslide]" --group test
	$(WHEEL_BIN)/npe2 validate --imports napari-comir-search
	$(WHEEL_BIN)/comir-search demo --out build/demo
	$(ON_DISPLAY) $(WHEEL_PYTHON) -m pytest tests/test_package.py $(ON_PYQT6)

# torch has no CPU build for every Python, and reading slides needs none.
test-python: $(addprefix test-python-,$(OTHER_PYTHONS))

test-python-%: $(INSTALLED)
	@if PYENV_VERSION=$* python$* -c "" 2>/dev/null; then $(MAKE) --no-print-directory test-slides-$*; \
		else echo "There is no Python $* here: the slides' tests on it are left out."; fi

test-slides-%:
	PYENV_VERSION=$* python$* -m venv $(VENV)-$*
	$(VENV)-$*/$(PROGRAMS)/python $(PIP_INSTALL) --upgrade "pip>=25.1"
	$(VENV)-$*/$(PROGRAMS)/python $(PIP_INSTALL) --group slides
	$(VENV)-$*/$(PROGRAMS)/python $(PIP_INSTALL) --no-deps --editable .
	$(VENV)-$*/$(PROGRAMS)/python -m pytest tests/slides

# pip cannot ask for the lowest versions; uv can.
test-lowest: LOWEST := $(VENV)-lowest
test-lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/$(PROGRAMS)/python $(PIP_INSTALL) uv
	$(LOWEST)/$(PROGRAMS)/uv pip install -q --python $(LOWEST) --resolution lowest-direct --editable ".[openslide,distributed]" --group test
	$(LOWEST)/$(PROGRAMS)/python -m pytest --ignore tests/plugin

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(VENV)-* build dist demo .coverage
