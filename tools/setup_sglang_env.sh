#!/usr/bin/env bash
# Makes the environments of SGLang's servers and router: Python 3.12 and the pinned packages of
# constraints-sglang.txt in .venv-sglang, of constraints-router.txt in .venv-router. Does nothing
# for one that is up to date. They share no packages with the trainer, nor with each other: with
# SGLang beside it the router would import it, and torch. Compiled here, SGLang is imported in half
# the time, by each of a server's processes.
set -euo pipefail
cd "$(dirname "$0")/.."

find_uv() {
    if command -v uv >/dev/null 2>&1; then echo "uv"; return; fi
    for python in python3.12 python3; do
        "$python" -m uv --version >/dev/null 2>&1 && { echo "$python -m uv"; return; }
    done
    return 0
}

make_env() {
    local name=$1 size=$2 venv=.venv-$1 constraints=constraints-$1.txt
    local stamp="$venv/.setup-stamp" want
    want=$(cat "$constraints" .python-version "$0" | sha256sum)
    if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
        return
    fi
    echo "setup: making $venv (${uv:-venv and pip}); about $size"
    rm -f "$stamp"
    if [ -n "$uv" ]; then
        $uv venv --quiet --allow-existing --python 3.12 "$venv"
        $uv pip install --quiet --compile-bytecode --python "$venv/bin/python" --no-deps -r "$constraints"
    else
        # The trainer's environment is there already, and has the right Python.
        .venv/bin/python -m venv "$venv"
        "$venv/bin/python" -m pip install --quiet --no-deps -r "$constraints"
    fi
    echo "$want" > "$stamp"
}

uv=$(find_uv)
make_env router "110 MB"
make_env sglang "6 GB; the first time takes a few minutes"
