#!/usr/bin/env bash
# Makes .venv with Python 3.12 and the pinned packages of constraints.txt, and those of
# constraints-reasoning-gym.txt where they can be built, OpenSpiel, constraints-agents.txt and constraints-docs.txt; does nothing when it is up to date. Uses uv when it is there or can be installed with pip, else venv and pip.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
stamp="$venv/.setup-stamp"
want=$(cat pyproject.toml constraints.txt constraints-reasoning-gym.txt constraints-openspiel.txt constraints-agents.txt constraints-docs.txt .python-version "$0" | sha256sum)
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
    exit 0
fi

find_uv() {
    if command -v uv >/dev/null 2>&1; then echo "uv"; return; fi
    for python in python3.12 python3; do
        "$python" -m uv --version >/dev/null 2>&1 && { echo "$python -m uv"; return; }
    done
    for python in python3.12 python3; do
        "$python" -m pip install --quiet uv >/dev/null 2>&1 && { echo "$python -m uv"; return; }
    done
    return 0
}

find_python312() {
    for python in python3.12 python3 python; do
        if "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then
            command -v "$python"; return
        fi
    done
    return 0
}

# Without a compiler it will not be there next time either; anything else may have passed by then.
try_again=
skip_gym() {
    command -v cc >/dev/null 2>&1 && try_again=", and the next setup tries again"
    echo "setup: reasoning-gym is not installed (it needs a C compiler); its tests are skipped$try_again" >&2
}

skip_agents() { echo "setup: openai and openai-agents are not installed; tests of them as clients are skipped" >&2; }
skip_docs() { echo "setup: mkdocs is not installed; its tests are skipped" >&2; }
skip_openspiel() { echo "setup: OpenSpiel is not installed; tests of its games are skipped" >&2; }

uv=$(find_uv)
echo "setup: making $venv (${uv:-venv and pip}); the first time takes a few minutes"
if [ -n "$uv" ]; then
    $uv venv --quiet --allow-existing --python 3.12 "$venv"
    $uv pip install --quiet --compile-bytecode --python "$venv/bin/python" -c constraints.txt -e '.[dev]'
    $uv pip install --quiet --no-deps --python "$venv/bin/python" -r constraints-reasoning-gym.txt || skip_gym
    $uv pip install --quiet --no-deps --python "$venv/bin/python" -c constraints-openspiel.txt open-spiel || skip_openspiel
    $uv pip install --quiet --no-deps --python "$venv/bin/python" -r constraints-agents.txt || skip_agents
    $uv pip install --quiet --no-deps --python "$venv/bin/python" -r constraints-docs.txt || skip_docs
else
    python=$(find_python312)
    if [ -z "$python" ]; then
        echo "setup: Python 3.12 not found; install it (pyenv reads .python-version) or install uv" >&2
        exit 2
    fi
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet -c constraints.txt -e '.[dev]'
    "$venv/bin/python" -m pip install --quiet --no-deps -r constraints-reasoning-gym.txt || skip_gym
    "$venv/bin/python" -m pip install --quiet --no-deps -c constraints-openspiel.txt open-spiel || skip_openspiel
    "$venv/bin/python" -m pip install --quiet --no-deps -r constraints-agents.txt || skip_agents
    "$venv/bin/python" -m pip install --quiet --no-deps -r constraints-docs.txt || skip_docs
fi
[ -n "$try_again" ] || echo "$want" > "$stamp"
