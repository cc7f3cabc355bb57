"""Training steps under a layout, through the trainer's own `learn`, for comparison with float64.

ranks = run_world(layout.processes, take_steps, layout, jobs)
steps = merge_ranks([rank["job"] for rank in ranks])       # StepOutcome of each step
assert_same_step(steps[0], ReferenceTrainer(folder, config).step(batch))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

import megatron_stare.policy  # noqa: F401  (brings in Megatron-Core the way it has to be)
from megatron_stare.algorithms.chain import Chain
from megatron_stare.algorithms.links.stare import Stare, most_surprising
from megatron_stare.algorithms.needs import OLD, REFERENCE
from megatron_stare.algorithms.stare import StareSelection
from megatron_stare.checkpoint.lock import RunLock
from megatron_stare.checkpoint.saver import Saver
from megatron_stare.config.commands import TrainConfig
from megatron_stare.launch.topology import Topology
from megatron_stare.observe.console import Progress, open_console
from megatron_stare.observe.loggers import Loggers
from megatron_stare.policy.groups import ParallelGroups, build_groups
from megatron_stare.policy.step import Policy
from megatron_stare.run.run import Run
from megatron_stare.run.saving import Saving
from megatron_stare.run.session import World, open_session
from megatron_stare.system.signals import StopRequest
from megatron_stare.train import Learned, learn
from megatron_stare.types import RolloutBatch
from megatron_stare.weights.hf_config import read_hf_config
from tests.policies import assert_close_relative
from tests.reference_step import StepOutcome

SCORE_ERROR = 1e-5
"""Nats, of a log-prob or an entropy."""
LOSS_ERROR = 1e-6
RELATIVE_ERROR = 1e-5
"""Of a gradient, a weight (against the largest entry of its tensor) or a gradient norm."""


@dataclass(frozen=True)
class Layout:
    """How many processes share the work, and how."""

    processes: int = 1
    parallel: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int = 400
    recompute: str = "none"


class Job(NamedTuple):
    """A model folder, the settings of a run, and the batches of its steps."""

    folder: Path
    settings: Mapping[str, Mapping[str, Any]]
    batches: Sequence[RolloutBatch]

    def config(self, layout: Layout) -> TrainConfig:
        """The run's config under a layout."""
        return TrainConfig.model_validate(
            {
                "model": {"path": self.folder, "recompute": layout.recompute},
                "parallel": layout.parallel,
                "data": {"path": "unused", "max_prompt_tokens": 1},
                "rollout": {"prompts_per_step": 4, "max_response_tokens": 399},
                **self.settings,
                "train": {
                    "max_tokens_per_micro_batch": layout.max_tokens,
                    **self.settings.get("train", {}),
                },
            }
        )


@dataclass(frozen=True)
class RankStep:
    """What one rank knows of a step: its own tokens, `[r]`, and on rank 0 all tensors."""

    index: Tensor
    logprobs: Tensor
    entropies: Tensor
    positive: Tensor
    negative: Tensor
    decision: tuple[bool, float, float]
    losses: list[float]
    grad_norms: list[float]
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]


def take_steps(rank: int, layout: Layout, jobs: Mapping[str, Job]) -> dict[str, list[RankStep]]:
    """The steps of every job on this rank; each job starts from its folder's weights."""
    groups = build_groups(next(iter(jobs.values())).config(layout).parallel)
    return {name: _run_job(job, layout, groups) for name, job in jobs.items()}


def _run_job(job: Job, layout: Layout, groups: ParallelGroups) -> list[RankStep]:
    config = job.config(layout)
    run = open_run(config, groups)
    return [
        _rank_step(run, learn(run, batch, step)) for step, batch in enumerate(job.batches, start=1)
    ]


def open_run(config: TrainConfig, groups: ParallelGroups) -> Run:
    """A run without its rollout side: its batches are given."""
    console = open_console(quiet=True)
    topology = Topology(dist.get_rank(), dist.get_world_size(), 0, torch.device("cpu"))
    world = World(
        topology,
        read_hf_config(config.model.path),
        groups,
        Loggers([], console, Progress(console, bars=False)),
        resumed=None,
        lock=RunLock(config.run.dir),
        found={},
    )
    session = open_session(
        config,
        world,
        num_updates=config.train.steps * config.updates_per_step,
        temperature=config.rollout.temperature,
        max_tokens_per_micro_batch=config.train.max_tokens_per_micro_batch,
    )
    saver = Saver(config.run.dir, config.checkpoint, {}, world.loggers.message)
    saving = Saving(
        config.checkpoint, session, saver, StopRequest(), config.train.steps, world.lock
    )
    starting_weights = None
    if REFERENCE in config.needs:
        starting_weights = {n: p.detach().clone() for n, p in session.policy.named_parameters()}
    return Run(config, session, Chain(config.algorithm), None, starting_weights, saving)


