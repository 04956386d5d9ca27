# make demo and make test do everything on a bare Debian or Ubuntu machine; elsewhere they
# say what is missing. Variables:
#   PYTHON  the Python to build the environment with, 3.11 or newer
#   VENV    where the environment goes
#   TORCH   what pip installs as PyTorch, with options if need be. By default the CPU build,
#           where pip knows of one, else the registry's (which on Linux brings gigabytes of CUDA).
PYTHON ?= python3
VENV ?= .venv
TORCH ?=

export PYTHON
BIN := $(VENV)/bin
WHEEL_VENV := $(VENV)-wheel
WHEEL_PYTHON := $(WHEEL_VENV)/bin/python
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

.PHONY: help install demo test lint format test-package test-python clean

help:
	@echo "make demo          generate a synthetic slide, index it, search it, draw what was found (in demo/)"
	@echo "make test          run the tests: engine, command, plugin (PyQt5, on a virtual display)"
	@echo "make lint          check style and types"
	@echo "make format        mend what of the style can be mended by itself"
	@echo "make test-package  build sdist and wheel, try the wheel in a fresh environment with PyQt6"
	@echo "make test-python   run the slides' tests on Python 3.12, where there is one, without torch"
	@echo "make clean         remove the environments and what was built"
	@echo "make docs          build the documentation (in build/docs); a broken link is an error"

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

test: $(INSTALLED)
	.ci/system-packages display
	$(BIN)/python -m pytest --ignore tests/plugin
	$(ON_DISPLAY) $(BIN)/python -m pytest tests/plugin

# The wheel is built from the sdist, so both are whole if it works.
test-package: $(INSTALLED)
	.ci/system-packages display
	rm -rf dist build $(WHEEL_VENV)
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_PYTHON) $(PIP_INSTALL) --upgrade "pip>=25.1"
	$(call install_torch,$(WHEEL_PYTHON))
	$(WHEEL_PYTHON) $(PIP_INSTALL) "$$(echo dist/*.whl)[pyqt6,openslide]" --group test
	$(WHEEL_VENV)/bin/npe2 validate --imports napari-comir-search
	$(WHEEL_VENV)/bin/comir-search demo --out build/demo
	$(ON_DISPLAY) $(WHEEL_PYTHON) -m pytest tests/test_package.py tests/plugin

# torch has no CPU build for every Python, and reading slides needs none.
test-python: $(INSTALLED)
	@if PYENV_VERSION=3.12 python3.12 -c "" 2>/dev/null; then $(MAKE) --no-print-directory test-python-3.12; \
		else echo "There is no Python 3.12 here: the slides' tests on it are left out."; fi

test-python-3.12:
	PYENV_VERSION=3.12 python3.12 -m venv $(VENV)-3.12
	$(VENV)-3.12/bin/python $(PIP_INSTALL) --upgrade "pip>=25.1"
	$(VENV)-3.12/bin/python $(PIP_INSTALL) --group slides
	$(VENV)-3.12/bin/python $(PIP_INSTALL) --no-deps --editable .
	$(VENV)-3.12/bin/python -m pytest tests/slides

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: docs
docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(VENV)-* build dist demo
