"""What a method's updates say is what is done, in every layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from megatron_stare.algorithms.advantages import group_advantages
from megatron_stare.algorithms.batch_stats import Grouping
from megatron_stare.algorithms.hooks import Credit, Rescore, Step, Update, Updates
from megatron_stare.algorithms.needs import OLD
from megatron_stare.data.packing import split_updates
from tests.distributed.test_layouts import LAYOUTS, OPTIM
from tests.layout_steps import Job, Layout, assert_same_step, merge_ranks, take_steps
from tests.models import NETWORKS, make_hf_folder
from tests.ragged_batches import ragged_batches, with_turns
from tests.worlds import run_world

pytestmark = pytest.mark.slow


class Alternating(Updates):
    """Every other sample, then the others, by how far the first update has moved them."""

    needs: ClassVar = frozenset({OLD})

    def updates(self, step: Step, credit: Credit, rescore: Rescore) -> Iterator[Update]:
        """Across the planned parts: each has samples of both."""
        everyone = range(len(step.batch))
        yield Update(everyone[::2], credit)
        moved = rescore(everyone[1::2]).logprobs - step[OLD].logprobs
        by_sample = step.by(Grouping.by_sample)
        ratios = by_sample.of_tokens(by_sample.mean(moved).exp())
        assert not everyone[1::2] or float(step.stats.max((ratios - 1).abs())) > 1e-4
        yield Update(everyone[1::2], credit.scaled(ratios))


WORKED = 5
"""A sample of the batch that stands for a demonstration."""
RECORDED = {"engine": "replay", "replay_path": "unused"}
"""Turns come with recorded samples."""
METHODS = {
    "once": {},
    "twice": {"epochs": {"count": 2}},
    "alternating": {"updates": f"{__name__}:Alternating"},
    "demonstrated": {"terms": ["demonstration_nll"]},
    "turn by turn": {"method": "seeupo"},
}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    folder = make_hf_folder(
        tmp_path_factory.mktemp("qwen3"), **NETWORKS["qwen3"], num_hidden_layers=2
    )
    batch = with_turns(ragged_batches(seed=0)[0])
    demonstrated = torch.arange(len(batch)) == WORKED
    settings = {"optim": OPTIM, "train": {"updates_per_step": 2}}
    return {
        name: Job(
            folder,
            {
                **settings,
                "data": {"path": "unused", "max_prompt_tokens": 1, "demonstration_field": "worked"},
                "rollout": {"prompts_per_step": 4, "max_response_tokens": 399, **RECORDED},
                "algorithm": {"method": "grpo", **section},
            },
            [replace(batch, demonstrated=demonstrated if name == "demonstrated" else None)],
        )
        for name, section in METHODS.items()
    }


@pytest.fixture(scope="module")
def expected(jobs):
    (steps,) = run_world(1, take_steps, Layout(), jobs)
    return {name: merge_ranks([ranks])[0] for name, ranks in steps.items()}


def test_a_batch_is_gone_through_as_often_as_the_method_says(expected):
    once, twice = expected["once"], expected["twice"]
    assert (len(once.losses), len(twice.losses)) == (2, 4)
    assert twice.losses[:2] == once.losses
    assert twice.losses[2:] != once.losses


def test_a_demonstration_is_learned_from_by_its_likelihood_alone(jobs, expected):
    """Its loss has a mean of its own, beside that of the other samples, of which it is none."""
    (batch,) = jobs["demonstrated"].batches
    found = expected["demonstrated"]
    tokens = found.logprobs.split(batch.response_lengths.tolist())
    mask = batch.loss_mask.split(batch.response_lengths.tolist())[WORKED]
    nll = -tokens[WORKED][mask].mean()
    (first, *_) = split_updates(batch.group_ids.tolist(), 2)
    assert WORKED in first
    advantages = group_advantages(batch.rewards, batch.group_ids)
    counts = batch.judged.num_loss_tokens
    surrogate = -(advantages * counts)[first].sum() / counts[first].sum()
    assert found.losses[0] == pytest.approx(float(nll + surrogate), rel=1e-5)


@pytest.mark.parametrize("layout", ["dp2", "cp2", "pp2"])
def test_no_layout_changes_what_comes_of_them(layout, jobs, expected):
    ranks = run_world(LAYOUTS[layout].processes, take_steps, LAYOUTS[layout], jobs)
    for name in jobs:
        (found,) = merge_ranks([rank[name] for rank in ranks])
        assert_same_step(found, expected[name], 3.0)
