# Every target sets up .venv by itself, once, from the exact versions in requirements.lock.
# Only relative paths are used, so a checkout path may contain spaces.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

# Passed on to pytest: make test PYTEST_ARGS="-k roofline -x". A file's tests share one worker and its fixtures.
PYTEST_ARGS ?= --numprocesses auto --dist loadfile

.PHONY: help setup report test fuzz bench bench-peers faults mutants fresh lint docs dist lock clean
.DEFAULT_GOAL := help

help:
	@echo "make setup    create $(VENV) from requirements.lock (every target below does it when needed)"
	@echo "make report   run the default study: out/gqa_on_asics/index.html"
	@echo "make test     run the tests and the docstrings' examples"
	@echo "make evidence-host   time decode attention on this machine beside the prediction"
	@echo "make fuzz     every reader against made-up input, 20000 times each, guided by coverage and blind (an hour)"
	@echo "make bench    run every benchmarks/bench_*.py"
	@echo "make bench-peers  simkit beside other tools, each installed into out/peers (not in simkit's own environment)"
	@echo "make faults   strike running commands hundreds of times: signals, full disks, lost workers, two at once"
	@echo "make mutants  small changes to the physics, each of which some test should notice (two hours for 300 of each of three groups)"
	@echo "make fresh    the README's commands as a new user on other Pythons, locales and read-only folders"
	@echo "make lint     ruff and mypy --strict"
	@echo "make docs     renew the figures, tables and outputs in README.md and docs/"
	@echo "make dist     build wheel and sdist into dist/"
	@echo "make lock     resolve pyproject.toml again into requirements.lock"
	@echo "make clean    remove $(VENV), build products and caches; keeps out/"
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
	@$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock || { \
		echo "Set-up failed, see above. Every pinned package ships wheels for CPython 3.11 to 3.14 on Linux, macOS and Windows; the first run needs a package index." >&2; exit 1; }
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@for pth in $(VENV)/lib/python*/site-packages/*simkit*.pth; do [ ! -f "$$pth" ] || echo ../../../.. >"$$pth"; done
	@touch $(READY)

report: $(READY)
	$(RUN) -m simkit report

test: $(READY)
	$(RUN) -m pytest $(PYTEST_ARGS)

# FUZZ_RUNS=N for more or fewer. Atheris has wheels for Linux only, and no test needs it: it is installed here.
FUZZ_RUNS ?= 20000
fuzz: $(READY)
	@$(RUN) -c 'import atheris' 2>/dev/null || $(RUN) -m pip install --quiet --only-binary :all: atheris==3.0.0
	@for target in $$($(RUN) -c 'from tests.fuzz.targets import TARGETS; print(*TARGETS)'); do \
		echo "== $$target"; \
		$(RUN) tests/fuzz/run.py $$target --blind --runs $(FUZZ_RUNS) || exit 1; \
		$(RUN) tests/fuzz/run.py $$target --runs $(FUZZ_RUNS) 2>&1 | tail -n 20; \
		test -z "$$(ls out/fuzz/$$target/crash-* out/fuzz/$$target/timeout-* out/fuzz/$$target/oom-* 2>/dev/null)" || exit 1; \
	done

# By itself, not with the tests: it times this machine, and other workers would be in its caches.
evidence-host: $(READY)
	SIMKIT_HOST_EVIDENCE=1 $(RUN) -m pytest tests/evidence/test_host.py -k "predicted or without_caches"
	$(RUN) -m simkit evidence host

bench: $(READY)
	@for script in benchmarks/bench_*.py; do \
		echo "== $$script"; $(RUN) "$$script" || exit 1; \
	done

bench-peers: $(READY)
	$(RUN) benchmarks/peers/compare.py

# How many mutants of each of the three groups, drawn by seed; 0: all of them (five hours). Files must not change meanwhile.
MUTANTS ?= 300
STRIKE = CI=1 $(RUN) -m pytest -p tests.mutation.plugin --override-ini addopts=--import-mode=importlib --quiet \
	--mutants-sample $(MUTANTS)
STEP := $(addprefix --mutate simkit/,decode roofline model/attention.py model/kv_cache.py model/kv_policy.py \
	model/parameters.py study/energy_cost.py study/speculation.py study/fit.py study/capacity.py)
STEP_TESTS := $(addprefix tests/,decode laws/test_roofline_laws.py laws/test_cache_composition.py laws/test_dimensions.py \
	published reference model/test_parameters.py model/test_catalogue.py model/test_schema.py study/test_point.py \
	study/test_capacity.py study/test_scenario.py study/test_speculation.py study/test_stacking.py study/test_stretches.py \
	study/test_fit.py study/test_energy_cost.py study/test_crossover.py study/test_workload_file.py serving \
	evidence/test_silicon.py evidence/test_host.py evidence/test_claims.py evidence/test_serving.py cli/test_attention.py \
	cli/test_capacity.py cli/test_simulate.py cli/test_roofline.py cli/test_what_if.py)
# Numba compiles the loops: they are struck as plain Python, by tests of a few hundred requests.
LOOPS := $(addprefix --mutate simkit/replay/,timeline.py $(addprefix dram/,accounting.py candidates.py channel.py commands.py \
	intake.py interleave.py mapping.py patterns.py queues.py refresh.py simulate.py state.py timing.py))
LOOP_TESTS := $(addprefix tests/replay/,test_timeline_oracle.py test_dram_oracle.py test_dram_accounting.py \
	test_dram_mapping.py test_dram_patterns.py test_dram_refusals.py test_dram_standards.py test_dram_reference_timing.py)
REPLAY := $(addprefix --mutate simkit/replay/,append.py attention.py dram_pattern.py engine.py kernel_choice.py \
	kernel_plan.py target.py single_points.py sram_banks.py steady_state.py)
REPLAY_TESTS := $(addprefix tests/replay/,test_append.py test_attention.py test_attention_machine.py \
	test_attention_search.py test_dram_pattern.py test_engine.py test_kernel_choice.py test_kernel_plan.py test_target.py \
	test_single_points.py test_sram_banks.py test_steady_state.py)
mutants: $(READY)
	@$(RUN) -c 'import cosmic_ray, coverage' 2>/dev/null || \
		$(RUN) -m pip install --quiet --only-binary :all: cosmic-ray==8.7.0 coverage==7.17.5
	@rm -rf out/mutants
	$(STRIKE) --mutants-map out/mutants/step.json --mutants-out out/mutants/step.jsonl $(STEP) $(STEP_TESTS)
	$(STRIKE) --mutants-map out/mutants/replay.json --mutants-out out/mutants/replay.jsonl --mutants-seconds 15 \
		$(REPLAY) $(REPLAY_TESTS)
	NUMBA_DISABLE_JIT=1 $(STRIKE) --mutants-map out/mutants/loops.json --mutants-out out/mutants/loops.jsonl \
		--mutants-seconds 15 $(LOOPS) $(LOOP_TESTS)

# How many strikes: make faults TRIALS=1000
TRIALS ?= 400
faults: $(READY)
	$(RUN) tests/faults/strikes.py $(TRIALS)

# On other Pythons: make fresh PYTHONS="python3.11 python3.12 python3.13"
PYTHONS ?= $(PYTHON)
fresh:
	@for python in $(PYTHONS); do bash .ci/fresh "$$python" || exit 1; done

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m mypy

docs: $(READY)
	$(RUN) -m docs.build_records
	$(RUN) -m docs.build_figures
	$(RUN) -m docs.build_architecture
	$(RUN) -m docs.build_pages

dist: $(READY)
	$(RUN) -m build --no-isolation --outdir dist

lock: $(READY)
	$(RUN) -m pip install --quiet uv==0.13.9
	$(RUN) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade \
		--extra dev --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find simkit tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
