"""Supervised fine-tuning: packed examples, mean negative log-likelihood of their responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from megatron_stare.algorithms.chain import first_credit
from megatron_stare.algorithms.hooks import Update
from megatron_stare.algorithms.method import Method
from megatron_stare.algorithms.objective import MethodObjective
from megatron_stare.algorithms.terms.nll import Nll
from megatron_stare.config.sft import SftConfig
from megatron_stare.data.examples import ExampleSet
from megatron_stare.data.packing import Share
from megatron_stare.policy.step import Policy
from megatron_stare.rollout.workflow.traces import TraceSet, open_traces
from megatron_stare.run.data_loop import loop_over_data
from megatron_stare.run.facts import open_step
from megatron_stare.run.session import Session
from megatron_stare.types import TokenBatch


def sft(config: SftConfig) -> None:
    """Fine-tune a policy as the config says, and write it to `hf/final` in the run's folder.

    Raises:
        UserError: bad input, before any GPU time where possible.
        Stopped: the run was asked to stop, and is saved.
    """
    loop_over_data(
        config,
        lambda tokenizer: [_read(config, tokenizer)],
        lambda session, sets: _Supervised(config, session, *sets),
    )


def _read(config: SftConfig, tokenizer: PreTrainedTokenizerFast) -> ExampleSet | TraceSet:
    """Single turns; traces where the workflow has a format for calls."""
    if config.workflow.format is None:
        return ExampleSet(config.data, tokenizer, seed=config.run.seed)
    return open_traces(config, tokenizer)


@dataclass(frozen=True, slots=True)
class _Supervised:
    """A `Lesson`."""

    config: SftConfig
    session: Session
    examples: ExampleSet | TraceSet

    def take_step(self, number: int) -> Mapping[str, float]:
        batch = self.examples.draw(self.config.sft.examples_per_step)
        return sft_step(self.session, batch, self.config.sft.max_bad_updates)

    def evaluate(self, number: int) -> Mapping[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"examples": self.examples.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.examples.load_state_dict(state["examples"])


SUPERVISED = Method(policy={"nll": Nll()})
"""Mean negative log-likelihood over the response tokens of the global batch."""


def supervised_objective(batch: TokenBatch, share: Share, policy: Policy) -> MethodObjective:
    """What an update minimises; nothing of it depends on the step."""
    step = open_step(batch, share, 1, 1, device=policy.device, dp_group=policy.groups.dp)
    everyone = Update(range(len(batch)), first_credit(SUPERVISED, step))
    return MethodObjective.of(SUPERVISED, step, everyone)


def sft_step(session: Session, batch: TokenBatch, max_bad_updates: int) -> dict[str, float]:
    """One update on a batch; returns its metrics."""
    share = session.plan(batch, [list(range(len(batch)))])
    objective = supervised_objective(batch, share, session.policy)
    with session.phase("update", len(share.index)) as advance:
        result = session.policy.update(batch, share.micro_batches, objective, advance)
    session.check(result, max_bad_updates)
    return {
        "sft/loss": result.loss,
        "optim/grad_norm": result.grad_norm,
        "optim/lr": result.lr,
        "optim/skipped": float(result.skipped),
        **session.take_timings(int(batch.lengths.sum())),
    }
