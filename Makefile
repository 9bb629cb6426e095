# Two commands for a fresh machine with Python 3.11 or newer:
#   make caption PHOTOS="photo.jpg folder"    sets everything up and captions photos with the bundled model
#   make test                                 sets everything up and runs the tests
PYTHON ?= python3
VENV ?= .venv

# Without PHOTOS: sample pictures that come with gradio, one of our dependencies.
SAMPLES = $(addprefix $(shell $(VENV)/bin/python -c 'import importlib.util as u, pathlib as p; \
	print(p.Path(u.find_spec("gradio").origin).parent / "media_assets" / "images")')/,cheetah.jpg lion.jpg tower.jpg)

.PHONY: caption demo test test-spawn test-ascii

caption: $(VENV)/installed
	$(VENV)/bin/vlcap caption $(or $(PHOTOS),$(SAMPLES))

demo: $(VENV)/installed
	$(VENV)/bin/vlcap demo

test: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	rm -f app/demo/*.pyi  # gradio's, of components as they once were: mypy would believe them
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

test-spawn: $(VENV)/installed-test  # processes start as on macOS and Windows
	VLCAP_START_METHOD=spawn $(VENV)/bin/python -m pytest -n 2 --dist loadfile

test-ascii: $(VENV)/installed-test  # no language set, and a standard output that has only ASCII
	LC_ALL=C PYTHONIOENCODING=ascii $(VENV)/bin/python -m pytest -n 2 --dist loadfile

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/installed
