# make demo: iCaRL on scikit-learn's digits.   make test: lint, types and the test suite.
# make test-all: the slow tests, too, among them whole runs of every method.
# All make .venv first, where everything is installed; PYTHON chooses the Python (3.11 or newer).
# make lint: style and format.   make types: the type checker.   make docs: the documentation, in site.
# make wheel: the distributions, in dist.   EXTRAS=test,bench also installs PyTorch, with which the tests compare.

PYTHON ?= python3
EXTRAS ?= test
RUN := .venv/bin/python
PYTEST := $(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

.PHONY: demo test test-all lint types docs wheel clean

demo: .venv/installed-$(EXTRAS)
	rm -rf runs/demo
	$(RUN) -m cil_jax icarl --dataset digits --task-size 2 --backbone resnet8 --epochs 20 \
	  --batch-size 32 --memory 100 --out runs/demo

test: lint types
	$(PYTEST) -m "not slow"

test-all: lint types
	$(PYTEST)

lint: .venv/installed-$(EXTRAS)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: .venv/installed-$(EXTRAS)
	$(RUN) -m basedpyright --project pyproject.toml --pythonpath $(RUN) --level error

docs: .venv/installed-docs
	$(RUN) -m mkdocs build --strict

wheel: .venv/installed-$(EXTRAS)
	rm -rf dist
	$(RUN) -m build --no-isolation --outdir dist .

clean:
	rm -rf .venv runs/demo build dist site

.venv/installed-%: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[$*]'
	touch $@
