#!/usr/bin/env bash
# Makes .venv-te: the packages of .venv and Transformer Engine's Python, without its extension for
# torch, which is compiled where there is a CUDA toolkit. tests/gpu_rehearsal runs in it; beside
# .venv, because Megatron-Core binds Transformer Engine wherever it can be imported.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/environments.sh

make_env te "400 MB beside what .venv has" constraints.txt constraints-te.txt
# Runs say which version of this package wrote them.
if [ ! -e .venv-te/bin/megatron-stare ]; then
    install_into .venv-te --no-build-isolation -e .
fi
