"""Preference learning: each step of `train`, on pairs of a better and a worse response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from megatron_stare.algorithms.chain import Chain
from megatron_stare.algorithms.needs import REFERENCE
from megatron_stare.config.prefer import PreferConfig
from megatron_stare.data.examples import PairSet
from megatron_stare.run.data_loop import loop_over_data
from megatron_stare.run.learner import Learner, copy_of_weights, learn
from megatron_stare.run.session import Session
from megatron_stare.run.step_metrics import update_metrics


def prefer(config: PreferConfig) -> None:
    """Train a policy on pairs as the config says, and write it to `hf/final` in the run's folder.

    Raises:
        UserError: bad input, before any GPU time where possible.
        Stopped: the run was asked to stop, and is saved.
    """

    def read(tokenizer: PreTrainedTokenizerFast) -> list[PairSet]:
        return [PairSet(data, tokenizer, seed=config.run.seed) for data in config.sets.values()]

    def begin(session: Session, sets: list[PairSet]) -> _Preference:
        return _Preference(_learner(config, session), *sets)

    loop_over_data(config, read, begin)


def _learner(config: PreferConfig, session: Session) -> Learner[PreferConfig]:
    """Before a checkpoint is loaded: the reference is what the run starts from."""
    policy, reference = session.policy, None
    if REFERENCE in config.needs:
        reference = copy_of_weights(policy, policy.device)
    return Learner(config, session, Chain(config.algorithm), reference)


@dataclass(frozen=True, slots=True)
class _Preference:
    """A `Lesson`."""

    learner: Learner[PreferConfig]
    pairs: PairSet
    held_out: PairSet | None = None

    def take_step(self, number: int) -> Mapping[str, float]:
        learner = self.learner
        batch = self.pairs.draw(learner.config.prefer.pairs_per_step)
        learned = learn(learner, batch, number)
        return {
            **learner.chain.report(learned.credit, learned.step),
            **update_metrics(learned.updates),
            **learner.session.take_timings(int(batch.lengths.sum())),
        }

    def evaluate(self, number: int) -> Mapping[str, float]:
        learner, every = self.learner, self.learner.config.eval.every
        is_due = number in (0, learner.config.prefer.steps) or (every and number % every == 0)
        if self.held_out is None or not is_due:
            return {}
        batch = self.held_out.all()
        step = learner.observe(batch, learner.plan(batch), max(1, number))
        found = learner.config.algorithm.comparison.measure(step)
        seconds = learner.session.take_timings(int(batch.lengths.sum()))["time/step_s"]
        means = {f"eval/{name.replace('/', '_')}": value for name, value in found.items()}
        return {**means, "time/eval_s": seconds}

    def state_dict(self) -> dict[str, Any]:
        return {"examples": self.pairs.state_dict(), "links": self.learner.chain.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.pairs.load_state_dict(state["examples"])
        self.learner.chain.load_state_dict(state["links"])
