#!/usr/bin/env bash
# Makes .venv-sglang, the servers' own environment: Python 3.12 and the pinned packages of
# constraints-sglang.txt; does nothing when it is up to date. Trainer and servers share no packages.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv-sglang
stamp="$venv/.setup-stamp"
want=$(cat constraints-sglang.txt .python-version "$0" | sha256sum)
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
    exit 0
fi

find_uv() {
    if command -v uv >/dev/null 2>&1; then echo "uv"; return; fi
    for python in python3.12 python3; do
        "$python" -m uv --version >/dev/null 2>&1 && { echo "$python -m uv"; return; }
    done
    return 0
}

uv=$(find_uv)
echo "setup: making $venv (${uv:-venv and pip}); about 6 GB, the first time takes a few minutes"
rm -f "$stamp"
if [ -n "$uv" ]; then
    $uv venv --quiet --allow-existing --python 3.12 "$venv"
    $uv pip install --quiet --python "$venv/bin/python" --no-deps -r constraints-sglang.txt
else
    # The trainer's environment is there already, and has the right Python.
    .venv/bin/python -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --no-deps -r constraints-sglang.txt
fi
echo "$want" > "$stamp"
