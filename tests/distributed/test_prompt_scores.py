"""Log-probs of prompts: those of transformers, in one process and over ranks of every kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from megatron_stare.policy.groups import build_groups
from megatron_stare.run.prompt_scores import score_prompts
from tests.layout_steps import SCORE_ERROR, Job, Layout, open_run
from tests.models import NETWORKS, make_hf_folder
from tests.ragged_batches import ragged_batches
from tests.worlds import run_world

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    """A batch with a prompt of one token, which has no log-prob."""
    folder = make_hf_folder(
        tmp_path_factory.mktemp("qwen3"), **NETWORKS["qwen3"], num_hidden_layers=2
    )
    settings: Mapping[str, Any] = {
        "algorithm": {"links": ["grpo", {"pro_grpo": {"alpha": 0.1}}]},
        "rollout": {"prompts_per_step": 4, "max_response_tokens": 399, "temperature": 0.7},
    }
    return Job(folder, settings, ragged_batches(seed=0)[:1])


def expected_logprobs(folder: Path, prompt: Tensor) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(prompt[None]).logits[0, :-1] / 0.7
    return logits.log_softmax(-1).gather(1, prompt[1:, None])[:, 0]


def measure(rank: int, layout: Layout, job: Job) -> Sequence[Tensor]:
    config = job.config(layout)
    run = open_run(config, build_groups(config.parallel))
    return score_prompts(run.session, job.batches[0]).of_samples


@pytest.mark.parametrize("parallel", [{}, {"context": 2}])
def test_they_are_those_of_transformers_on_every_rank(parallel, job):
    """The second world has two data-parallel ranks, which hold other prompts."""
    layout = Layout(4 if parallel else 1, parallel)
    batch = job.batches[0]
    ranks = run_world(layout.processes, measure, layout, job)
    samples = batch.token_ids.split(batch.lengths.tolist())
    prompts = [sample[:n] for sample, n in zip(samples, batch.prompt_lengths, strict=True)]
    of_group = {
        group: expected_logprobs(job.folder, prompt)
        for group, prompt in zip(batch.group_ids.tolist(), prompts, strict=True)
    }
    for rank in ranks:
        for found, group in zip(rank, batch.group_ids.tolist(), strict=True):
            torch.testing.assert_close(found, of_group[group], rtol=0, atol=SCORE_ERROR)
