"""What of a chunk is in a checkpoint: parameters, and nothing that only some kinds of layers have.

That a checkpoint without Transformer Engine goes on with it is in test_policy_checkpoint.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_stare.config.policy import ModelConfig, ParallelConfig
from megatron_stare.policy.model import build_model
from megatron_stare.policy.norm import RMSNorm
from megatron_stare.policy.sharded_state import load_parameters, sharded_parameters
from tests.policies import have_extra_state
from tests.unit.policy.shapes import TINY


def build(groups):
    config = ModelConfig(path=Path("unused"), random_init=True)
    (chunk,) = build_model(TINY, config, ParallelConfig(), groups, seed=1)
    return chunk


def test_only_parameters_are_saved_and_asked_for(groups, monkeypatch):
    have_extra_state(RMSNorm, monkeypatch.setattr)
    chunk = build(groups)
    assert "decoder.final_layernorm._extra_state" in chunk.state_dict()
    names = {name for name, _ in chunk.named_parameters()}
    assert names == sharded_parameters(chunk).keys()


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_a_parameter_that_is_missing_or_strange_is_refused(groups, change):
    chunk = build(groups)
    name = "decoder.final_layernorm.weight"
    state = dict(chunk.named_parameters())
    state = state | {"strange": state[name]}
    if change == "missing":
        state = {key: state[key] for key in state if key not in (name, "strange")}
    with pytest.raises(ValueError, match=name if change == "missing" else "strange"):
        load_parameters(chunk, state)
