"""Every rank agrees on whether the weights are sound, whichever rank holds one that is not."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from megatron_stare.policy.probe import has_finite_scores
from tests.distributed.test_policy_checkpoint import open_policy
from tests.models import make_hf_folder
from tests.worlds import run_world

LAYOUTS = {
    "data": {},
    "tensor and sequence": {"tensor": 2, "sequence": True},
    "context": {"context": 2},
    "interleaved pipeline": {"pipeline": 2, "virtual_pipeline": 2},
    "experts": {"expert": 2},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_hf_folder(tmp_path_factory.mktemp("model") / "hf", "qwen3_moe")


def judge(rank: int, model: Path, layout: dict) -> list:
    """What a rank says of sound weights, and of one that rank 1 alone has spoiled."""
    policy = open_policy(model, layout)
    said = [policy.spoiled_weight(), has_finite_scores(policy)]
    weight = dict(policy.named_parameters()).get("decoder.final_layernorm.weight")
    for value in (3e38, math.nan):
        if rank == 1:
            assert weight is not None, "the last stage is its"
            with torch.no_grad():
                weight.fill_(value)
        said += [policy.spoiled_weight() is not None, has_finite_scores(policy)]
    return said


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_one_rank_is_enough(model, layout):
    for said in run_world(2, judge, model, layout):
        assert said == [None, True, True, False, True, False]
