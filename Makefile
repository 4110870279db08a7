# Each target creates .venv and installs what it needs first. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint bench
.DEFAULT_GOAL := demo

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install -qq --editable ".[test]"
	touch $@

demo: $(INSTALLED)   ## train the 33 M-parameter tiny model on generated scenes and score it on unseen ones
	$(BIN)/python train.py task=refcoco model=tiny

test: $(INSTALLED)   ## the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

lint: $(INSTALLED)   ## style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(INSTALLED)  ## speed of training step, encoder, beam search and data loading
	$(BIN)/python -m benchmarks
