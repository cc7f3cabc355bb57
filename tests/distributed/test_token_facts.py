"""What is dumped of a token is what a float64 trainer, which knows no layout, decides of it.

Two steps on one batch: the scores before the second are those after the update of the first. Of the
first three of four groups, one has a sample that is masked altogether, and one a tool segment.
"""

from __future__ import annotations

import pytest
import torch

from megatron_stare.algorithms.advantages import group_advantages
from megatron_stare.policy.groups import build_groups
from megatron_stare.rollout.token_dump import TokenColumns
from megatron_stare.run.learner import learn
from megatron_stare.run.token_facts import token_columns
from tests.layout_steps import SCORE_ERROR, Job, Layout, open_run
from tests.models import NETWORKS, make_hf_folder
from tests.ragged_batches import ragged_batches
from tests.reference_formulas import HandWritten
from tests.reference_policy import ReferencePolicy
from tests.reference_step import ReferenceTrainer
from tests.worlds import run_world

LAYOUTS = {
    "one process": Layout(),
    "dp2": Layout(2, max_tokens=512),
    "pp2": Layout(2, {"pipeline": 2}),
    "tp2 sp dp2": Layout(4, {"tensor": 2, "sequence": True}, max_tokens=512),
    "cp2 dp2": Layout(4, {"context": 2}, max_tokens=450),
}
NUM_GROUPS = 3
LOW, HIGH = 0.05, 0.08
SETTINGS = {
    "optim": {"lr": 1e-3, "eps": 1e-4, "clip_grad": 0.5},
    "algorithm": {
        "stare": {"variant": "C2", "target_entropy": 10.0},
        "clip": {"low": LOW, "high": HIGH},
    },
}


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    folder = tmp_path_factory.mktemp("models") / "qwen2"
    make_hf_folder(folder, **NETWORKS["qwen2 tied"] | {"num_hidden_layers": 2})
    return Job(folder, SETTINGS, ragged_batches(seed=0)[:1] * 2)


@pytest.fixture(scope="module")
def steps(job):
    config = job.config(Layout())
    trainer = ReferenceTrainer(
        ReferencePolicy(job.folder, config), config, HandWritten(config.algorithm)
    )
    return [trainer.step(batch) for batch in job.batches]


def columns_of(rank: int, layout: Layout, job: Job) -> TokenColumns | None:
    config = job.config(layout)
    run = open_run(config, build_groups(config.parallel))
    learned = learn(run, job.batches[0], 1)
    return token_columns(run, job.batches[0], learned, NUM_GROUPS)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "dp2" else pytest.mark.slow) for n in LAYOUTS]
)
def test_a_token_is_what_the_reference_makes_of_it(name, job, steps):
    layout, batch, (before, after) = LAYOUTS[name], job.batches[0], steps
    found, *others = run_world(layout.processes, columns_of, layout, job)
    assert others == [None] * (layout.processes - 1)
    count = int(batch.response_lengths[batch.group_ids < NUM_GROUPS].sum())
    mask = batch.loss_mask[:count]

    numbers = {key: values.double() for key, values in found.numbers.items()}
    assert {len(values) for values in numbers.values()} == {count}
    assert (numbers["logprob"] - before.logprobs[:count]).abs().max() < SCORE_ERROR
    assert (numbers["entropy"] - before.entropies[:count]).abs().max() < SCORE_ERROR
    of_samples = group_advantages(batch.rewards, batch.group_ids)
    advantages = (of_samples[batch.sample_ids] * batch.loss_mask)[:count]
    assert torch.allclose(numbers["advantage"], advantages.double(), atol=1e-6)
    ratio = (after.logprobs - before.logprobs)[:count].exp()
    assert (numbers["ratio"] - ratio)[mask].abs().max() < 1e-4
    assert torch.equal(found.counted, mask)

    sets = {}
    assert before.ranked is not None
    for set_name, ids in (("L+", before.ranked.positive), ("L-", before.ranked.negative)):
        sets[set_name] = torch.zeros(len(batch.loss_mask)).bool().index_fill(0, ids, True)[:count]
        assert torch.equal(found.flags["set"][set_name], sets[set_name])
    gate_on, w, m = before.ranked.decision
    assert gate_on
    weights = torch.ones(count).masked_fill(sets["L+"], w).masked_fill(sets["L-"], m)
    assert torch.allclose(found.numbers["weight"], weights)

    signs = advantages.sign()
    for bound, is_held in (
        ("clip_low", (signs < 0) & (ratio < 1 - LOW)),
        ("clip_high", (signs > 0) & (ratio > 1 + HIGH)),
    ):
        is_near = ((ratio - (1 - LOW)).abs() < 1e-4) | ((ratio - (1 + HIGH)).abs() < 1e-4)
        assert is_held.any()
        assert torch.equal(found.flags["clip"][bound] & ~is_near, is_held & ~is_near)
