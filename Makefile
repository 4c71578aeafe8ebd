# Everything from a fresh clone: python3 (3.11 to 3.13), make and git are enough.
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Compiled modules are kept whatever the environment says: without, each process compiles ours anew, .25 s of CPU.
export PYTHONDONTWRITEBYTECODE :=

TESTS := -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: repro studies studies-full test test-fast test-lowest lint bench install clean

repro: install  ## train, generate, analyse, draw: report/index.html
	dvc repro

studies: install  ## one source each, opt-in: studies/NAME/report/index.html, and their landmarks in report/index.html
	dvc repro $(wildcard studies/*/dvc.yaml)
	dvc repro --single-item --force report

studies-full: install  ## the long parts of studies, opt-in: their reports lie in these folders
	dvc repro studies/unet_dynamics/full/dvc.yaml studies/representation/memorization/dvc.yaml

test: install  ## the whole suite
	python $(TESTS)

test-fast: install  ## what is neither slow (whole trainings, pages, DVC, ...) nor dear by measurement
	python $(TESTS) -m "not slow and not dear"

test-lowest: $(VENV)-lowest/.installed  ## what is not slow, with the lowest versions that pyproject.toml allows
	PATH="$(CURDIR)/$(VENV)-lowest/bin:$$PATH" python $(TESTS) -m "not slow"

lint: install  ## formatting, style, types
	ruff format --check .
	ruff check .
	mypy

bench: install  ## ratios against peers and limits, measured here
	python -m benchmarks

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(VENV)-lowest/.installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable '.[dev]'
	touch $@

clean:  ## removes the environment, never data
	rm -rf $(VENV) $(VENV)-lowest
