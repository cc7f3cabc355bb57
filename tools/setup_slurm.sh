#!/usr/bin/env bash
# Installs Slurm and munge for the tests' own cluster, with apt-get, where that is allowed; says why
# where it is not. No daemon is started here: the tests start theirs, and end them.
set -euo pipefail

missing=()
for program in slurmctld slurmd munged sbatch; do
    command -v "$program" > /dev/null || missing+=("$program")
done
if ((${#missing[@]} == 0)); then exit 0; fi
if ! command -v apt-get > /dev/null || [ "$(id -u)" != 0 ]; then
    echo "setup: no ${missing[*]}, and no root with apt-get here to install slurm-wlm and munge" >&2
    exit 2
fi
echo "setup: installing slurm-wlm and munge"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install -y --no-install-recommends slurm-wlm munge iproute2 > /dev/null
