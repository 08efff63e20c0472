PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow check docs constraints

demo: $(VENV)/.installed  ## the whole path on handwritten digits; leaves demo-out/
	$(BIN)/python examples/demo.py

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.installed  ## tests that take more than a few seconds
	$(BIN)/python -m pytest -m slow --timeout 1800

check: $(VENV)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pyright --pythonpath $(BIN)/python -p tests
	$(BIN)/lint-imports

docs: $(VENV)/.installed  ## the documentation, into site/; warnings are errors, and so is anything loaded from another host
	PYTHONPATH=. $(BIN)/zensical build --strict --clean
	! grep -rE '<(script|link|img|iframe)[^>]* (src|href)="(https?:)?//' site --include='*.html'

# Made once, and again when the dependencies may have changed. uv installs far faster; pip does where uv cannot.
# constraints.txt holds the versions that the checks were last made with, so that a release elsewhere breaks no check here.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	{ $(BIN)/python -m pip install --quiet uv \
		&& $(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -e '.[dev,demo,docs]'; } \
		|| $(BIN)/python -m pip install -e '.[dev,demo,docs]'
	touch $@

constraints: $(VENV)/.installed  ## newer versions for the checks
	$(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header --quiet \
		pyproject.toml --extra dev --extra demo --extra docs -o constraints.txt
