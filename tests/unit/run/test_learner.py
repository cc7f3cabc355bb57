"""What a run keeps of the policy that it began with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from megatron_stare.config.commands import TrainConfig
from megatron_stare.run.learner import starting_weights_of

ELSEWHERE = torch.device("meta")
"""In the place of a GPU."""


@pytest.fixture
def policy() -> Any:
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    return SimpleNamespace(device=ELSEWHERE, named_parameters=lambda: [("norm.weight", weight)])


def config_of(*, kl: float, colocated: bool) -> TrainConfig:
    servers = {"urls": ["http://127.0.0.1:30000"], "transport": "disk"}
    return TrainConfig.model_validate(
        {
            "model": {"path": "model"},
            "data": {"path": "prompts.jsonl"},
            "rollout": {"engine": "sglang", "servers": servers, "colocated": colocated},
            "algorithm": {"terms": [{"kl": {"coef": kl}}] if kl else []},
        }
    )


@pytest.mark.parametrize("colocated", [False, True])
def test_starting_weights_wait_on_the_host_beside_servers(policy, colocated):
    """On the GPU they would take a third of what the servers are to have, in every turn."""
    kept = starting_weights_of(policy, config_of(kl=0.1, colocated=colocated))
    assert kept is not None
    assert kept["norm.weight"].device == (torch.device("cpu") if colocated else ELSEWHERE)


def test_they_are_a_copy_that_training_does_not_change(policy):
    kept = starting_weights_of(policy, config_of(kl=0.1, colocated=True))
    assert kept is not None
    with torch.no_grad():
        policy.named_parameters()[0][1].add_(1.0)
    assert kept["norm.weight"].tolist() == [1.0, 2.0]


def test_without_a_penalty_none_are_kept(policy):
    assert starting_weights_of(policy, config_of(kl=0.0, colocated=True)) is None
