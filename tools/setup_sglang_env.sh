#!/usr/bin/env bash
# Makes the environments of SGLang's servers and router: Python 3.12 and the pinned packages of
# constraints-sglang.txt in .venv-sglang, of constraints-router.txt in .venv-router. Does nothing
# for one that is up to date. They share no packages with the trainer, nor with each other: with
# SGLang beside it the router would import it, and torch. Compiled here, SGLang is imported in half
# the time, by each of a server's processes.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/environments.sh

make_env router "110 MB" constraints-router.txt
make_env sglang "6 GB; the first time takes a few minutes" constraints-sglang.txt
