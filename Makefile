# Set-up and the commands of the README. Each may be the first one called, and called again: what is done stays done.
#   make repro    install, then run the pipeline and print its metrics
#   make test     install, then run the tests
#   make real DATA=<folder> [MORE=<folder>]   install, then run the pipeline on real observations (benchmarks/real.py says
#               how)
#   make cloud    install, then run the pipeline through Earth Engine, a bucket and Labelbox, all on loopback (tests/cloud.py)
#   make lint     ruff and mypy
# TORCH=cpu (default) or TORCH=cuda chooses the pinned set under constraints/. PYTHON=python3.12 chooses the Python that
# .venv is made of, anew if it was made of another; without it .venv stays as it is.

TORCH ?= cpu
DATA ?= ../shared/data/real_labels
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(or $(wildcard $(BIN)/python),python3)
VERSION_OF = -c 'import sys; print("%d.%d" % sys.version_info[:2])'
VERSION := $(shell $(PYTHON) $(VERSION_OF) 2>/dev/null)
SEEN := 3.11 3.12 3.13
INSTALLED := $(VENV)/.installed-$(TORCH)-$(VERSION)
# DVC runs stages with the `python` of PATH. The gRPC probe of gcsfs waits a minute where it can't connect.
RUN := PATH="$(CURDIR)/$(BIN):$$PATH" GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false

.PHONY: setup repro test real cloud lint clean
.DEFAULT_GOAL := repro

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints/$(TORCH).txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "error: $(PYTHON): got $(or $(VERSION),no such program); expected Python 3.11 or newer; call make with PYTHON=python3.11"; exit 1; }
	@test -n "$(filter $(VERSION),$(SEEN))" || echo "note: the pinned set was seen with Python $(SEEN), not with $(VERSION)"
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "error: $(PYTHON): got no module ensurepip; expected Python's venv; run: apt-get install python3-venv"; exit 1; }
	@test -f constraints/$(TORCH).txt
	@echo "Installing into $(VENV) from constraints/$(TORCH).txt: about 2 GB (cpu) or 6 GB (cuda) on disk"
	@test "$$($(BIN)/python $(VERSION_OF) 2>/dev/null)" = $(VERSION) || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints/$(TORCH).txt hatchling editables setuptools
	$(BIN)/python -m pip install --no-build-isolation --constraint constraints/$(TORCH).txt --editable '.[dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@

# The params are looked at first: DVC removes a stage's outputs before the stage could refuse its params.
repro: setup
	@$(RUN) sandwatch params
	$(RUN) dvc repro
	@$(RUN) dvc metrics show

test: setup
	$(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

real: setup
	$(RUN) python benchmarks/real.py --data $(DATA) $(if $(MORE),--more $(MORE)) $(if $(RECIPE),--recipe $(RECIPE)) $(if $(SEEDS),--seeds $(SEEDS))

cloud: setup
	$(RUN) python -m tests.cloud

lint: setup
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy

clean:
	rm -rf $(VENV) .real .cloud .mypy_cache .ruff_cache .pytest_cache
