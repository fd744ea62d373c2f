# Every target makes or refreshes the environment by itself; `make demo` is all a new machine needs.
#   VENV    folder of the environment             (make test VENV=/elsewhere/env)
#   PYTHON  interpreter that makes it, 3.11 or later
#   ARGS    further arguments of pytest or of the demo (make test ARGS="-k coco")

VENV ?= .venv
PYTHON ?= python3
ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
# `make -j ci` would mix the outputs of two tools; the tests bring their own workers.
.NOTPARALLEL:

.PHONY: help
help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 14

# The stamp is written last: an interrupted installation is taken up again by the next call.
# pip gets torch and torchvision in one command, since their releases only fit in pairs.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is missing or older than Python 3.11. Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (several GB the first time) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check \
	  --constraint constraints.txt --editable ".[dev]"
	@touch $@

.PHONY: install
install: $(STAMP) ## Make or refresh the environment

.PHONY: demo
demo: $(STAMP) ## Run the offline demonstration: teacher, student, baseline, verdict
	$(BIN)/distildet demo $(ARGS)

.PHONY: test
test: $(STAMP) ## Run the default tests (under 10 minutes on two cores)
	$(BIN)/pytest -n 2 $(ARGS)

.PHONY: test-slow
test-slow: $(STAMP) ## Run the tests marked slow
	$(BIN)/pytest -n 2 -m slow $(ARGS)

.PHONY: check
check: $(STAMP) ## Check format, lint, types and layers; change nothing
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

.PHONY: format
format: $(STAMP) ## Format the code and mend what the linter can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

.PHONY: ci
ci: check test test-slow ## Run everything that must hold before a merge
