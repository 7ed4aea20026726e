# make demo: iCaRL on scikit-learn's digits.   make test: the whole test suite.
# Both make .venv first, where everything is installed; PYTHON chooses the Python (3.11 or newer).
# make lint: style, format and types.   EXTRAS=test,bench also installs PyTorch, with which the tests compare.

PYTHON ?= python3
EXTRAS ?= test
RUN := .venv/bin/python

.PHONY: demo test lint clean

demo: .venv/installed-$(EXTRAS)
	rm -rf runs/demo
	$(RUN) -m experiments.icarl --dataset digits --task-size 2 --backbone resnet8 --epochs 20 \
	  --batch-size 32 --memory 100 --out runs/demo

test: lint
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

lint: .venv/installed-$(EXTRAS)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m basedpyright --project pyproject.toml --pythonpath $(RUN) --level error

clean:
	rm -rf .venv runs/demo

.venv/installed-$(EXTRAS): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@
