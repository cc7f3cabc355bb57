"""How often a step goes through the head.

A prepass is a forward pass under the weights of the first update. What it has said of the tokens is
all that the head's backward needs there, so the head itself goes forward once, not twice.
"""

import math
from unittest import mock

import pytest

import megatron_stare.policy  # noqa: F401  (brings in Megatron-Core the way it has to be)
from megatron_stare.ops.logprob_entropy import linear_token_scores
from megatron_stare.policy import head
from tests.distributed.test_layouts import ENGINE_RANKS, GRPO, POLICY_RANKS, TWO_UPDATES
from tests.layout_steps import Job, Layout, take_steps
from tests.models import NETWORKS, make_hf_folder
from tests.ragged_batches import ragged_batches
from tests.worlds import run_world


def ways_through_the_head(rank: int, layout: Layout, jobs: dict[str, Job]) -> list[str]:
    """Of every micro-batch, in order; a rank of an earlier pipeline stage has none."""
    ways = []

    def recorded(hidden, *inputs, known, **options):
        forward = "forward" if known is None else "known"
        ways.append(f"{forward}, backward" if hidden.requires_grad else forward)
        return linear_token_scores(hidden, *inputs, known=known, **options)

    with mock.patch.object(head, "linear_token_scores", recorded):
        take_steps(rank, layout, jobs)
    return ways


@pytest.mark.parametrize("parallel", [{}, {"tensor": 2}, {"pipeline": 2}, {"context": 2}])
def test_the_head_does_not_go_forward_twice_under_the_same_weights(parallel, tmp_path):
    folder = make_hf_folder(tmp_path / "qwen3", **NETWORKS["qwen3"])
    batches = ragged_batches(seed=0)[:1]
    settings = (POLICY_RANKS, TWO_UPDATES, ENGINE_RANKS, GRPO)
    jobs = {str(number): Job(folder, each, batches) for number, each in enumerate(settings)}
    layout = Layout(math.prod(parallel.values()), parallel, max_tokens=4096)
    *_, last = run_world(layout.processes, ways_through_the_head, layout, jobs)
    probe = "forward"  # Of a few tokens, where a session opens: a policy has to have a log-prob.
    assert last == [
        *(probe, "forward", "known, backward"),
        *(probe, "forward", "forward", "known, backward", "forward, backward"),
        *(probe, "forward, backward"),
        *(probe, "forward, backward"),
    ]
