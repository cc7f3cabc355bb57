# Sourced by the scripts that make environments beside .venv: `make_env NAME SIZE CONSTRAINTS...`
# makes .venv-NAME with Python 3.12 and the packages that the constraints files pin, no others; it
# does nothing for one that is up to date.
# shellcheck shell=bash

find_uv() {
    if command -v uv >/dev/null 2>&1; then echo "uv"; return; fi
    for python in python3.12 python3; do
        "$python" -m uv --version >/dev/null 2>&1 && { echo "$python -m uv"; return; }
    done
    return 0
}

install_into() {
    local venv=$1 uv
    shift
    uv=$(find_uv)
    if [ -n "$uv" ]; then
        $uv pip install --quiet --compile-bytecode --python "$venv/bin/python" --no-deps "$@"
    else
        "$venv/bin/python" -m pip install --quiet --no-deps "$@"
    fi
}

make_env() {
    local venv=.venv-$1 size=$2
    shift 2
    local stamp="$venv/.setup-stamp" uv want requirements=()
    want=$(cat "$@" .python-version "$0" "${BASH_SOURCE[0]}" | sha256sum)
    if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
        return
    fi
    for constraints in "$@"; do requirements+=(-r "$constraints"); done
    uv=$(find_uv)
    echo "setup: making $venv (${uv:-venv and pip}); about $size"
    rm -f "$stamp"
    if [ -n "$uv" ]; then
        $uv venv --quiet --allow-existing --python 3.12 "$venv"
    else
        # The trainer's environment is there already, and has the right Python.
        .venv/bin/python -m venv "$venv"
    fi
    install_into "$venv" "${requirements[@]}"
    echo "$want" > "$stamp"
}
