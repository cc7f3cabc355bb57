"""What of a config may change when a run goes on."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from megatron_stare.checkpoint.folders import Checkpoint
from megatron_stare.checkpoint.resume import check_config
from megatron_stare.config.commands import TrainConfig
from megatron_stare.errors import UserError

NETWORK = {"num_layers": 4, "rope_scaling": {"factor": 4.0}}
CONFIG = TrainConfig.model_validate(
    {"model": {"path": "model"}, "data": {"path": "data.jsonl"}}
).model_dump(mode="json")
CHECKPOINT = Checkpoint(Path("step_000003"), {"step": 3, "config": CONFIG, "model": NETWORK})


def changed(**changes):
    """The config with other values, by `section__key`."""
    config = copy.deepcopy(CONFIG)
    for name, value in changes.items():
        section, key = name.split("__")
        config[section][key] = value
    return config


def test_the_same_config_says_nothing():
    assert check_config(CHECKPOINT, changed(run__resume="must"), NETWORK) == []


def test_changes_are_listed_with_both_values():
    config = changed(optim__lr=5e-7, parallel__tensor=2)
    assert check_config(CHECKPOINT, config, NETWORK) == [
        "optim.lr: 1e-06 -> 5e-07",
        "parallel.tensor: 1 -> 2",
    ]


@pytest.mark.parametrize(
    ("config", "network", "said"),
    [
        (changed(rollout__samples_per_prompt=16), NETWORK, "samples_per_prompt was 8, is 16"),
        (changed(model__dtype="bfloat16"), NETWORK, "model.dtype was float32, is bfloat16"),
        ({"model": CONFIG["model"], "sft": {}}, NETWORK, "the command was train, is sft"),
        (CONFIG, NETWORK | {"num_layers": 5}, "model: num_layers was 4, is 5"),
        (CONFIG, NETWORK | {"rope_scaling": None}, "model: rope_scaling was .*factor.*, is None"),
    ],
)
def test_what_a_run_cannot_go_on_with_is_refused(config, network, said):
    with pytest.raises(UserError, match=rf"cannot go on from here: .*{said}.*expected the same"):
        check_config(CHECKPOINT, config, network)
