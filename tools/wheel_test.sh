#!/usr/bin/env bash
# Builds the wheel, installs it into a fresh environment and runs commands there: what the package
# needs has to be in it. Its dependencies are those of .venv, by path; its own files are not.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/source" "$folder/run"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$folder/source"
.venv/bin/python -m venv "$folder/fresh"
pip() { "$folder/fresh/bin/python" -m pip "$@" --quiet --disable-pip-version-check; }
pip wheel --no-deps --wheel-dir "$folder" "$folder/source"
pip install --no-deps "$folder"/*.whl
site=$(echo "$folder"/fresh/lib/python3.*/site-packages)
realpath .venv/lib/python3.*/site-packages > "$site/dependencies.pth"

cd "$folder/run"
unset PYTHONPATH
stare="$folder/fresh/bin/megatron-stare"
"$folder/fresh/bin/python" - "$site" <<'PYTHON'
import sys

import megatron_stare as package
from megatron_stare import run_links

assert package.__file__.startswith(sys.argv[1]), package.__file__
rows = [{"reward": reward, "group": 0, "logprobs": [-1.0]} for reward in (0, 1)]
assert run_links(["dr_grpo"], rows)[0]["advantages"] == [[-0.5], [0.5]]
PYTHON
echo '{"prompt": "1+1", "answer": "2"}' > problems.jsonl
printf '%s\n' "model: {path: $folder/run/model}" "data: {path: problems.jsonl}" > run.yaml
"$stare" --version
"$stare" config run.yaml > resolved.yaml
"$stare" slurm run.yaml --dry-run slurm.processes_per_node=1 > job.sbatch  # From the wheel's template.
grep -q "^#SBATCH" job.sbatch
echo "wheel: $(basename "$folder"/*.whl), $(wc -l < resolved.yaml) lines of config, 1 passed, 0 failed"
