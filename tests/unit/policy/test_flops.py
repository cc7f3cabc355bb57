"""The cost formula, against the operations torch counts in a transformers model."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from megatron_stare.policy.flops import sample_cost
from megatron_stare.weights.hf_config import read_hf_config
from tests.models import make_hf_folder


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama", "qwen3_moe"])
def test_the_cost_of_a_sample_is_the_flops_of_its_forward_pass(family, tmp_path):
    folder = make_hf_folder(tmp_path, family)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    model.set_experts_implementation("eager")  # torch counts no grouped products
    cost = sample_cost(read_hf_config(folder))
    for n in (1, 17, 64):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, n, dtype=torch.int64), use_cache=False)
        above_the_diagonal = cost.per_token_pair * n**2  # eager attention computes it too
        assert counter.get_total_flops() == cost(n, n) + above_the_diagonal
