"""What is planned to be sent, against the collectives of a real forward and backward pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.policy import ParallelConfig
from megatron_stare.plan.hardware import GPUS, read_assumptions
from megatron_stare.plan.job import Job, open_job
from megatron_stare.plan.traffic import layer_traffic, step_traffic
from megatron_stare.plan.weights import tabulated_elements
from megatron_stare.policy.activations import RankSizes
from tests.unit.plan.measured import sent_bytes
from tests.unit.plan.test_activations import LENGTHS, NETWORK


def job_of(folder: Path, parallel: ParallelConfig, **network: int) -> Job:
    """Two GPUs that train a small network, without a prepass."""
    (folder / "config.json").write_text(json.dumps(NETWORK | network | {"model_type": "qwen3"}))
    tree = {
        "model": {"path": folder, "dtype": "bfloat16"},
        "parallel": parallel.model_dump(),
        "data": {"path": "prompts.jsonl"},
        "algorithm": {"stare": {"surprisal": "rollout"}},
    }
    return open_job(
        TrainConfig.model_validate(tree),
        GPUS["h100-80"],
        num_gpus=2,
        num_generators=None,
        server_gpus=None,
        assumptions=read_assumptions(),
    )


@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("sequence", [False, True])
def test_tensor_parallelism_sends_what_is_planned(sequence, kv_heads, tmp_path):
    """One KV head is shared by the two ranks."""
    parallel = ParallelConfig(tensor=2, sequence=sequence)
    job = job_of(tmp_path, parallel, num_key_value_heads=kv_heads)
    sent = sent_bytes(job.shape, job.config.model, job.parallel, LENGTHS)
    traffic = step_traffic(
        job,
        tabulated_elements(job.entries, job.parallel, 0, 2),
        padded_tokens=sum(LENGTHS),
        response_tokens=sum(LENGTHS) - len(LENGTHS),
        forward_passes=0,
        updates=1,
    )
    assert traffic.tensor == pytest.approx(sum(sent), rel=0.02)
    assert traffic.data == traffic.context == traffic.pipeline == 0


def test_context_parallelism_sends_what_is_planned(tmp_path):
    """Forward; backward the ring of the GPUs sends keys and values again, with their gradients."""
    job = job_of(tmp_path, ParallelConfig(context=2))
    forward, _ = sent_bytes(job.shape, job.config.model, job.parallel, LENGTHS)
    sizes = RankSizes.of(job.shape, job.parallel, num_tokens=sum(LENGTHS), element_bytes=2)
    planned = job.shape.num_layers * layer_traffic(job, sizes).context_forward
    assert planned == pytest.approx(forward, rel=0.02)


def test_gradients_and_parameters_cross_the_data_parallel_ranks_once(tmp_path):
    job = job_of(tmp_path, ParallelConfig())
    held = tabulated_elements(job.entries, job.parallel, 0, 2)
    traffic = step_traffic(
        job, held, padded_tokens=512, response_tokens=510, forward_passes=0, updates=3
    )
    assert traffic.data == 3 * held.buffer * (4 + 2) / 2
    assert traffic.tensor == 0
