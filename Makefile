# Every target sets up .venv by itself, once, from the exact versions in requirements.lock.
# Only relative paths are used, so a checkout path may contain spaces.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

# Passed on to pytest: make test PYTEST_ARGS="-k roofline -x". A file's tests share one worker and its fixtures.
PYTEST_ARGS ?= --numprocesses auto --dist loadfile

.PHONY: help setup report test bench lint docs dist lock clean
.DEFAULT_GOAL := help

help:
	@echo "make setup    create $(VENV) from requirements.lock (every target below does it when needed)"
	@echo "make report   run the default study: out/gqa_on_asics/index.html"
	@echo "make test     run the tests and the docstrings' examples"
	@echo "make bench    run every benchmarks/bench_*.py"
	@echo "make lint     ruff and mypy --strict"
	@echo "make docs     renew the figures, tables and outputs in README.md and docs/"
	@echo "make dist     build wheel and sdist into dist/"
	@echo "make lock     resolve pyproject.toml again into requirements.lock"
	@echo "make clean    remove $(VENV), build products and caches; keeps out/"
	@echo "Longer checks, by hand: $(PYTHON) tools/check.py lists them"
	@echo "Another Python: make setup PYTHON=python3.12"

setup: $(READY)

# The path to this folder is written relative to where it stands: Python reads it in the locale's encoding, which may not
# have this folder's letters.
# PYTHONUTF8: venv of Python 3.12 fails in a folder named beyond ASCII when the locale is not UTF-8.
# pip asks no index for what is already installed at the pinned version: a second run works offline.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "simkit needs Python 3.11 or newer, and '$(PYTHON)' is not one. Name one that is: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; exit 1; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || PYTHONUTF8=1 $(PYTHON) -m venv --clear $(VENV) || { \
		echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV) from requirements.lock"
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes --only-binary :all: -r requirements.lock || { \
		echo "Set-up failed, see above. Every pinned package ships wheels for CPython 3.11 to 3.14 on Linux, macOS and Windows; the first run needs a package index." >&2; exit 1; }
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@for pth in $(VENV)/lib/python*/site-packages/*simkit*.pth; do [ ! -f "$$pth" ] || echo ../../../.. >"$$pth"; done
	@touch $(READY)

report: $(READY)
	$(RUN) -m simkit report

test: $(READY)
	$(RUN) -m pytest $(PYTEST_ARGS)

bench: $(READY)
	@for script in benchmarks/bench_*.py; do \
		echo "== $$script"; $(RUN) "$$script" || exit 1; \
	done

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m mypy

docs: $(READY)
	$(RUN) -m tools.docs.build_records
	$(RUN) -m tools.docs.build_figures
	$(RUN) -m tools.docs.build_architecture
	$(RUN) -m tools.docs.build_pages
	$(RUN) -m tools.docs.notebooks

dist: $(READY)
	$(RUN) -m build --no-isolation --outdir dist

lock: $(READY)
	$(RUN) -m pip install --quiet uv==0.13.9
	$(RUN) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade \
		--extra dev --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find simkit tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +
