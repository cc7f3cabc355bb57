"""What cannot be a job, or a run in it, is refused before anything is submitted, in one line."""

from __future__ import annotations

import pytest
import yaml

from megatron_stare.cli import main
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config_io import load_config
from megatron_stare.errors import UserError
from megatron_stare.run.preflight import check_run
from megatron_stare.slurm.script import render
from tests.models import make_hf_folder

SGLANG = ("rollout.engine=sglang", "rollout.servers.registry=runs/servers")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A config that can be a job on one node without GPUs."""
    folder = tmp_path_factory.mktemp("job")
    make_hf_folder(folder / "model", "qwen3")
    (folder / "prompts.jsonl").touch()
    tree = {
        "run": {"dir": str(folder / "run")},
        "model": {"path": str(folder / "model")},
        "data": {"path": str(folder / "prompts.jsonl"), "max_prompt_tokens": 16},
        "rollout": {"max_response_tokens": 32},
        "slurm": {"gpus_per_node": 0, "processes_per_node": 2},
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("slurm.nods=2",), r"slurm.nods: unknown key \(value 2\); did you mean slurm.nodes"),
        (("slurm.nodes=0",), r"slurm.nodes: .*greater than or equal to 1, found 0"),
        (("parallel.tensor=4",), r"slurm.nodes=1 x slurm.processes_per_node=2: world size 2 does"),
        (("slurm.gpus_per_node=1",), r"slurm.processes_per_node=2: expected at most slurm.gpus_p"),
        (("slurm.rollout.nodes=1",), r"slurm.rollout.nodes=1 with rollout.engine='embedded'"),
        (("run.resume=never",), r"run.resume='never': a job that is queued again"),
        (("slurm.signal_s=100",), r"slurm.signal_s=100: .* checkpoint.grace_s=120, expected more"),
        (("slurm.hours=0.1",), r"signal_s=600 is no less than the time limit, hours=0.1"),
        (("slurm.options=[--time=5]",), r"slurm.options has '--time=5', which the script has"),
        (("slurm.options=[-p gpu]",), r"options has '-p gpu', expected --name=value"),
        (("slurm.environment={A-B: x}",), r"environment has 'A-B', expected a variable's name"),
        (("slurm.sweep=[seed]",), r"sweep has 'seed', expected section.key=value"),
        (("slurm.sweep=[run.seed=1, run.seed=1]",), r"has the same run twice"),
        (("slurm.mounts=['/a:/b']",), r"mounts=\['/a:/b'\] needs a container"),
        ((*SGLANG, "slurm.gpus_per_node=2"), r"servers take the 0 that slurm.processes_per_node=2"),
        (
            (*SGLANG, "slurm.gpus_per_node=5", "slurm.rollout.tensor=2"),
            r"slurm.rollout.tensor=2: servers take the 3 that .*expected a multiple",
        ),
        ((*SGLANG, "slurm.rollout.options=[--qos=low]"), r"slurm.rollout.nodes=0"),
        (
            (
                *(*SGLANG, "slurm.rollout.nodes=1", "slurm.rollout.options=[--qos=low]"),
                "slurm.sweep=[run.seed=1]",
            ),
            r"Slurm has no arrays of heterogeneous jobs",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_job_that_cannot_be_is_refused_by_the_keys_and_what_they_need(config, overrides, said):
    with pytest.raises(UserError, match=said):
        render(load_config(TrainConfig, config, overrides), config, overrides)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.path=nowhere", "nowhere"),
        ("parallel.pipeline=3", "parallel.pipeline=3 does not divide the model's"),
        ("data.path=nowhere.jsonl", "data.path=nowhere.jsonl: no such file"),
        ("eval.data.path=nowhere.jsonl", "eval.data.path=nowhere.jsonl: no such file"),
        (
            "eval.data={template: chat, sources: {g: {environment: {name: 'nowhere:G'}}}}",
            "eval.data.sources.g.environment: nowhere:G cannot be used: ModuleNotFoundError",
        ),
        ("rollout.max_response_tokens=8000", "data.max_prompt_tokens . rollout.max_response_token"),
    ],
)
def test_a_run_that_could_not_start_is_refused_without_any_process_of_it(config, override, said):
    with pytest.raises(UserError, match=said):
        check_run(load_config(TrainConfig, config, [override]), num_processes=6)


def test_the_command_writes_the_script_of_a_run_that_can_start(config, tmp_path, capsys):
    path = tmp_path / "job.sbatch"
    assert main(["slurm", str(config), "--out", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert path.read_text().startswith("#!/bin/bash\n")


@pytest.mark.parametrize("override", ["model.path=nowhere", "slurm.sweep=[data.path=nowhere]"])
def test_it_writes_none_where_a_run_cannot_start(config, override, tmp_path, capsys):
    path = tmp_path / "job.sbatch"
    assert main(["slurm", str(config), override, "--out", str(path)]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not path.exists()


def test_a_dry_run_prints_it_though_the_model_is_elsewhere(config, capsys):
    assert main(["slurm", str(config), "model.path=nowhere", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("#!/bin/bash\n")


def test_config_checks_a_start_in_so_many_processes_if_asked(config, capsys):
    assert main(["config", str(config), "parallel.tensor=2", "--processes", "2"]) == 0
    assert main(["config", str(config), "parallel.tensor=2", "--processes", "3"]) == 2
    assert "world size 3 does not fit parallel.tensor=2" in capsys.readouterr().err
