"""The training loops: a batch of rollouts, a step of the method, new weights to the engine.

in turn         collect 1, learn 1, push 1, collect 2, ...
one step off    collect 2 while learning 1, push 1, collect 3 while learning 2, push 2, ...

An evaluation begins when weights are pushed; with `eval.asynchronous` it ends with the step after.
"""

from __future__ import annotations

from megatron_stare.algorithms.batch_stats import Grouping
from megatron_stare.config.commands import TrainConfig
from megatron_stare.rollout.sampler import Rollout
from megatron_stare.run.learner import Learned, learn
from megatron_stare.run.opening import open_run
from megatron_stare.run.run import Run
from megatron_stare.run.step_metrics import credit_metrics, token_metrics, update_metrics
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
        run.finish_evaluation()


def _train_in_turn(run: Run) -> None:
    _evaluate_if_due(run, run.step)
    for step in range(run.step + 1, run.config.train.steps + 1):
        batch, rollout = run.collect(step)
        learned = learn(run, batch, step)
        run.finish_evaluation()  # Steps are logged in their order, and weights stay until then.
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
        run.finish_evaluation()  # Steps are logged in their order, and weights stay until then.
        _record(run, step, batch, rollout, learned)
        _export_if_due(run, step)
    run.save_if_due(last)
    run.push_weights(version=last)
    _evaluate_if_due(run, last)


def _record(
    run: Run, step: int, batch: RolloutBatch, rollout: Rollout | None, learned: Learned
) -> None:
    tokens = run.token_columns(batch, learned)
    metrics = {
        **token_metrics(learned.step),
        **credit_metrics(learned.step, learned.credit),
        **run.chain.report(learned.credit, learned.step),
        **update_metrics(learned.updates),
        **run.session.take_timings(num_tokens=int(batch.lengths.sum())),
    }
    of_samples = learned.step.by(Grouping.by_sample).mean(learned.credit.advantages)
    run.record(step, rollout, of_samples.nan_to_num().float(), metrics, tokens)


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
