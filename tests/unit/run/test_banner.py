"""What a person reads as a run begins and ends."""

from __future__ import annotations

import pytest

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.sft import SftConfig
from megatron_stare.run.banner import lines_of_start
from megatron_stare.run.session import open_world
from tests.models import make_hf_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_hf_folder(tmp_path_factory.mktemp("model") / "qwen3", "qwen3")


def start_of(config) -> list[str]:
    with open_world(config) as world:
        return lines_of_start(config, world)


def test_a_reinforcement_run_names_model_layout_batch_and_method(model, tmp_path):
    config = TrainConfig.model_validate(
        {
            "run": {"dir": tmp_path / "run"},
            "model": {"path": model},
            "data": {"path": "unused"},
            "algorithm": {"method": "grpo", "terms": [{"kl": {"coef": 0.1}}]},
            "train": {"steps": 7, "updates_per_step": 2},
            "rollout": {"prompts_per_step": 4, "samples_per_prompt": 3},
            "log": {"progress": False},
        }
    )
    named, trainers, batch, method, run = start_of(config)
    assert named.startswith(f"model     {model}: qwen3, 0.1 M parameters, ")
    assert trainers == "trainers  1 x CPU, TP1 PP1 CP1 DP1"
    assert batch.startswith("batch     4 prompts x 3 samples of at most ")
    assert batch.endswith("tokens, engine embedded; 2 updates a step")
    assert method == (
        "method    grpo: grpo; clip, kl; needs scores of the policy before the step, scores of the "
        "reference policy"
    )
    assert run == f"run       {tmp_path / 'run'}, steps 1 to 7"


def test_supervised_learning_has_no_method(model, tmp_path):
    config = SftConfig.model_validate(
        {
            "run": {"dir": tmp_path / "run"},
            "model": {"path": model},
            "data": {"path": "unused"},
            "sft": {"steps": 3, "examples_per_step": 5},
            "log": {"progress": False},
        }
    )
    _, _, batch, run = start_of(config)
    assert batch == "batch     5 examples"
    assert run.endswith("steps 1 to 3")
