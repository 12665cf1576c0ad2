# make demo    set up and quantize the embedded network
# make test    set up and run the whole test suite
# make lint    set up and run the linters
# make docs    set up, run every example of the documentation and build its pages
# make clean   remove the environment and everything that was built

PYTHON ?= python3
# The newest versions of everything: make test CONSTRAINTS=constraints-newest.txt PYTHON=python3.13
CONSTRAINTS ?= constraints.txt
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint docs clean
.DEFAULT_GOAL := demo

demo: $(VENV)/core.stamp
	@echo "Quantizing the embedded digits network; the run goes to runs/demo"
	@$(BIN)/ggdjax quantize --out runs/demo

# Each worker compiles; more than one per core only wastes memory.
test: $(VENV)/dev.stamp
	@echo "Running the test suite"
	@$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

lint: $(VENV)/dev.stamp
	@echo "Checking style and format"
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@echo "Checking types"
	@$(BIN)/pyrefly check --summary=none

docs: $(VENV)/docs.stamp
	@echo "Building the documentation; the pages go to docs/_build/html"
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --doctree-dir docs/_build/doctrees docs docs/_build/html

clean:
	rm -rf $(VENV) build dist docs/_build

$(VENV)/created.stamp:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) was not found; install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $$($(PYTHON) --version 2>&1) is too old; Python 3.11 or newer is needed, name one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version 2>&1)"
	@$(PYTHON) -m venv $(VENV) || { echo "make: could not create $(VENV); does this Python have venv?" >&2; exit 1; }
	@touch $@

# $(call install,what): pip's own long answer goes to a log, the user gets its last error in one line.
define install
	@echo "Installing $(1) (a few minutes the first time; log in $(VENV)/install.log)"
	@$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e '$(1)' >$(VENV)/install.log 2>&1 || { echo "make: the installation failed (is the package index reachable?): $$(grep -i '^error' $(VENV)/install.log | tail -n 1)" >&2; exit 1; }
	@touch $@
endef

$(VENV)/core.stamp: pyproject.toml $(CONSTRAINTS) $(VENV)/created.stamp
	$(call install,.)

$(VENV)/dev.stamp: pyproject.toml $(CONSTRAINTS) $(VENV)/created.stamp
	$(call install,.[dev])
	@touch $(VENV)/core.stamp

$(VENV)/docs.stamp: pyproject.toml $(CONSTRAINTS) $(VENV)/created.stamp
	$(call install,.[docs])
	@touch $(VENV)/core.stamp
