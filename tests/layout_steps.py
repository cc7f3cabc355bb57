"""Training steps under a layout, through the trainer's own `learn`, for comparison with float64.

ranks = run_world(layout.processes, take_steps, layout, jobs)
steps = merge_ranks([rank["job"] for rank in ranks])       # StepOutcome of each step
assert_same_step(steps[0], ReferenceTrainer(policy, config, oracle).step(batch))
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

import megatron_stare.policy  # noqa: F401  (brings in Megatron-Core the way it has to be)
from megatron_stare.algorithms.chain import Chain
from megatron_stare.algorithms.hooks import Need
from megatron_stare.algorithms.links.stare import Stare, most_surprising
from megatron_stare.algorithms.needs import OLD, REFERENCE
from megatron_stare.algorithms.stare import StareSelection
from megatron_stare.checkpoint.lock import RunLock
from megatron_stare.checkpoint.saver import Saver
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.prefer import PreferConfig
from megatron_stare.launch.topology import Topology
from megatron_stare.observe.console import Progress, open_console
from megatron_stare.observe.loggers import Loggers
from megatron_stare.policy.groups import ParallelGroups, build_groups
from megatron_stare.policy.step import Policy
from megatron_stare.run.learner import Learned, learn
from megatron_stare.run.run import Run
from megatron_stare.run.saving import Saving
from megatron_stare.run.session import Session, World, open_session
from megatron_stare.system.signals import StopRequest
from megatron_stare.types import RolloutBatch
from megatron_stare.weights.hf_config import read_hf_config
from tests.credit_faults import FAULTS, Faulty
from tests.policies import assert_close_relative
from tests.reference_parts import by_name, with_late_links
from tests.reference_step import STARTING_SCALE, Ranked, StepOutcome

SCORE_ERROR = 1e-5
"""Nats, of a log-prob or an entropy."""
LOSS_ERROR = 1e-6
RELATIVE_ERROR = 1e-5
"""Of a gradient, a weight, a token's credit (against the largest entry of its tensor), a gradient
norm, or of a reported number above 1."""


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
    """What one rank knows of a step: its own tokens, `[r]`, and on rank 0 all tensors.

    `faulty` is what it would have decided under each fault of `credit_faults`, where asked for.
    """

    index: Tensor
    logprobs: Tensor
    entropies: Tensor
    positive: Tensor
    negative: Tensor
    decision: tuple[bool, float, float]
    credit: dict[str, Tensor]
    report: Mapping[str, float]
    faulty: dict[str, Faulty]
    losses: list[float]
    grad_norms: list[float]
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]


def take_steps(
    rank: int, layout: Layout, jobs: Mapping[str, Job], *, with_faults: bool = False
) -> dict[str, list[RankStep]]:
    """The steps of every job on this rank; each job starts from its folder's weights.

    Args:
        with_faults: decides a step's credit under each fault, too.
    """
    groups = build_groups(next(iter(jobs.values())).config(layout).parallel)
    faults = FAULTS if with_faults else {}
    return {name: _run_job(job, layout, groups, faults) for name, job in jobs.items()}


def _run_job(
    job: Job, layout: Layout, groups: ParallelGroups, faults: Mapping[str, Any]
) -> list[RankStep]:
    config = job.config(layout)
    run = open_run(config, groups)
    return [
        _rank_step(run, learn(run, batch, step), faults)
        for step, batch in enumerate(job.batches, start=1)
    ]


def open_alone(config: TrainConfig | PreferConfig, groups: ParallelGroups) -> tuple[World, Session]:
    """A policy with the weights of its folder, in a world that logs nothing."""
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
        num_updates=config.loop.steps * config.loop.updates_per_step * config.algorithm.passes,
        temperature=1.0 if isinstance(config, PreferConfig) else config.rollout.temperature,
        max_tokens_per_micro_batch=config.loop.max_tokens_per_micro_batch,
    )
    return world, session


def scaled_weights(session: Session, needs: Container[Need[Any]]) -> dict[str, Tensor] | None:
    """Those of a reference that is not the policy, where it is needed."""
    if REFERENCE not in needs:
        return None
    return {name: STARTING_SCALE * p.detach() for name, p in session.policy.named_parameters()}


def open_run(config: TrainConfig, groups: ParallelGroups) -> Run:
    """A run without its rollout side: its batches are given."""
    world, session = open_alone(config, groups)
    saver = Saver(config.run.dir, config.checkpoint, {}, world.loggers.message)
    saving = Saving(
        config.checkpoint, session, saver, StopRequest(), config.train.steps, world.lock
    )
    starting_weights = scaled_weights(session, config.needs)
    return Run(config, session, Chain(config.algorithm), starting_weights, None, saving)


def _rank_step(run: Run, learned: Learned, faults: Mapping[str, Any]) -> RankStep:
    policy = run.session.policy
    gradients, weights = _hf_gradients(policy), dict(policy.hf_tensors())
    is_first = dist.get_rank() == 0
    selection, decision = _stare(run, learned)
    method, step = run.config.algorithm, learned.step
    credit = with_late_links(method, learned.credit, step)  # As in the micro-batches.
    return RankStep(
        index=learned.step.index,
        logprobs=learned.step[OLD].logprobs,
        entropies=learned.step[OLD].entropies,
        positive=selection.positive,
        negative=selection.negative,
        decision=decision,
        credit=by_name(method, credit, step),
        report=run.chain.report(learned.credit, step),
        faulty={name: fault(method, step) for name, fault in faults.items()},
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
    index = [rank.index for rank in ranks]

    def over_ranks(name: str) -> Tensor:
        return in_batch_order(index, [getattr(rank, name) for rank in ranks])

    return StepOutcome(
        logprobs=over_ranks("logprobs"),
        entropies=over_ranks("entropies"),
        ranked=Ranked(
            positive=over_ranks("positive").nonzero().squeeze(1),
            negative=over_ranks("negative").nonzero().squeeze(1),
            decision=ranks[0].decision,
        ),
        credit=credit_in_batch_order(index, [rank.credit for rank in ranks]),
        report=_report_of_all([rank.report for rank in ranks]),
        losses=ranks[0].losses,
        grad_norms=ranks[0].grad_norms,
        gradients=ranks[0].gradients,
        weights=ranks[0].weights,
    )


def _report_of_all(reports: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """Nothing where ranks report other numbers: what made them so is to be found before that."""
    return reports[0] if len({str(report) for report in reports}) == 1 else {}


def in_batch_order(index: Sequence[Tensor], of_ranks: Sequence[Tensor]) -> Tensor:
    """A flat quantity of all tokens; ranks that hold the same ones must agree on every bit."""
    num_tokens = 1 + max(int(places.max()) for places in index if len(places))
    values = torch.full((num_tokens,), torch.nan)
    for places, part in zip(index, of_ranks, strict=True):
        known = ~values[places].isnan()
        assert torch.equal(values[places][known], part.float()[known])
        values[places] = part.float()
    assert not values.isnan().any()
    return values


def credit_in_batch_order(
    index: Sequence[Tensor], of_ranks: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """The credit of all tokens, by name."""
    return {
        name: in_batch_order(index, [credit[name] for credit in of_ranks]) for name in of_ranks[0]
    }


def assert_same_step(found: StepOutcome, expected: StepOutcome, patience: float = 1.0) -> None:
    """A step is the float64 one: its decisions exactly, its numbers to the errors above.

    To these comes the slack that the expected step has. `patience` multiplies them, for a step that
    is compared with another one in float32. Causes are compared before effects, so that a message
    names what went wrong first.
    """
    relative = patience * (RELATIVE_ERROR + expected.slack.gradient)
    for name in ("logprobs", "entropies"):
        error = (getattr(found, name) - getattr(expected, name)).abs().max()
        assert error <= patience * SCORE_ERROR, f"{name}: error {error:.1e}"
    if expected.ranked is not None:
        _assert_same_ranks(found.ranked, expected.ranked)
    if expected.credit is not None:
        _assert_same_credit(found, expected, patience)
    loss_error = patience * (LOSS_ERROR + expected.slack.loss)
    for loss, expected_loss in zip(found.losses, expected.losses, strict=True):
        error = abs(loss - expected_loss)
        assert error <= loss_error, f"loss: {loss}, expected {expected_loss}"
    for norm, expected_norm in zip(found.grad_norms, expected.grad_norms, strict=True):
        error = abs(norm - expected_norm)
        assert error <= relative * expected_norm, f"gradient norm: {norm}, expected {expected_norm}"
    assert found.gradients.keys() == expected.gradients.keys()
    assert_close_relative(found.gradients, expected.gradients, relative)
    assert found.weights.keys() == expected.weights.keys()
    assert_close_relative(found.weights, expected.weights, patience * RELATIVE_ERROR)


def _assert_same_ranks(found: Ranked | None, expected: Ranked) -> None:
    assert found is not None
    assert found.decision == expected.decision, f"decision: {found.decision}"
    assert torch.equal(found.positive, expected.positive), "L+ has other tokens"
    assert torch.equal(found.negative, expected.negative), "L- has other tokens"


def _assert_same_credit(found: StepOutcome, expected: StepOutcome, patience: float) -> None:
    assert found.credit is not None
    assert expected.credit is not None
    for name, wanted in expected.credit.items():
        assert name in found.credit, f"{name}: nothing"
        error = (found.credit[name] - wanted.double()).nan_to_num(0.0).abs().max()
        largest = wanted.double().nan_to_num(0.0, 0.0, 0.0).abs().max()
        allowed = RELATIVE_ERROR * largest + 2 * expected.slack.credit.get(name, 0.0)
        assert error <= patience * allowed, f"{name}: error {error:.1e} of {largest:.1e}"
    assert found.report.keys() == expected.report.keys(), "report has other names"
    for name, value in expected.report.items():
        allowed = RELATIVE_ERROR * max(1.0, abs(value)) + 2 * expected.slack.report.get(name, 0.0)
        same = abs(found.report[name] - value) <= patience * allowed
        is_nan = math.isnan(value) and math.isnan(found.report[name])
        assert same or is_nan, f"report: {name} is {found.report[name]}, expected {value}"
