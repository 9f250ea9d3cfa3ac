# make demo: read a bundled image with a bundled model.   make test, test-docs, test-exports: what CI runs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PLUGIN := plugins/vedcore-printed
# Every folder in plugins/ is installed and tested, but for those that need a framework of their own.
LARGE  := plugins/vedcore-jax plugins/vedcore-tensorflow
ALL    := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
PLUGINS := $(filter-out $(LARGE),$(ALL))
# plugins/vedcore-x has the package vedcore_x.
PACKAGES := $(foreach plugin,$(PLUGINS),$(plugin)/$(subst -,_,$(notdir $(plugin))))
BENCHMARKS := tests/benchmarks
PIP    := -m pip install --quiet --disable-pip-version-check

NEW_ENOUGH = $(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("vedcore needs Python 3.11 or newer, \
	and $(PYTHON) is " + sys.version.split()[0] + ": name another, as in make PYTHON=python3.12")'

# The oldest versions are tested without transformers, which wants newer ones.
MINIMA_TESTS := tests/weights tests/docs tests/config_files tests/plugins tests/checkpoints/test_native.py \
	tests/checkpoints/test_mmap.py tests/cli/test_cli.py tests/cli/test_generating.py tests/layers/test_linear.py \
	tests/processing/test_images.py tests/processing/test_image_arrays.py tests/processing/test_image_refusals.py \
	tests/processing/test_tokenizers.py tests/test_all_pairs.py tests/test_config.py tests/test_desktops.py \
	tests/test_imports.py tests/test_packaging.py tests/encoders/test_any_timm.py tests/encoders/test_families.py \
	$(PLUGIN)/tests
# What could see a plugin: these run once more without any.
PARTS_TESTS := tests/checkpoints/test_recognition.py tests/cli/test_checking.py tests/cli/test_cli.py \
	tests/composer/test_plan.py tests/composer/test_refusals.py tests/docs/test_plugin_guide.py \
	tests/hints/test_plugins.py tests/hints/test_plugin_formats.py tests/plugins tests/test_projectors.py \
	tests/test_registry.py

.PHONY: demo test test-without-plugins test-with-plugins test-docs test-exports sweep-exports test-tensorflow \
	sweep-tensorflow check fix bench docs-tables recipe-captioner recipe-receipts minima clean

# One stamp a step, so that a second call does nothing over.
$(VENV)/installed: pyproject.toml
	@test -x $(BIN)/python || { $(NEW_ENOUGH) && $(PYTHON) -m venv $(VENV); }
	$(BIN)/python $(PIP) -e .
	touch $@

$(VENV)/tested: $(VENV)/installed
	$(BIN)/python $(PIP) -e ".[test]"
	touch $@

$(VENV)/with-plugins: $(VENV)/installed $(PLUGINS:=/pyproject.toml)
	$(BIN)/python $(PIP) $(addprefix -e ./,$(PLUGINS))
	touch $@

demo: $(VENV)/with-plugins
	$(BIN)/vedcore generate printed-line $(PLUGIN)/demo/line.png --verbose

test: check
	$(MAKE) --no-print-directory test-without-plugins
	$(MAKE) --no-print-directory test-with-plugins

# The stamp goes first, so that the next call installs the plugins again, even after an interrupt.
test-without-plugins: $(VENV)/tested
	rm -f $(VENV)/with-plugins
	$(BIN)/python -m pip uninstall --quiet --disable-pip-version-check --yes $(notdir $(ALL))
	$(BIN)/python -c 'from vedcore.plugins import list_plugins; assert all(p.distribution == "vedcore" for p in list_plugins())'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q $(PARTS_TESTS)

test-with-plugins: $(VENV)/tested $(VENV)/with-plugins
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q tests $(PLUGINS:=/tests) \
		--ignore=tests/export --ignore=tests/docs

# Every page of the manual does what it shows.
test-docs: $(VENV)/tested $(VENV)/with-plugins
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q tests/docs

# Recording graphs takes minutes, and JAX is a framework of its own.
test-exports: $(VENV)/tested
	$(BIN)/python $(PIP) -e "./plugins/vedcore-jax[test]"
	$(BIN)/mypy plugins/vedcore-jax/vedcore_jax
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q tests/export plugins/vedcore-jax/tests \
		"tests/docs/test_pages.py::test_page[docs/exports-jax.md]" \
		"tests/docs/test_pages.py::test_page[plugins/vedcore-jax/README.md]"

# TensorFlow is large, and has an environment of its own.
$(VENV)-tensorflow/installed: pyproject.toml plugins/vedcore-tensorflow/pyproject.toml
	@test -x $(VENV)-tensorflow/bin/python || { $(NEW_ENOUGH) && $(PYTHON) -m venv $(VENV)-tensorflow; }
	$(VENV)-tensorflow/bin/python $(PIP) -e ".[test]" -e "./plugins/vedcore-tensorflow[test]"
	touch $@

test-tensorflow: $(VENV)-tensorflow/installed
	OMP_NUM_THREADS=1 $(VENV)-tensorflow/bin/python -m pytest -q plugins/vedcore-tensorflow/tests \
		"tests/docs/test_pages.py::test_page[docs/exports-tensorflow.md]"

# Encoders of timm in TensorFlow, beside torch.
sweep-tensorflow: $(VENV)-tensorflow/installed
	PYTHONPATH=. $(VENV)-tensorflow/bin/python plugins/vedcore-tensorflow/tests/sweep.py > docs/exports-tensorflow-sweep.txt

check: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy $(PACKAGES)

fix: $(VENV)/tested
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Encoders of timm as graphs; minutes.
sweep-exports: $(VENV)/tested
	$(BIN)/python -m tests.export.sweep > docs/exports-sweep.txt

# Rewrites the plot and the table of docs/speed.md; BENCH_OPTIONS=--quick tries the scripts.
bench: $(VENV)/tested
	$(BIN)/python $(BENCHMARKS)/start.py $(BENCH_OPTIONS) --json $(BENCHMARKS)/results/start.json
	$(BIN)/python $(BENCHMARKS)/folders.py $(BENCH_OPTIONS) --json $(BENCHMARKS)/results/folders.json
	$(BIN)/python $(BENCHMARKS)/generate.py $(BENCH_OPTIONS) --json $(BENCHMARKS)/results/generate.json
	$(BIN)/python $(BENCHMARKS)/plot.py

# Rewrites the tables of docs/from-transformers.md.
docs-tables: $(VENV)/tested
	$(BIN)/python -m tests.docs.test_from_transformers

# Train the models of docs/recipes from nothing, and write their logs there; a stopped one goes on.
recipe-captioner: DATA := scenes
recipe-receipts: DATA := receipts
recipe-captioner recipe-receipts: recipe-%: $(VENV)/tested
	mkdir -p build/recipe-$* docs/recipes/logs
	cp docs/recipes/$(DATA).py docs/recipes/$*.yaml build/recipe-$*
	cd build/recipe-$* && PATH=$(CURDIR)/$(BIN):$$PATH && python $(DATA).py $(DATA) && { date; uptime; } >> log.txt \
		&& vedcore train $*.yaml --output run && { date; uptime; } >> log.txt \
		&& vedcore evaluate run/best $(DATA)/test --output report > scores.txt && tee -a log.txt < scores.txt
	cp build/recipe-$*/log.txt docs/recipes/logs/$*.txt
	cp build/recipe-$*/run/log.jsonl docs/recipes/logs/$*.jsonl

# The reader of shards in huggingface_hub 1.20 takes each for the whole model.
minima:
	@test -x $(VENV)-minima/bin/python || { $(NEW_ENOUGH) && $(PYTHON) -m venv $(VENV)-minima; }
	$(VENV)-minima/bin/python $(PIP) -c tests/minima.txt -e . -e $(PLUGIN) pytest pytest-xdist hypothesis
	OMP_NUM_THREADS=1 $(VENV)-minima/bin/python -m pytest -n 2 --dist worksteal -q $(MINIMA_TESTS) \
		--deselect tests/weights/test_weights.py::test_huggingface_hub_reads_our_shards

clean:
	rm -rf $(VENV) $(VENV)-minima $(VENV)-tensorflow build dist
