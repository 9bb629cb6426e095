# Two commands for a fresh machine with Python 3.11 or newer:
#   make caption PHOTOS="photo.jpg folder"    installs everything and captions photos with the bundled model
#   make test                                 installs everything and runs the tests
# While editing:
#   make quick                                lint, and the tests that are not slow
PYTHON ?= python3
VENV ?= .venv
# A file is one worker's. Those that take longest come first (tests/conftest.py), not those with the most tests.
PYTEST = $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: caption demo quick test test-spawn test-ascii

caption: $(VENV)/installed
	$(VENV)/bin/vlcap caption $(or $(PHOTOS),$(wildcard app/demo/examples/*.jpg))  # without PHOTOS, the demo's examples

demo: $(VENV)/installed
	$(VENV)/bin/vlcap demo

quick: $(VENV)/installed-test  # while editing: lint, and the tests that are not slow
	$(VENV)/bin/ruff check .
	$(PYTEST) -m "not slow"

test: $(VENV)/installed-test $(VENV)/onnxruntime-web
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	rm -f app/demo/*.pyi  # written by gradio for older versions of the components: mypy would read them instead
	$(VENV)/bin/mypy
	$(PYTEST)

test-spawn: $(VENV)/installed-test  # processes start as on macOS and Windows
	VLCAP_START_METHOD=spawn $(PYTEST)

test-ascii: $(VENV)/installed-test  # no language set, and an ASCII-only standard output
	LC_ALL=C PYTHONIOENCODING=ascii $(PYTEST)

# ONNX Runtime for browsers, by npm, for the tests of the static page. Without it, they are skipped, or fail in CI.
$(VENV)/onnxruntime-web: vlcap/export/runtime.py $(VENV)/installed-test
	-$(VENV)/bin/python -m vlcap.export.runtime $@ && touch $@

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/installed
