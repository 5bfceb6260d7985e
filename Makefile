# Two commands do everything, set-up included: `make book` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help environment book zip pdf check test mutants realmodel lab bench pocket doctor clean

PROFILE ?= pocket
CORES ?= $(shell getconf _NPROCESSORS_ONLN)
GPUS ?= 0
KERNEL := instruction-tuning-book

# Conda or mamba where there is one, else the same pins with pip in a plain virtual environment.
CONDA := $(firstword $(shell command -v mamba conda 2>/dev/null))
ENV := $(if $(CONDA),.env,.venv)
BIN := $(ENV)/bin
# The stamp's name holds what was installed, so a touched file installs nothing and a changed pin does.
STAMP := $(ENV)/installed-$(shell cat environment.yml pyproject.toml | cksum | cut -d ' ' -f 1)
UNFINISHED := $(ENV).unfinished
# nbval finds its kernel by name, so other environments must not offer one of the same name.
OWN_KERNEL := env JUPYTER_PATH= JUPYTER_PREFER_ENV_PATH=1

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1@\2/p' $(MAKEFILE_LIST) | awk -F@ '{printf "%-20s %s\n", $$1, $$2}'
	@echo "  PROFILE=pocket|laptop|paper, CORES=n and GPUS=n apply to book, PROFILE to zip too"

environment: $(STAMP)  ## install everything into .venv (or .env with conda); done by the others too

book: $(STAMP)  ## run what is missing of the experiments, then build the HTML book
	@$(BIN)/python -m nbhelpers batch --profile $(PROFILE) --cores $(CORES) --gpus $(GPUS)
	@echo "open $(CURDIR)/_build/html/index.html"

zip: $(STAMP)  ## write the supplement: book, results, notebooks, sources, checksums (after make book; less than 100 MB)
	@$(BIN)/python -m nbhelpers zip --profile $(PROFILE)

pdf: $(STAMP)  ## print the book into _build/book.pdf (after make book; needs Chromium or Chrome; two minutes)
	@$(BIN)/python -m nbhelpers pdf

# Quick enough to run after every edit; what loads a model or runs a notebook is left to `make test`.
UNIT := tests/core tests/models tests/measures tests/report tests/experiments tests/test_house.py

check: $(STAMP)  ## lint, import contracts, unit and property tests: a minute and a half
	@$(BIN)/ruff check --quiet . && OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CORES) -q -r fE --quick $(UNIT)

test: $(STAMP)  ## run every test, the notebooks included
	@status=0; times=""; export OMP_NUM_THREADS=1; \
	part() { \
	  start=$$SECONDS; "$${@:2}" || status=1; took=$$((SECONDS - start)); \
	  times+="$$(printf '  %-45s %2d min %2d s' "$$1" $$((took / 60)) $$((took % 60)))"$$'\n'; \
	}; \
	part "measuring what is missing" $(BIN)/python -m nbhelpers batch --target measured --cores $(CORES); \
	part "tests (the slowest stand above)" $(BIN)/python -m pytest -n $(CORES) --no-loadscope-reorder --durations 12 tests; \
	part "committed notebooks, executed and compared" $(OWN_KERNEL) $(BIN)/python -m nbhelpers.run.warm $(BIN)/python -m pytest \
	  -n $(CORES) -p no:cacheprovider --durations 6 --nbval --nbval-sanitize-with tests/nbval.cfg \
	  --nbval-kernel-name python3 notebooks; \
	printf '\nWhere the minutes went:\n%s' "$$times"; exit $$status

mutants: $(STAMP)  ## plant known faults one at a time and name those that no test notices (by hand; resumable)
	@export OMP_NUM_THREADS=1; $(BIN)/python -m tests.mutation --workers $(CORES) \
	  || $(BIN)/python -m tests.mutation --workers $(CORES) --whole  # slow tests, for what survived the quick ones

