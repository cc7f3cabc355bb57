"""How often a step goes through the head, and through each term of its loss.

A prepass is a forward pass under the weights of the first update. Where its graphs are kept, that
update goes backward only. Where not, what it has said of the tokens is all that the head's backward
needs there, so the head itself goes forward once, not twice.
"""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import megatron_stare.policy  # noqa: F401  (brings in Megatron-Core the way it has to be)
from megatron_stare.algorithms.terms.clip import Clip
from megatron_stare.algorithms.terms.entropy import Entropy
from megatron_stare.algorithms.terms.kl import Kl
from megatron_stare.ops.head_tiles import KEPT_BYTES
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
    assert ways(parallel, tmp_path, "never") == [
        *(PROBE, "forward", "known, backward"),
        *(PROBE, "forward", "forward", "known, backward", "forward, backward"),
        *(PROBE, "forward, backward"),
        *(PROBE, "forward, backward"),
    ]


@pytest.mark.parametrize("parallel", [{}, {"tensor": 2}, {"context": 2}])
def test_nothing_goes_forward_twice_under_the_same_weights_where_graphs_are_kept(
    parallel, tmp_path
):
    assert ways(parallel, tmp_path, "always") == [
        *(PROBE, "forward, backward"),
        *(PROBE, "forward, backward", "forward", "forward, backward"),
        *(PROBE, "forward, backward"),
        *(PROBE, "forward, backward"),
    ]


PROBE = "forward"
"""Of a few tokens, where a session opens: a policy has to have a log-prob."""


def ways(parallel: Mapping[str, int], folder: Path, keep_graph: str) -> list[str]:
    """On the last rank: of a method that ranks by the policy, the same with two updates, one that
    ranks by the engine, and GRPO."""
    model = make_hf_folder(folder / "qwen3", **NETWORKS["qwen3"], num_hidden_layers=2)
    batches = ragged_batches(seed=0)[:1]
    settings = (POLICY_RANKS, TWO_UPDATES, ENGINE_RANKS, GRPO)
    jobs = {
        str(number): Job(model, with_train(each, keep_graph=keep_graph), batches)
        for number, each in enumerate(settings)
    }
    layout = Layout(math.prod(parallel.values()), parallel, max_tokens=4096)
    return run_world(layout.processes, ways_through_the_head, layout, jobs)[-1]


def with_train(settings: Mapping[str, Mapping[str, Any]], **train: Any) -> dict[str, Any]:
    return {**settings, "train": {**settings.get("train", {}), **train}}


def bytes_to_keep(rank: int, layout: Layout, jobs: dict[str, Job]) -> list[int]:
    """Of logits, of every micro-batch that goes backward after it went forward."""
    budgets = []

    def recorded(hidden, *inputs, known, keep_bytes, **options):
        if hidden.requires_grad and known is None:
            budgets.append(keep_bytes)
        return linear_token_scores(hidden, *inputs, known=known, keep_bytes=keep_bytes, **options)

    with mock.patch.object(head, "linear_token_scores", recorded):
        take_steps(rank, layout, jobs)
    return budgets


@pytest.mark.parametrize(
    ("settings", "keep_graph", "parallel", "num_waiting"),
    [
        (GRPO, "never", {}, 1),
        (GRPO, "never", {"pipeline": 2}, 2),
        (POLICY_RANKS, "always", {}, None),
    ],
    ids=["one after the other", "a pipeline", "all wait"],
)
def test_micro_batches_that_wait_share_what_logits_may_take(
    settings, keep_graph, parallel, num_waiting, tmp_path
):
    model = make_hf_folder(tmp_path / "qwen3", **NETWORKS["qwen3"], num_hidden_layers=2)
    jobs = {"": Job(model, with_train(settings, keep_graph=keep_graph), ragged_batches(seed=0)[:1])}
    layout = Layout(math.prod(parallel.values()), parallel)
    budgets = run_world(layout.processes, bytes_to_keep, layout, jobs)[-1]
    assert len(budgets) > 1
    share = KEPT_BYTES["cpu"] // (num_waiting or len(budgets))
    assert budgets == [share] * len(budgets)


LAYOUTS = {
    "one rank": ("qwen3", Layout()),
    "dp2": ("qwen2 tied", Layout(2)),
    "tp2 sp": ("qwen3", Layout(2, {"tensor": 2, "sequence": True})),
    "cp2, computed again": ("qwen3", Layout(2, {"context": 2}, recompute="full")),
    "ep2": ("qwen3_moe", Layout(2, {"expert": 2})),
}


QUICK = ("one rank", "tp2 sp")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in LAYOUTS]
)
def test_steps_are_the_same_to_the_bit_whether_graphs_wait_or_not(name, tmp_path):
    network, layout = LAYOUTS[name]
    folder = make_hf_folder(tmp_path / "model", **NETWORKS[network], num_hidden_layers=2)
    settings = {"once": POLICY_RANKS, "twice": TWO_UPDATES}
    jobs = {
        f"{method}, {keep}": Job(folder, with_train(each, keep_graph=keep), ragged_batches(seed=0))
        for method, each in settings.items()
        for keep in ("never", "always")
    }
    for rank in run_world(layout.processes, take_steps, layout, jobs):
        for method in settings:
            never, always = rank[f"{method}, never"], rank[f"{method}, always"]
            assert len(never) == len(always) > 0
            for before, after in zip(never, always, strict=True):
                assert before.losses == after.losses
                assert before.grad_norms == after.grad_norms
                for said in ("gradients", "weights", "credit"):
                    assert_same_bits(getattr(before, said), getattr(after, said))


def assert_same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


TERMS = {"clip": Clip, "kl": Kl, "entropy": Entropy}
FOUR_UPDATES = {
    "train": {"updates_per_step": 2, "keep_graph": "never"},
    "algorithm": {
        "method": "grpo",
        "terms": [{"kl": {"coef": 0.1}}, {"entropy": {"coef": 0.1}}],
        "epochs": {"count": 2},
    },
}


def runs_in_turn(rank: int, layout: Layout, jobs: dict[str, Job]) -> list[str]:
    """Of the head and of each term's methods; a rank of an earlier stage has no losses."""
    runs = []

    def recorded(name, function):
        def run(*inputs, **options):
            runs.append(name)
            return function(*inputs, **options)

        return run

    with ExitStack() as stack:
        scores = recorded("head", linear_token_scores)
        stack.enter_context(mock.patch.object(head, "linear_token_scores", scores))
        for name, term in TERMS.items():
            loss, prepare = recorded(name, term.loss), recorded(f"prepare {name}", term.prepare)
            stack.enter_context(mock.patch.multiple(term, loss=loss, prepare=prepare))
        take_steps(rank, layout, jobs)
    return runs


@pytest.mark.parametrize("parallel", [{}, {"pipeline": 2}])
def test_each_term_runs_once_an_update_and_is_prepared_once_a_step(parallel, tmp_path):
    """Of a micro-batch an update."""
    folder = make_hf_folder(tmp_path / "qwen3", **NETWORKS["qwen3"], num_hidden_layers=2)
    jobs = {"": Job(folder, FOUR_UPDATES, ragged_batches(seed=0)[:1])}
    layout = Layout(math.prod(parallel.values()), parallel, max_tokens=4096)
    *_, last = run_world(layout.processes, runs_in_turn, layout, jobs)
    probe, prepass, reference = ["head"], ["head"] * 2, ["head"] * 2
    prepared = [f"prepare {term}" for term in TERMS]
    assert last == [*probe, *prepass, *reference, *prepared, *["head", *TERMS] * 4]
