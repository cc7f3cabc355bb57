"""The synchronous loop: a batch of rollouts, one STARE step, new weights to the engine."""

from __future__ import annotations

from megatron_stare.algorithms.advantages import group_advantages
from megatron_stare.config import TrainConfig
from megatron_stare.run import Run, open_run
from megatron_stare.step_metrics import token_metrics, update_metrics
from megatron_stare.token_terms import batch_entropy, rank_tokens, token_terms


def train(config: TrainConfig) -> None:
    """Train a policy as the config says; the run's folder holds the outcome.

    Raises:
        UserError: bad input, or nothing left to learn from; before any GPU time where possible.
    """
    with open_run(config) as run:
        run.push_weights(version=0)
        run.evaluate(step=0)
        for step in range(1, config.train.steps + 1):
            train_step(run, step)
            if _is_due(step, config.eval.every, config.train.steps):
                run.evaluate(step)
            if config.train.save_every and step % config.train.save_every == 0:
                run.session.save(f"step_{step:06d}")
        run.session.save("final")


def train_step(run: Run, step: int) -> None:
    """One step, from prompts to new weights in the engine.

    Every rank holds the whole batch. What is per token lives on the data-parallel rank that trains
    on it, its `share`, in flat order; whatever is global is one reduction over data parallelism.
    """
    config, dp = run.config, run.session.policy.groups.dp

    batch, rollout = run.collect(step)
    share = run.plan(batch)
    old = run.score(batch, share) if config.needs_prepass else None
    reference = run.score_reference(batch, share)

    advantages = group_advantages(batch.rewards, batch.group_ids, config.algorithm.advantage)
    ranked = rank_tokens(
        batch, share, advantages, old, config.stare, dp, run.session.topology.device
    )
    decision = run.controller.update(batch_entropy(ranked, old, config.stare, dp))
    if not decision.entropy_is_finite:
        run.session.loggers.message(f"step {step}: entropy is not finite; gate, w and m are held")
    terms = token_terms(batch, share, ranked, decision, old, reference, config)

    results = run.update(batch, share, terms)
    run.push_weights(version=step)

    # A single on-policy update scores its tokens itself, under the weights before the update.
    scores = old or results[0].scores
    metrics = {
        **token_metrics(scores, ranked, decision, dp),
        **update_metrics(results),
        **run.session.take_timings(num_tokens=int(batch.lengths.sum())),
    }
    run.record(step, rollout, advantages, metrics)


def _is_due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)
