#!/usr/bin/env bash
# Makes .venv-openenv, in which the tests' environment server of OpenEnv runs: beside .venv, since
# such servers bring packages of their own.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/environments.sh

make_env openenv "320 MB" constraints-openenv.txt
