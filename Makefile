# Each target works on a fresh clone with nothing but Python 3.11 or newer and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m devstack run --
CHROMIUMS := chromium chromium-browser google-chrome

.PHONY: demo test check audit faults bench

demo: $(VENV)/installed  ## the whole system on this machine; EMPTY=1: set up nothing; CHECK=1: a script talks through it
	@$(BIN)/python -m devstack demo $(if $(CHECK),--check) $(if $(EMPTY),--empty)

test: $(VENV)/installed $(VENV)/browser  ## every test, five files at a time, those through all processes early; ARGS="…" go to pytest
	@$(RUN) python -m pytest -n 5 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/installed  ## style, types, layers, migrations, system checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(RUN) python manage.py makemigrations --check --dry-run
	$(RUN) python manage.py check --database default

faults: $(VENV)/installed  ## breaks everything under load and writes docs/correctness.md; ARGS="--seed 7 --seconds 600"
	@$(BIN)/python -m tests.faults.campaign --seconds 180 --seed 1 --rate 50 $(ARGS)

bench: $(VENV)/installed  ## measures floors, peers and us, and writes docs/speed.md; ARGS="--runs 5", "--full", "--rows relay"
	@$(BIN)/python -m benchmarks $(ARGS)

audit: $(VENV)/installed  ## known vulnerabilities of what production installs
	$(BIN)/pip-audit -r requirements.txt

$(VENV)/installed: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is older. Install one, and name it: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "python3 -m venv does not work here. Install it (on Debian and Ubuntu: apt-get install python3-venv)."; exit 1; }
	@echo "Installing what the requirements list; this takes a minute or two."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

$(VENV)/browser: $(VENV)/installed
	@if [ -z "$$CHROMIUM" ] && ! for name in $(CHROMIUMS); do command -v $$name && break; done | grep -q .; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq chromium >/dev/null; \
		else $(BIN)/python -m playwright install chromium; fi; \
	fi
	@touch $@