realmodel: $(STAMP)  ## run everything on a public model of 135 M parameters (downloads 93 MB; 7 minutes)
	@CORES=$(CORES) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m realmodel -s -q -p no:cacheprovider tests/realmodel

lab: $(STAMP)  ## open JupyterLab on the notebooks
	@$(BIN)/jupyter lab --notebook-dir notebooks

bench: $(STAMP)  ## time lenses, capture, grafts, steering and judges against bounds and naive loops; memory
	@$(BIN)/python tests/bench/bench_lens.py
	@$(BIN)/python tests/bench/bench_capture.py
	@$(BIN)/python tests/bench/bench_tuned_lens.py
	@$(BIN)/python tests/bench/bench_graft.py
	@$(BIN)/python tests/bench/bench_steer.py
	@$(BIN)/python tests/bench/bench_behaviour.py
	@$(BIN)/python tests/bench/bench_judge.py
	@$(BIN)/python tests/bench/bench_blocks.py --prompts 100 1000
	@$(BIN)/python tests/bench/bench_memory.py

pocket: $(STAMP)  ## train the six pocket pairs again (up to 3 h on two cores)
	@$(BIN)/python -m pocket.train

doctor: $(STAMP)  ## check the installation
	@$(BIN)/python -m nbhelpers doctor --profile $(PROFILE)

clean:  ## remove everything generated but people's labels and judges' paid answers; the environment stays
	@if [ -d _build ]; then find _build -mindepth 1 -maxdepth 1 ! -name labels ! -name 'judge_cache.sqlite*' -exec rm -rf {} +; fi
	rm -rf .snakemake .pytest_cache .ruff_cache .hypothesis
	find nbhelpers pocket tests notebooks -name __pycache__ -prune -exec rm -rf {} +

# An installation that was interrupted is not trusted: it starts over.
$(STAMP):
	@if [ -e $(UNFINISHED) ]; then echo "An earlier installation did not finish; starting over."; rm -rf $(ENV); fi
	@touch $(UNFINISHED) && rm -f $(ENV)/installed-*
	@$(MAKE) --no-print-directory $(if $(CONDA),conda-install,pip-install)
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --disable-pip-version-check --editable .
	@$(BIN)/python -m ipykernel install --sys-prefix --name $(KERNEL) --display-name "Instruction-tuning book" >/dev/null
	@touch $@ && rm -f $(UNFINISHED)
	@echo "Installed into $(ENV)."

.PHONY: conda-install pip-install
conda-install: export CONDA_ALWAYS_YES := true
conda-install: export MAMBA_ALWAYS_YES := true
conda-install:
	@echo "Installing the environment into $(ENV) with $(notdir $(CONDA)) (once, a few minutes)."
	@if [ -d $(ENV) ]; then verb=update; else verb=create; fi; \
	$(CONDA) env $$verb --quiet --prefix ./$(ENV) --file environment.yml

pip-install:
	@python=$$(for each in python3.11 python3.12 python3.13 python3 python; do \
	  $$each -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	  && command -v $$each && break; done) \
	  || { echo "No Python 3.11, 3.12 or 3.13 with venv and pip is on the PATH; install one of them." >&2; exit 1; }; \
	[ -x $(BIN)/python ] || "$$python" -m venv $(ENV)
	@sed -n 's/^ *- *\([A-Za-z0-9._-]*==[^ ]*\).*/\1/p' environment.yml > $(ENV)/pins.txt
	@total=$$(wc -l < $(ENV)/pins.txt | tr -d ' '); \
	echo "Installing $$total pinned packages into $(ENV) (once, a few minutes)."; \
	$(BIN)/python -m pip install --disable-pip-version-check --no-input --requirement $(ENV)/pins.txt | awk -v total="$$total" \
	  '/^Collecting/ && ++n % 40 == 0 {print "  " n " of " total; fflush()} /^Installing/ {print "  unpacking"; fflush()}'
