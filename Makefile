# make demo: read a bundled image with a bundled model.   make test: everything that CI runs.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
PLUGIN := plugins/vedcore-printed

.PHONY: demo test check fix bench clean

# One stamp a step, so that a second call does nothing over.
$(VENV)/installed: pyproject.toml $(PLUGIN)/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e . -e $(PLUGIN)
	touch $@

$(VENV)/tested: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $@

demo: $(VENV)/installed
	$(BIN)/vedcore generate printed-line $(PLUGIN)/demo/line.png --verbose

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q tests $(PLUGIN)/tests

check: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy $(PLUGIN)/vedcore_printed

fix: $(VENV)/tested
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/tested
	$(BIN)/python tests/benchmarks/start.py
	$(BIN)/python tests/benchmarks/folders.py
	$(BIN)/python tests/benchmarks/generate.py

clean:
	rm -rf $(VENV) build dist
