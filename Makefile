# make grade   sets up everything and grades your work     make help   lists the targets
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# The torch that set-up installs, and where pip looks for it (docs/install.md: "Which torch").
TORCH       ?= torch==2.13.0
TORCH_INDEX ?=

EX         ?=
SOLUTION   ?=
SUBMISSION ?=
ARGS       ?=
SAVERS     ?=

READY     := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev
READY_BENCH := $(VENV)/.ready-bench

ifneq ($(SOLUTION),)
  WHAT := --solution
endif
# a name may hold anything; it reaches the shell as a variable, and make doesn't read it again
override SUBMISSION := $(value SUBMISSION)
export SUBMISSION
# what it names may shadow the standard library
unexport PYTHONPATH
ifneq ($(value SUBMISSION),)
  WHAT += --submission "$$SUBMISSION"
endif

.PHONY: help setup grade check test bench notebook matrix slurm clean whole-course

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##[ ]*/\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo
	@echo "  EX=ex01          only this exercise          SOLUTION=1   the reference solutions"
	@echo "  SUBMISSION=DIR   somebody else's work        ARGS='--task 3 --seed 7'   more for grade"
	@echo "  SAVERS=1   for make test: also the public savers' tests (installs Lightning, Accelerate, Transformers)"
	@echo "  PYTHON=python3.12   TORCH='torch==2.13.0'   TORCH_INDEX=ADDRESS   for make setup"

$(READY): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) here; Python 3.10 or newer is needed: make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "make: $(PYTHON) is too old, 3.10 or newer is needed: make PYTHON=/path/to/python3" >&2; exit 2; }
	@echo "Setting up $(VENV) (once; torch is a large download, see docs/install.md: Which torch)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar on $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)" "numpy>=1.26"
	$(BIN)/python -m pip install --progress-bar on -e ".[notebook]"
	@touch $@

$(READY_DEV): $(READY)
	$(BIN)/python -m pip install --progress-bar on -e ".[dev]"
	@touch $@

$(READY_BENCH): $(READY_DEV)
	$(BIN)/python -m pip install --progress-bar on -e ".[bench]"
	@touch $@

setup: $(READY)  ## install what is needed into .venv (again after a change of TORCH: make clean setup)

grade: $(READY)  ## grade your work in starter/ (sets up first)
	@# 1: graded, and some task isn't passed yet; "make: *** Error 1" would read as a breakdown (docs/grading.md)
	@$(BIN)/grade $(EX) $(WHAT) $(ARGS) || { s=$$?; [ $$s -eq 1 ] && [ -z "$(SOLUTION)" ] || exit $$s; }

whole-course:
	@[ -d grader/tests ] || { echo "make: this copy of the course has no tests and nothing for its authors; make grade grades your work" >&2; exit 2; }

FAST := $(addprefix grader/tests/,audit/test_audit_judging.py checks/test_boundary.py checks/test_explain.py checks/test_imports.py checks/test_run_assertions.py \
	cli/test_report.py course/test_derive.py course/test_docs.py course/test_selection.py harness/test_printed.py \
	harness/test_trajectory.py)
# s for one test: the longest takes two minutes, and may wait for a grading that others wait for, too
LONGEST := 1200

check: whole-course $(READY_DEV)  ## what a contributor runs before each commit: format, lint, types, fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/grade dev check
	$(BIN)/python -m pytest -q $(FAST)

test: whole-course $(if $(SAVERS),$(READY_BENCH),$(READY_DEV))  ## every test of the course and its grader (sets up first)
	$(BIN)/ruff check grader templates $(wildcard ex*/solution)
	$(BIN)/python -m pytest --timeout $(LONGEST) $(if $(EX),-k $(EX)) $(ARGS)

bench: whole-course $(READY_BENCH)  ## the performance tables
	@$(BIN)/python -m grader.bench $(ARGS)

notebook: $(READY)  ## open the exercises' notebooks in JupyterLab
	$(BIN)/jupyter lab

matrix: whole-course $(READY_DEV)  ## grade every mutant; write the tables of which task catches it
	@$(BIN)/grade dev matrix $(EX) --write

# Slurm's own services don't start: /etc/slurm/slurm.conf is missing. munge's may, and nothing here uses it.
SLURM_PACKAGES := slurmctld slurmd slurm-client munge shellcheck $(if $(shell command -v cc),,gcc libc6-dev)
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

slurm:  ## install Slurm (Debian and Ubuntu), for grade cluster, and shellcheck
	@command -v apt-get >/dev/null || { echo "make: no apt-get here; how to install Slurm elsewhere: grader/slurm/README.md" >&2; exit 2; }
	@[ -z "$(SUDO)" ] || command -v sudo >/dev/null || { echo "make: installing needs root, and there is no sudo here; as root: make slurm" >&2; exit 2; }
	$(SUDO) apt-get update || echo "make: apt-get update failed; trying with the lists that are there" >&2
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(SLURM_PACKAGES)

clean:  ## remove .venv and caches; your work stays
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache .mypy_cache .grade
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
