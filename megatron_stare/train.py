"""The training loops: a batch of rollouts, one STARE step, new weights to the engine.

in turn         collect 1, learn 1, push 1, collect 2, ...
one step off    collect 2 while learning 1, push 1, collect 3 while learning 2, push 2, ...
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_stare.algorithms.advantages import group_advantages
from megatron_stare.algorithms.stare import StareDecision, StareSelection, selection_weights
from megatron_stare.config.commands import TrainConfig
from megatron_stare.data.packing import Share
from megatron_stare.ops.partials import TokenScores
from megatron_stare.policy.step import UpdateResult
from megatron_stare.rollout.sampler import Rollout
from megatron_stare.run import Run, open_run
from megatron_stare.step_metrics import token_metrics, update_metrics
from megatron_stare.token_terms import (
    LocalTokens,
    batch_entropy,
    check_rollout_logprobs,
    has_rollout_logprobs,
    local_tokens,
    rank_tokens,
    selection_overlap,
    token_terms,
)
from megatron_stare.types import RolloutBatch


def train(config: TrainConfig) -> None:
    """Train a policy as the config says; the run's folder holds the outcome.

    Raises:
        UserError: bad input, or nothing left to learn from; before any GPU time where possible.
        Stopped: the run was asked to stop, and is saved.
    """
    with open_run(config) as run:
        if run.step == config.train.steps:  # It was to be longer when it was saved, or is over.
            run.session.save_final(run.step)
        run.push_weights(version=run.step)
        if config.rollout.one_step_off:
            _train_one_step_off(run)
        else:
            _train_in_turn(run)


def _train_in_turn(run: Run) -> None:
    _evaluate_if_due(run, run.step)
    for step in range(run.step + 1, run.config.train.steps + 1):
        batch, rollout = run.collect(step)
        learned = learn(run, batch, step)
        _record(run, step, batch, rollout, learned)
        _export_if_due(run, step)
        # Before the engine has the weights: it may need the memory that they are in.
        run.save_if_due(step)
        run.push_weights(version=step)
        _evaluate_if_due(run, step)


def _train_one_step_off(run: Run) -> None:
    """Every batch but the first was sampled under the weights before those that it trains."""
    first, last = run.step + 1, run.config.train.steps
    if run.step == 0:
        _evaluate_if_due(run, 0)
    if first <= last and not run.has_pending:
        run.start_collecting(first)
    for step in range(first, last + 1):
        batch, rollout = run.collect(step)
        run.save_if_due(step - 1, pending=rollout)
        # Between two batches the engine is idle: the time for new weights, and for evaluation.
        if step > 1:
            run.push_weights(version=step - 1)
            _evaluate_if_due(run, step - 1)
        if step < last:
            run.start_collecting(step + 1)
        learned = learn(run, batch, step)
        _record(run, step, batch, rollout, learned)
        _export_if_due(run, step)
    run.save_if_due(last)
    run.push_weights(version=last)
    _evaluate_if_due(run, last)


def _record(
    run: Run, step: int, batch: RolloutBatch, rollout: Rollout | None, learned: Learned
) -> None:
    if not learned.decision.entropy_is_finite:
        run.session.loggers.message(f"step {step}: entropy is not finite; gate, w and m are held")
    stare = run.config.stare
    metrics = {
        **token_metrics(
            learned.scores,
            learned.tokens,
            learned.selection,
            learned.decision,
        ),
        "stare/target": stare.target_at(step) if stare.enabled else math.nan,
        "stare/engine_overlap": learned.engine_overlap,
        **update_metrics(learned.updates),
        **run.session.take_timings(num_tokens=int(batch.lengths.sum())),
    }
    run.record(step, rollout, learned.advantages, metrics)


@dataclass(frozen=True, slots=True)
class Learned:
    """What a step made of a batch, on this rank.

    share           the tokens trained on here; whatever is per token is flat over them, `[r]`
    advantages      float32 `[B]`, of every sample
    scores          under the weights before the step
    engine_overlap  share of the selection on which policy and engine agree
    """

    share: Share
    advantages: Tensor
    scores: TokenScores
    tokens: LocalTokens
    selection: StareSelection
    engine_overlap: float
    decision: StareDecision
    updates: list[UpdateResult]


def learn(run: Run, batch: RolloutBatch, step: int) -> Learned:
    """Score a batch, rank its tokens, gate, and update the policy.

    Every rank holds the whole batch. What is per token lives on the data-parallel rank that trains
    on it, its `share`, in flat order; whatever is global is one reduction over data parallelism.
    """
    config = run.config
    check_rollout_logprobs(lambda: has_rollout_logprobs(batch), config)

    share = run.plan(batch)
    old = run.score(batch, share) if config.needs_prepass else None
    reference = run.score_reference(batch, share)

    advantages = group_advantages(batch.rewards, batch.group_ids, config.algorithm.advantage)
    device, dp = run.session.topology.device, run.session.policy.groups.dp
    tokens = local_tokens(batch, share.index, advantages, device, dp)
    if config.stare.enabled:
        selection = rank_tokens(tokens, old, config.stare)
        decision = run.controller.update(batch_entropy(tokens, old, config.stare), step)
        weights = selection_weights(selection, decision, config.stare)
    else:
        selection, decision = None, run.controller.decision
        weights = torch.ones_like(tokens.advantages)
    terms = token_terms(batch, share, tokens, weights, old, reference, config)

    updates = run.update(batch, share, terms, old)
    # A single on-policy update scores its tokens itself, under the weights before the update.
    scores = old or updates[0].scores
    selection = selection or rank_tokens(tokens, scores, config.stare)
    overlap = selection_overlap(batch, tokens, selection, scores, config.stare)
    return Learned(share, advantages, scores, tokens, selection, overlap, decision, updates)


def _evaluate_if_due(run: Run, step: int) -> None:
    """What is measured after a checkpoint is measured again by a run that goes on from there."""
    every = run.config.eval.every
    if step in (0, run.config.train.steps) or (every > 0 and step % every == 0):
        run.evaluate(step)


def _export_if_due(run: Run, step: int) -> None:
    every, last = run.config.train.save_every, run.config.train.steps
    if every > 0 and step % every == 0:
        run.session.save(step, f"step_{step:06d}")
    if step == last:
        run.session.save_final(step)
