"""Rotary positions beyond a network's own, in every spelling; engine and trainer scale alike."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from megatron_stare.config.commands import TrainConfig
from megatron_stare.errors import UserError
from megatron_stare.run.preflight import check_model
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.rope_scaling import attention_factor, sglang_attention_factor
from tests.unit.weights.published import LLAMA3_SCALING, QWEN25_32B, YARN, write


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_rope_scaling_in_both_spellings(tmp_path, key):
    theta = {"rope_theta": 5e5}
    inside = theta if key == "rope_parameters" else {}
    scaling = {"rope_type": "llama3", **LLAMA3_SCALING, "original_max_position_embeddings": 8192}
    config = QWEN25_32B | theta | {"model_type": "llama", key: scaling | inside}
    shape = read_hf_config(write(tmp_path, config))
    assert (shape.rope_theta, shape.rope_scaling) == (5e5, scaling)


R1_0528 = YARN | {"attn_factor": 0.8782488562869419}
"""Of DeepSeek-R1-0528-Qwen3-8B, as published."""


def sglang_run(folder: Path) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "model": {"path": folder},
            "data": {"path": "p.jsonl"},
            "rollout": {"engine": "sglang", "servers": {"urls": ["http://127.0.0.1:30000"]}},
        }
    )


def test_attn_factor_is_read_as_transformers_does_or_as_both_do(tmp_path):
    """SGLang multiplies by it; transformers, which the trainer equals, does not know it."""
    for rope, ours, theirs in (
        (R1_0528, 0.1 * math.log(4) + 1, 1.0),
        (R1_0528 | {"attention_factor": 1.0}, 1.0, 1.0),
        (YARN | {"attention_factor": 1.5}, 1.5, 0.1 * math.log(4) + 1),
        (YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0, 1.0),
    ):
        shape = read_hf_config(write(tmp_path, QWEN25_32B | {"rope_scaling": rope}))
        assert shape.rope_scaling == rope
        assert attention_factor(shape.rope_scaling) == pytest.approx(ours)
        assert sglang_attention_factor(shape.rope_scaling) == pytest.approx(theirs)
        if ours == pytest.approx(theirs):
            check_model(sglang_run(tmp_path), shape)
            continue
        with pytest.raises(UserError, match=r"and both read") as error:
            check_model(sglang_run(tmp_path), shape)
        added = re.search(r'add "(\w+)": ([\d.]+) to', str(error.value))
        assert added is not None
        mended = rope | {added[1]: float(added[2])}
        shape = read_hf_config(write(tmp_path, QWEN25_32B | {"rope_scaling": mended}))
        check_model(sglang_run(tmp_path), shape)


def test_a_rotation_of_everything_says_nothing(tmp_path):
    rope = {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 1.0}
    shape = read_hf_config(write(tmp_path, QWEN25_32B | {"rope_parameters": rope}))
    assert (shape.rope_theta, shape.rope_scaling) == (1e6, None)


def test_yarn_under_its_oldest_name_gets_the_original_length(tmp_path):
    config = QWEN25_32B | {"rope_scaling": {"type": "yarn", "factor": 4.0}}
    assert read_hf_config(write(tmp_path, config)).rope_scaling == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 131072,
    }
