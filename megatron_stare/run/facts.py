"""The step view of a batch: its tokens on this rank, and what is known of them before a pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist

from megatron_stare.algorithms.hooks import Step
from megatron_stare.algorithms.method import Method
from megatron_stare.algorithms.needs import (
    DEMONSTRATED,
    FAILED_CALLS,
    GUIDED,
    ROLES,
    ROLLOUT,
    TURN_REWARDS,
    TURNS,
    UNTRUNCATED,
    facts_of_turns,
)
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.prefer import PreferConfig
from megatron_stare.data.packing import Share
from megatron_stare.errors import UserError
from megatron_stare.types import RolloutBatch, TokenBatch


def open_step(
    batch: TokenBatch,
    share: Share,
    number: int,
    num_steps: int,
    *,
    device: torch.device,
    dp_group: dist.ProcessGroup,
    seed: int = 0,
) -> Step:
    """A step of which nothing is measured yet; the engine's log-probs come with a batch.

    Args:
        number: of the step, from 1, of `num_steps` in all.
        device: that of the policy.
        dp_group: ranks that hold the other tokens.
        seed: of the run, where a link draws.
    """
    judged = batch.judged if isinstance(batch, RolloutBatch) else batch
    step = Step(
        number=number,
        progress=number / num_steps,
        batch=judged,
        index=share.index,
        sample_ids=batch.sample_ids[share.index].to(device),
        mask=judged.loss_mask[share.index].to(device),
        updates=share.samples,
        group=dp_group,
        seed=seed,
    )
    if isinstance(batch, RolloutBatch):
        step.facts.update(facts_of_turns(batch.judged))
        tokens = batch.tokens_of_demonstrations
        for need, which in zip((DEMONSTRATED, GUIDED), tokens, strict=True):
            step.facts[need] = which[share.index].to(device)
        if has_rollout_logprobs(batch.judged):
            step.facts[ROLLOUT] = batch.rollout_logprobs[share.index].to(device)
            step.facts[UNTRUNCATED] = step.facts[ROLLOUT]
    return step


def has_rollout_logprobs(batch: RolloutBatch) -> bool:
    """Whether every token that counts has a log-prob of the engine."""
    return not batch.rollout_logprobs[batch.loss_mask].isnan().any()


def check_rollout_logprobs(
    has_logprobs: Callable[[], bool], config: TrainConfig | PreferConfig
) -> None:
    """See that the engine gives log-probs where a link wants them; it is not asked elsewhere.

    Raises:
        UserError: it gave none, and tokens are ranked or corrected by them.
    """
    for name, link in config.algorithm.links.items():
        if link.needs & {ROLLOUT, UNTRUNCATED} and not has_logprobs():
            raise UserError(
                f"algorithm.{name}: the samples have no log-probs of the engine, which it reads; "
                "record them, or take it out of algorithm.links"
            )


def check_turns(step: Step, method: Method) -> None:
    """See that recorded samples say of their turns what a part reads; others always do.

    Raises:
        UserError: no sample of the batch does.
    """
    for name, part in method.parts.items():
        for need in (TURNS, TURN_REWARDS, FAILED_CALLS, ROLES):
            if need in part.needs and not step.knows(need):
                raise UserError(
                    f"algorithm.{name} reads {need.name}: no sample of step {step.number} has any, "
                    "expected an environment that says it, or samples that were recorded with it"
                )
