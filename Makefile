# `make video` shows the product, `make test` checks it. Each builds .venv first when it is not there.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: video test

video: .venv/.installed
	$(BIN)/flowportrait generate flowportrait/samples/portrait-512.png flowportrait/samples/speech.wav -o talking.mp4

test: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n auto --dist loadgroup --no-loadscope-reorder

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bagel,dev,ray,scorers,world]'
	@touch $@ .venv/.installed
