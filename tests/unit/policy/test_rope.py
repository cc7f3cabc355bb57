"""Rotary embeddings equal those of transformers, scaling included."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from megatron_stare.policy.rope import RotaryTable, inverse_frequencies, rotate
from megatron_stare.weights.rope_scaling import attention_factor
from tests.models import tiny_config
from tests.unit.policy.shapes import TINY

ORIGINAL = {"original_max_position_embeddings": 64}
SCALINGS = [
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    | ORIGINAL,
    {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 0.5, "high_freq_factor": 8.0}
    | ORIGINAL,
    {"rope_type": "yarn", "factor": 8.0} | ORIGINAL,
    {"rope_type": "yarn", "factor": 8.0, "beta_fast": 16, "beta_slow": 2, "truncate": False}
    | ORIGINAL,
    {"rope_type": "yarn", "factor": 8.0, "mscale": 1.0, "mscale_all_dim": 0.7} | ORIGINAL,
    {"rope_type": "yarn", "factor": 8.0, "attention_factor": 1.3} | ORIGINAL,
    {"rope_type": "yarn", "factor": 4.0, "attn_factor": 0.8782488562869419} | ORIGINAL,
    {"rope_type": "yarn", "factor": 4.0, "attn_factor": 0.9, "attention_factor": 1.1} | ORIGINAL,
    {"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.0} | ORIGINAL,
    {"rope_type": "yarn", "factor": 0.5, "beta_fast": 0, "attention_factor": None} | ORIGINAL,
]


@pytest.mark.parametrize(
    "scaling", SCALINGS, ids=lambda scaling: "-".join(map(str, scaling.values()))
)
def test_scaled_frequencies_equal_transformers(scaling):
    parameters = scaling | {"rope_theta": 5_000.0}
    config = tiny_config("llama", head_dim=64, rope_parameters=parameters)
    expected, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config)
    shape = replace(TINY, head_dim=64, rope_theta=5_000.0, rope_scaling=scaling)
    torch.testing.assert_close(inverse_frequencies(shape), expected, rtol=1e-6, atol=0)
    assert attention_factor(shape.rope_scaling) == pytest.approx(factor, rel=1e-12)


def test_scores_depend_on_the_distance_of_positions_only():
    table = RotaryTable(inverse_frequencies(TINY))
    query, key = torch.randn(2, 1, 1, TINY.head_dim)

    def score(query_position: int, key_position: int) -> torch.Tensor:
        positions = torch.tensor([query_position, key_position])
        cos_sin = table(positions, 200, torch.float32)
        return (rotate(query, cos_sin[:1]) * rotate(key, cos_sin[1:])).sum()

    torch.testing.assert_close(score(150, 140), score(30, 20), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(score(0, 0), (query * key).sum())


def test_the_table_grows_with_the_positions():
    table = RotaryTable(inverse_frequencies(TINY))
    positions = torch.arange(10)
    short = table(positions, 10, torch.float32)
    table(torch.arange(50), 50, torch.float32)
    torch.testing.assert_close(table(positions, 10, torch.float32), short, rtol=0, atol=0)