def _rank_step(run: Run, learned: Learned) -> RankStep:
    policy = run.session.policy
    gradients, weights = _hf_gradients(policy), dict(policy.hf_tensors())
    is_first = dist.get_rank() == 0
    selection, decision = _stare(run, learned)
    return RankStep(
        index=learned.step.index,
        logprobs=learned.step[OLD].logprobs,
        entropies=learned.step[OLD].entropies,
        positive=selection.positive,
        negative=selection.negative,
        decision=decision,
        losses=[update.loss for update in learned.updates],
        grad_norms=[update.grad_norm for update in learned.updates],
        gradients=gradients if is_first else {},
        weights=weights if is_first else {},
    )


def _stare(run: Run, learned: Learned) -> tuple[StareSelection, tuple[bool, float, float]]:
    """What it ranked and decided, or would have ranked in a chain without it."""
    stare = run.config.algorithm.links.get("stare")
    if not isinstance(stare, Stare):
        logprobs = learned.step[OLD].logprobs
        selection = most_surprising(logprobs, learned.credit, learned.step, Stare().top_share)
        return selection, (False, Stare().w, Stare().m)
    state = run.chain.states["stare"]
    selection = stare.selection(learned.credit, learned.step)
    return selection, (state.gate_on, state.w, state.m)


def _hf_gradients(policy: Policy) -> dict[str, Tensor]:
    """The gradients of the last update, clipped, whole and by Hugging Face name.

    Reduced gradients are spread over the ranks that share a parameter, each holding a part of every
    bucket: they are gathered in place, and then leave the way weights do.
    """
    for chunk in policy.model:
        for buffer in [*chunk.buffers, *chunk.expert_parallel_buffers]:
            group = buffer.data_parallel_group
            for bucket in buffer.buckets:
                part = bucket.grad_data.chunk(group.size())[group.rank()].clone()
                dist.all_gather_into_tensor(bucket.grad_data, part, group=group)
    gradients = {name: p.main_grad for name, p in policy.named_parameters()}
    with policy.weights_swapped_for(gradients):
        return dict(policy.hf_tensors())


def merge_ranks(ranks: Sequence[Sequence[RankStep]]) -> list[StepOutcome]:
    """The steps of the whole world; ranks that know the same thing must agree on every bit."""
    return [_merge_step(step) for step in zip(*ranks, strict=True)]


def _merge_step(ranks: Sequence[RankStep]) -> StepOutcome:
    for rank in ranks:
        assert rank.decision == ranks[0].decision
        assert rank.losses == ranks[0].losses
        assert rank.grad_norms == ranks[0].grad_norms

    def over_ranks(name: str) -> Tensor:
        """A flat quantity of all tokens, in the batch's order."""
        num_tokens = 1 + max(int(rank.index.max()) for rank in ranks if len(rank.index))
        values = torch.full((num_tokens,), torch.nan)
        for rank in ranks:
            found = getattr(rank, name).float()
            known = ~values[rank.index].isnan()
            assert torch.equal(values[rank.index][known], found[known]), name
            values[rank.index] = found
        assert not values.isnan().any()
        return values

    return StepOutcome(
        logprobs=over_ranks("logprobs"),
        entropies=over_ranks("entropies"),
        positive=over_ranks("positive").nonzero().squeeze(1),
        negative=over_ranks("negative").nonzero().squeeze(1),
        decision=ranks[0].decision,
        losses=ranks[0].losses,
        grad_norms=ranks[0].grad_norms,
        gradients=ranks[0].gradients,
        weights=ranks[0].weights,
    )


def assert_same_step(found: StepOutcome, expected: StepOutcome, patience: float = 1.0) -> None:
    """A step is the float64 one: its decisions exactly, its numbers to the errors above.

    `patience` multiplies these, for a step that is compared with another one in float32.
    Causes are compared before effects, so that a message names what went wrong first.
    """
    for name in ("logprobs", "entropies"):
        error = (getattr(found, name) - getattr(expected, name)).abs().max()
        assert error <= patience * SCORE_ERROR, f"{name}: error {error:.1e}"
    assert found.decision == expected.decision, f"decision: {found.decision}"
    assert torch.equal(found.positive, expected.positive), "L+ has other tokens"
    assert torch.equal(found.negative, expected.negative), "L- has other tokens"
    for loss, expected_loss in zip(found.losses, expected.losses, strict=True):
        error = abs(loss - expected_loss)
        assert error <= patience * LOSS_ERROR, f"loss: {loss}, expected {expected_loss}"
    for norm, expected_norm in zip(found.grad_norms, expected.grad_norms, strict=True):
        error = abs(norm / expected_norm - 1)
        assert error <= patience * RELATIVE_ERROR, (
            f"gradient norm: {norm}, expected {expected_norm}"
        )
    for name in ("gradients", "weights"):
        assert getattr(found, name).keys() == getattr(expected, name).keys()
        tensors = getattr(found, name), getattr(expected, name)
        assert_close_relative(*tensors, patience * RELATIVE_ERROR)
