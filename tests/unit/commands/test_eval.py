"""What `megatron-stare eval` is asked for: a config of its own, or of a training run; a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from megatron_stare.cli import main
from megatron_stare.commands.eval import evaluation_of
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.sft import SftConfig
from megatron_stare.config_io import to_yaml
from megatron_stare.errors import UserError

EVAL = {"samples_per_prompt": 2, "sets": {"aime24": {"data": {"path": "aime24.jsonl"}}}}
TRAIN = {
    "model": {"path": "start"},
    "data": {"path": "train.jsonl"},
    "rollout": {
        "engine": "sglang",
        "servers": {"urls": ["http://127.0.0.1:30000"]},
        "max_response_tokens": 99,
    },
    "reward": {"kind": "exact"},
    "eval": EVAL,
    "train": {"steps": 12},
    "log": {"wandb_project": "ours"},
}


def written(path: Path, tree: dict) -> Path:
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture
def run(tmp_path):
    """A run's folder with three policies, one of which is unfinished."""
    folder = tmp_path / "run"
    for name in ("step_000004", "step_000010", "final"):
        (folder / "hf" / name).mkdir(parents=True)
        (folder / "hf" / name / "config.json").touch()
    (folder / "hf/step_000011").mkdir()
    config = TrainConfig.model_validate(TRAIN | {"run": {"dir": "where/it/was"}})
    (folder / "config.yaml").write_text(to_yaml(config))
    return folder


def test_a_training_config_is_evaluated_as_it_stands(tmp_path):
    path = written(tmp_path / "train.yaml", TRAIN | {"run": {"dir": "runs/a"}})
    config, step = evaluation_of(path, ["eval.samples_per_prompt=32"])
    assert config.model.path == Path("start")
    assert config.rollout.engine == "sglang"
    assert config.rollout.servers.urls == ("http://127.0.0.1:30000",)
    assert config.reward.kind == "exact"
    assert config.eval.parts["aime24"].samples_per_prompt == 32
    assert config.run.dir == Path("runs/a/eval/start")
    assert (config.log.wandb_project, step) == (None, 0)


def test_a_run_is_known_by_its_folder_wherever_it_was(run):
    config, step = evaluation_of(None, run=run)
    assert (config.model.path, step) == (run / "hf/final", 12)
    assert config.run.dir == run / "eval/final"
    config, step = evaluation_of(None, ["run.dir=elsewhere"], run=run, policy="step_000004")
    assert (config.model.path, step) == (run / "hf/step_000004", 4)
    assert config.run.dir == Path("elsewhere")


def test_without_a_final_policy_the_newest_is_taken(run):
    (run / "hf/final/config.json").unlink()
    config, step = evaluation_of(None, run=run)
    assert (config.model.path.name, step) == ("step_000010", 10)


def test_problems_of_one_file_are_asked_of_any_run(tmp_path, run):
    """The file needs no model: an evaluation that several runs are put to."""
    path = written(tmp_path / "aime.yaml", {"eval": EVAL, "reward": {"kind": "math"}})
    config, step = evaluation_of(path, run=run)
    assert (config.model.path, config.reward.kind, step) == (run / "hf/final", "math", 12)
    assert config.rollout.engine == "embedded"
    assert config.run.dir == run / "eval/final"


def test_so_is_a_run_that_asks_no_problems_itself(tmp_path):
    folder = tmp_path / "sft"
    (folder / "hf/final").mkdir(parents=True)
    (folder / "hf/final/config.json").touch()
    sft = {"model": {"path": "m"}, "data": {"path": "d"}, "sft": {"steps": 7}}
    (folder / "config.yaml").write_text(to_yaml(SftConfig.model_validate(sft)))
    path = written(tmp_path / "aime.yaml", {"eval": EVAL})
    assert evaluation_of(path, run=folder)[1] == 7
    with pytest.raises(UserError, match=r"config\.yaml: is of sft, which asks no problems"):
        evaluation_of(None, run=folder)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["eval"], "eval: expected CONFIG.yaml, or --run RUN"),
        (["eval", "a.yaml", "--policy", "final"], "--policy final: is one of a run, expected"),
        (
            ["eval", "--run", "RUN", "--policy", "step_000011"],
            "expected step_000011, a Hugging Face folder, found final, step_000004, step_000010; a",
        ),
        (["eval", "--run", "RUN", "eval.sets.aime24.tempratur=1"], "eval.sets.aime24.tempratur: "),
        (["eval", "--run", "no/such/run"], "no/such/run/hf: expected a policy, a Hugging Face fo"),
    ],
)
def test_what_is_missing_is_one_line(run, capsys, command, said):
    assert main([word.replace("RUN", str(run)) for word in command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
