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
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
ON_DISPLAY := $(if $(filter Linux,$(shell uname)),xvfb-run -a -s "-screen 0 1920x1080x24")
CPU_TORCH := torch==2.13.0+cpu

.PHONY: help install demo test lint format test-pyqt6 test-package test-python clean

help:
	@echo "make demo          generate a synthetic slide, index it, search it, draw what was found (in demo/)"
	@echo "make test          run the tests: engine, command, plugin (PyQt5, on a virtual display)"
	@echo "make lint          check style and types"
	@echo "make test-pyqt6    run the plugin's tests on PyQt6"
	@echo "make test-package  build wheel and sdist, install the wheel in a fresh environment, try it"
	@echo "make test-python   run the slides' tests on Python 3.12, where there is one"
	@echo "make clean         remove the environments and what was built"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
		"Python 3.11 or newer is needed, this is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	.ci/system-packages venv
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade "pip>=25.1"
ifeq ($(strip $(TORCH)),)
	$(PIP) install "$(CPU_TORCH)" 2>/dev/null || $(PIP) install torch
else
	$(PIP) install $(TORCH)
endif
	$(PIP) install --editable ".[pyqt5,openslide]" --group dev
	@touch $@

demo: $(INSTALLED)
	$(BIN)/comir-search demo --out demo

test: $(INSTALLED)
	.ci/system-packages display
	$(BIN)/python -m pytest --ignore tests/plugin
	$(ON_DISPLAY) $(BIN)/python -m pytest tests/plugin

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) $(VENV)-* build dist demo
