"""The script of a job: what stands in it, that it is sound, and that the examples are not stale."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.loops import LOOPS
from megatron_stare.config_io import load_config, load_one_of
from megatron_stare.errors import UserError
from megatron_stare.slurm.script import ArrayRun, render, render_array

EXAMPLES = Path(__file__).parents[3] / "examples/slurm"
SGLANG = ("rollout.engine=sglang", "rollout.servers.registry=runs/servers")
SHAPES = {
    "trainers alone": (),
    "CPUs": ("slurm.gpus_per_node=0",),
    "nodes of servers": (*SGLANG, "slurm.rollout.nodes=2"),
    "a router": (*SGLANG, "slurm.rollout.nodes=2", "slurm.rollout.router=a router/bin/python"),
    "servers beside trainers": (*SGLANG, "slurm.processes_per_node=4"),
    "heterogeneous": (*SGLANG, "slurm.rollout.nodes=2", "slurm.rollout.options=[--qos=low]"),
    "container": (*SGLANG, "slurm.rollout.nodes=1", "slurm.container=a b.sqsh"),
    "sweep": ("slurm.sweep=[run.seed=1, run.seed=2 optim.lr=1e-5]",),
    "odd names": ("run.dir=a run's $dir", 'slurm.environment={A: "x $y\'"}'),
}


@pytest.fixture
def script(tmp_path):
    """What `megatron-stare slurm` writes with these overrides."""
    path = tmp_path / "a config.yaml"
    path.write_text(yaml.safe_dump({"model": {"path": "m"}, "data": {"path": "d.jsonl"}}))

    def make(*overrides: str) -> str:
        return render(load_config(TrainConfig, path, overrides), path, overrides)

    return make


@pytest.mark.parametrize("command", ["sft", "prefer"])
def test_a_job_runs_the_command_that_its_config_is_for(tmp_path, command):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"model": {"path": "m"}, "data": {"path": "d.jsonl"}}))
    overrides = [f"{command}.steps=3", "slurm.nodes=2", "slurm.sweep=[run.seed=1, run.seed=2]"]
    written = render(load_one_of(LOOPS, path, overrides), path, overrides)
    assert f'megatron_stare.cli {command} "$CONFIG" "${{OVERRIDES[@]}}" &' in written
    assert (
        'megatron_stare.cli config "$CONFIG" "${OVERRIDES[@]}" --processes "$PROCESSES"' in written
    )
    assert "serve" not in written
    assert {"--nodes=2", "--array=0-1"} <= {*directives(written)}


def test_given_responses_have_no_servers(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"model": {"path": "m"}, "data": {"path": "d.jsonl"}}))
    with pytest.raises(UserError, match=r"slurm.rollout: unknown key"):
        load_one_of(LOOPS, path, ["prefer.steps=3", "slurm.rollout.nodes=1"])


def directives(script: str) -> list[str]:
    return re.findall(r"^#SBATCH (.*)$", script, re.MULTILINE)


@pytest.mark.parametrize("overrides", SHAPES.values(), ids=SHAPES)
def test_every_script_is_sound_bash(script, overrides, tmp_path):
    path = tmp_path / "job.sbatch"
    path.write_text(script(*overrides))
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("overrides", SHAPES.values(), ids=SHAPES)
def test_shellcheck_has_nothing_to_say(script, overrides, tmp_path):
    program = shutil.which("shellcheck", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("no shellcheck in this environment: `make setup` installs it")
    path = tmp_path / "job.sbatch"
    path.write_text(script(*overrides))
    # A file that `setup` sources is not here; a `$` in a name is meant so.
    command = [program, "--exclude=SC1091,SC2016", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == ""


@pytest.mark.parametrize("overrides", SHAPES.values(), ids=SHAPES)
def test_all_directives_come_before_the_first_command_where_slurm_reads_them(script, overrides):
    lines = script(*overrides).splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert lines[first_command] == "set -euo pipefail"
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:])


def test_trainers_get_a_process_a_gpu_and_whole_nodes(script):
    found = directives(script("slurm.nodes=3", "slurm.cpus_per_process=12"))
    expected = ["nodes=3", "ntasks-per-node=8", "cpus-per-task=12", "gpus-per-node=8", "exclusive"]
    assert {f"--{option}" for option in expected} <= set(found)


def test_the_signal_comes_long_enough_before_the_limit(script):
    found = directives(script("slurm.hours=1.5", "slurm.signal_s=900"))
    assert "--time=01:30:00" in found
    assert "--signal=B:USR1@900" in found


def test_nodes_of_servers_stand_in_the_same_pool(script):
    text = script(*SGLANG, "slurm.nodes=2", "slurm.rollout.nodes=3", "slurm.rollout.tensor=4")
    assert "--nodes=5" in directives(text)
    assert "SERVERS_PER_NODE=2" in text
    assert "hetjob" not in directives(text)


def test_servers_beside_trainers_take_the_gpus_that_are_left(script):
    text = script(*SGLANG, "slurm.processes_per_node=6", "slurm.rollout.tensor=2")
    assert "--gpus-per-node=8" in directives(text)
    assert "--cpus-per-task=8 --gpus-per-node=6 \\" in text
    assert "--cpus-per-task=16 --gpus-per-node=2 \\" in text
    assert "SERVERS_PER_NODE=1" in text


def test_a_router_is_one_more_that_has_to_be_up(script):
    text = script(*SGLANG, "slurm.rollout.nodes=2", "slurm.rollout.router=router/bin/python")
    assert "ROUTER=(--router --router-python router/bin/python)" in text
    assert "expected=$((${#SERVER_HOSTS[@]} * SERVERS_PER_NODE + (${#ROUTER[@]} > 0)))" in text


def test_options_or_gpus_of_their_own_make_servers_a_component_of_their_own(script):
    text = script(*SGLANG, "slurm.rollout.nodes=4", "slurm.rollout.gpus_per_node=2")
    trainers, servers = "\n".join(directives(text)).split("hetjob")
    assert "--nodes=1\n" in trainers
    assert "--gpus-per-node=8" in trainers
    assert "--nodes=4\n" in servers
    assert "--gpus-per-node=2" in servers
    assert "--signal" not in servers


def test_without_gpus_nothing_of_cuda_and_nccl_is_set(script):
    text = script("slurm.gpus_per_node=0")
    assert not re.search(r"^export (CUDA|NCCL|TORCH_NCCL|PYTORCH_ALLOC)", text, re.MULTILINE)
    assert re.search(r"^export NCCL_DEBUG=", script(), re.MULTILINE)


def test_settings_of_the_job_are_not_passed_on_to_the_run(script):
    text = script("slurm.nodes=2", "optim.lr=1e-5", "run.dir=runs/x")
    assert "OVERRIDES=(optim.lr=1e-5)\nRUN_DIR=runs/x\n" in text


@pytest.mark.parametrize("config", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_what_the_command_writes_today(config, monkeypatch):
    monkeypatch.chdir(EXAMPLES.parents[1])
    path = config.relative_to(EXAMPLES.parents[1])
    expected = config.with_suffix(".sbatch").read_text()
    assert render(load_config(TrainConfig, path), path) == expected


def test_there_are_examples_of_1_4_16_and_32_nodes():
    names = sorted(path.stem for path in EXAMPLES.glob("*.sbatch"))
    assert names == ["16_nodes", "1_node", "32_nodes", "4_nodes"]


def test_what_only_trainers_should_have_in_their_environment_is_set_for_them_alone(script):
    """Servers are slower with the one, and cannot give up memory with the other."""
    text = script(*SGLANG, "slurm.processes_per_node=4")
    head, trainers = text.split("# ---- Trainers -")
    for name in ("CUDA_DEVICE_MAX_CONNECTIONS", "PYTORCH_ALLOC_CONF"):
        assert name not in head
    assert "export CUDA_DEVICE_MAX_CONNECTIONS=${CUDA_DEVICE_MAX_CONNECTIONS:-1}\n" in trainers
    assert "=${PYTORCH_ALLOC_CONF:-expandable_segments:True}\n" in trainers
    assert "PYTORCH_ALLOC_CONF" not in script("slurm.gpus_per_node=0")


def array_of(tmp_path, *overrides: str) -> str:
    """The script of two runs, the second with another folder and config."""
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump({"model": {"path": "m"}, "data": {"path": "d.jsonl"}}))
    config = load_config(TrainConfig, path, overrides)
    folders = [tmp_path / "compared" / name for name in ("grpo-seed1", "a run's-seed1")]
    runs = [ArrayRun(config, folder.with_suffix(".yaml"), folder) for folder in folders]
    return render_array(runs, tmp_path / "compared")


@pytest.mark.parametrize("task", [0, 1])
def test_a_task_of_an_array_takes_its_own_config_and_folder(tmp_path, task):
    script = array_of(tmp_path)
    assert {"--array=0-1", "--job-name=compared"} <= set(directives(script))
    head = script[: script.index("mkdir -p")]
    shown = f'{head}\necho "$CONFIG"; echo "${{OVERRIDES[*]}}"'
    environ = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_JOB_ID": "7"}
    done = subprocess.run(
        ["bash", "-c", shown], env=environ, capture_output=True, text=True, check=True
    )
    folder = tmp_path / "compared" / ("grpo-seed1", "a run's-seed1")[task]
    assert done.stdout == f"{folder}.yaml\nrun.dir={folder}\n"


def test_there_are_no_arrays_of_heterogeneous_jobs(tmp_path):
    with pytest.raises(UserError, match="no arrays of heterogeneous jobs"):
        array_of(tmp_path, *SHAPES["heterogeneous"])
