# The short commands of the project: `make` lists them. Everything is installed into .venv, once.

PYTHON ?= python3.11
ARGS   ?=
# A file of tests runs in one process; two share the machine, since most of the time is spent on waiting for starts.
TEST_PROCESSES ?= 2

VENV := .venv
PY   := $(VENV)/bin/python
PIP  := $(PY) -m pip --disable-pip-version-check --quiet

# The stamps are newer than what they were installed from, so that a second `make` installs nothing.
RUN_STAMP  := $(VENV)/.installed-run
TEST_STAMP := $(VENV)/.installed-test

TORCH     := torch==$(shell sed -n 's/^torch==//p' requirements-cpu.txt)+cpu
CPU_INDEX := https://download.pytorch.org/whl/cpu

BENCHMARKS := $(filter-out tests/benchmarks/_% tests/benchmarks/test_% tests/benchmarks/conftest.py,$(wildcard tests/benchmarks/*.py))

# Nothing is reported to anyone unless the caller says so.
export RAY_USAGE_STATS_ENABLED ?= 0
export VLLM_NO_USAGE_STATS ?= 1

.PHONY: help align compare test test-all test-cluster test-signals lint bench audit install clean
.DEFAULT_GOAL := help

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18
	@echo "  ARGS=... is handed on, e.g. make align ARGS=\"--dry-run training.epochs=1\""

align: $(RUN_STAMP) ## the whole run, from questions to an aligned model and a report
	$(if $(findstring --preset,$(ARGS)),,HF_HUB_OFFLINE=1) $(PY) -m mralign align $(ARGS)

compare: $(RUN_STAMP) ## compare training methods on the same annotated candidates
	$(PY) -m mralign compare $(ARGS)

PYTEST := HF_HUB_OFFLINE=1 RAY_AUTH_MODE=disabled $(PY) -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test: lint ## lint, types, import rules, then pytest without the tests marked `long`
	$(PYTEST) -m "not long" $(ARGS)

test-all: lint ## the same with every test
	$(PYTEST) $(ARGS)

FAULTS := HF_HUB_OFFLINE=1 RAY_AUTH_MODE=disabled $(PY) -m pytest -v -rN
test-cluster: $(TEST_STAMP) ## kill -9 in every stage, on one node and three, local disk and S3: hours; ARGS=--left, ARGS='-k rollouts'
	$(FAULTS) tests/faults/kill_runs.py $(ARGS)
	$(PY) tests/faults/fault_tables.py

test-signals: $(TEST_STAMP) ## a signal at each moment of each stage; ARGS as for test-cluster
	$(FAULTS) tests/faults/signal_runs.py $(ARGS)
	$(PY) tests/faults/fault_tables.py

lint: $(TEST_STAMP) ## ruff, mypy and the rules of who may import whom
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: $(TEST_STAMP) ## every benchmark, quickly; the last line of each is one JSON object
	@set -e; for file in $(BENCHMARKS); do echo "== $$file"; HF_HUB_OFFLINE=1 $(PY) $$file --quick; done

# In an environment of its own, and on the pinned versions as they are written. It asks the network, so CI leaves it out.
LOCKS := requirements-cpu.txt requirements-gpu.txt requirements-test.txt
audit: ## ask for known faults of the pinned packages (pip-audit; needs the network)
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet pip-audit==2.10.1
	@for file in $(LOCKS); do \
	  echo "== $$file"; $(VENV)-audit/bin/pip-audit --no-deps --disable-pip --requirement $$file || failed=1; \
	done; exit $${failed:-0}

install: $(TEST_STAMP) ## make .venv with all that runs and tests need

clean: ## remove .venv, caches and build outputs; runs/ stays
	rm -rf $(VENV) $(VENV)-audit build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find mralign jobs tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.implementation.name != "cpython" or sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' is not CPython 3.11, for which the packages are pinned." >&2; \
	  echo "       Install it, or say where it is: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# torch comes first and by its full version: the default index of the internet holds the CUDA build only.
# The editable install needs no download: the build backend, setuptools, is one of the pinned packages.
$(RUN_STAMP): requirements-cpu.txt pyproject.toml | $(PY)
	@$(PY) -c 'import ctypes, sys; sys.platform != "linux" or ctypes.CDLL("libnuma.so.1")' 2>/dev/null || { \
	  echo "error: vLLM's CPU kernels need libnuma.so.1; on Debian and Ubuntu: apt-get install libnuma1" >&2; exit 1; }
	@echo "installing into $(VENV), once: $(TORCH)"
	@$(PIP) install --no-deps '$(TORCH)' || { \
	  echo "the configured sources hold no CPU build of torch; taking it from $(CPU_INDEX)"; \
	  $(PIP) install --no-deps '$(TORCH)' --index-url $(CPU_INDEX); }
	@echo "installing the other pinned packages (about 1 GB, a few minutes)"
	@$(PIP) install --no-deps -r requirements-cpu.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(TEST_STAMP): requirements-test.txt $(RUN_STAMP)
	@echo "installing the test packages"
	@$(PIP) install --no-deps -r requirements-test.txt
	@touch $@
