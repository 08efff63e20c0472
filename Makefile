PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow check

demo: $(VENV)/.installed  ## the whole path on handwritten digits; leaves demo-out/
	$(BIN)/python examples/demo.py

test: $(VENV)/.installed
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed  ## tests that take more than a few seconds
	$(BIN)/python -m pytest -m slow --timeout 1800

check: $(VENV)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# Made once, and again when the dependencies may have changed. uv installs far faster; pip does where uv cannot.
$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	{ $(BIN)/python -m pip install --quiet uv && $(BIN)/uv pip install --python $(BIN)/python -e '.[dev,demo]'; } \
		|| $(BIN)/python -m pip install -e '.[dev,demo]'
	touch $@
