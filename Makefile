# The two commands: `make demo` and `make test`. Everything else serves them.

VENV := .venv/bin
# One thread per process: tests run worlds of several processes on few cores.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# On two workers, a file on one of them; folders with the longest tests come first.
TWO_WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
# What takes longest is said at the end.
SLOWEST := --durations=40 --durations-min=3

.PHONY: help setup setup-sglang setup-te demo demo-seeds demo-tools demo-tools-seeds smoke smoke-seeds test test-fast test-slurm lint docs docs-serve wheel-test format clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup:  ## make .venv with pinned packages (the others do it by themselves)
	@tools/setup_env.sh

setup-sglang: setup  ## make .venv-sglang and .venv-router, for SGLang's servers (6 GB)
	@tools/setup_sglang_env.sh

setup-te: setup  ## make .venv-te, for tests/gpu_rehearsal (400 MB beside what .venv has)
	@tools/setup_te_env.sh

demo: setup  ## countdown: a warm-up, GRPO, DAPO and two of STARE from it, measured and compared
	@$(VENV)/python -m examples.countdown.demo

demo-seeds: setup  ## the demo over five seeds, with paired differences
	@$(VENV)/python -m examples.countdown.demo --seeds 1 2 3 4 5

demo-tools: setup  ## tiny_tools: a policy learns to call two tools; GRPO and STARE from one warm-up
	@$(VENV)/python -m examples.tiny_tools.demo

demo-tools-seeds: setup  ## the same over three seeds, with paired differences
	@$(VENV)/python -m examples.tiny_tools.demo --seeds 1 2 3

smoke: setup  ## tiny_addition: SFT, GRPO, STARE, report; about 10 minutes on 2 cores
	@$(VENV)/python examples/tiny_addition/demo.py

smoke-seeds: setup  ## tiny_addition over three seeds, with the table of its claims
	@$(VENV)/python examples/tiny_addition/demo.py --seeds 1 2 3

test: setup  ## every test but Slurm's; what needs an environment that cannot be made is skipped
	-@tools/setup_sglang_env.sh
	-@tools/setup_te_env.sh
	-@tools/setup_openenv_env.sh
	-@tools/setup_chromium.sh
	$(TEST_ENV) $(VENV)/python -m pytest -m "not slurm" $(TWO_WORKERS) --ignore=tests/sglang $(SLOWEST)
	$(TEST_ENV) $(VENV)/python -m pytest tests/sglang $(SLOWEST)

test-fast: setup  ## without the slow ones
	$(TEST_ENV) $(VENV)/python -m pytest -m "not slow" $(TWO_WORKERS)

test-slurm: setup  ## jobs on a Slurm cluster of three nodes, brought up here; skipped without Slurm
	-@tools/setup_slurm.sh
	$(TEST_ENV) $(VENV)/python -m pytest -m slurm tests/slurm

lint: setup  ## ruff, pyright, import directions
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/pyright
	$(VENV)/lint-imports

docs: setup  ## the docs site, in build/site; stops at a dead link
	NO_MKDOCS_2_WARNING=1 $(VENV)/python -m mkdocs build --quiet

docs-serve: setup  ## the same at http://127.0.0.1:8000, made anew where a page changes
	NO_MKDOCS_2_WARNING=1 $(VENV)/python -m mkdocs serve

wheel-test: setup  ## build the wheel, install it into a fresh environment, run commands there
	@tools/wheel_test.sh

format: setup  ## ruff's formatter and fixes
	$(VENV)/ruff check --fix .
	$(VENV)/ruff format .

clean:  ## remove the environment and everything runs wrote
	rm -rf .venv .venv-sglang .venv-router .venv-te runs examples/*/out
