"""What of a config may change when a run goes on."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from megatron_stare.checkpoint.folders import Checkpoint
from megatron_stare.checkpoint.resume import check_config, check_inputs
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
        ({"model": CONFIG["model"], "prefer": {}}, NETWORK, "the command was train, is prefer"),
        (CONFIG, NETWORK | {"num_layers": 5}, "model: num_layers was 4, is 5"),
        (CONFIG, NETWORK | {"rope_scaling": None}, "model: rope_scaling was .*factor.*, is None"),
    ],
)
def test_what_a_run_cannot_go_on_with_is_refused(config, network, said):
    with pytest.raises(UserError, match=rf"cannot go on from here: .*{said}.*expected the same"):
        check_config(CHECKPOINT, config, network)


@pytest.mark.parametrize(("command", "steps"), [("train", 2), ("sft", 1), ("prefer", 1)])
def test_steps_that_are_done_cannot_be_taken_back(command, steps):
    before = {"model": CONFIG["model"], command: {"steps": 9}}
    checkpoint = Checkpoint(Path("run"), {"step": 3, "config": before, "model": NETWORK})
    said = rf"past the end that {command}.steps={steps} gives it; expected 3 or more"
    with pytest.raises(UserError, match=said):
        check_config(checkpoint, before | {command: {"steps": steps}}, NETWORK)
    changes = check_config(checkpoint, before | {command: {"steps": 3}}, NETWORK)
    assert changes == [f"{command}.steps: 9 -> 3"]


INPUTS = {"tokenizer": "3fa1", "chat_template": "77b0", "stop_ids": [1, 5]}


def test_another_tokenizer_is_refused_and_what_ends_a_response_is_said():
    assert check_inputs(INPUTS, INPUTS) == []
    assert check_inputs({}, INPUTS) == []
    changed = INPUTS | {"chat_template": "0c12", "stop_ids": [1]}
    assert check_inputs(INPUTS, changed) == [
        "chat_template: 77b0 -> 0c12",
        "stop_ids: [1, 5] -> [1]",
    ]
    with pytest.raises(UserError, match=r"tokenizer was 3fa1, is 9bc4.*expected the same"):
        check_inputs(INPUTS, changed | {"tokenizer": "9bc4"})
