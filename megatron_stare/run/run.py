"""A reinforcement run: a learner, and on rank 0 the side that talks to engine and verifiers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from torch import Tensor

from megatron_stare.checkpoint.resume import Resumed
from megatron_stare.config.commands import TrainConfig
from megatron_stare.errors import UserError
from megatron_stare.launch.rank_zero import from_rank_zero
from megatron_stare.observe.console import Advance
from megatron_stare.observe.health import Health
from megatron_stare.policy.memory import offload, onload
from megatron_stare.rollout.sampler import Cancelled, Rollout
from megatron_stare.rollout.token_dump import TokenColumns
from megatron_stare.run.learner import Learned, Learner
from megatron_stare.run.rollout_side import RolloutSide
from megatron_stare.run.saving import Saving
from megatron_stare.run.token_facts import token_columns
from megatron_stare.types import RolloutBatch


@dataclass(slots=True)
class Run(Learner[TrainConfig]):
    """A learner whose samples are rollouts.

    `rollout_side` is None off rank 0. Where `has_pending`, the next rollout comes from the
    checkpoint that the run goes on from. `evaluated_step` is that of the last evaluation, -1 before
    the first; `evaluating_step` that of one which has begun.
    """

    rollout_side: RolloutSide | None
    saving: Saving
    has_pending: bool = False
    evaluated_step: int = -1
    evaluating_step: int | None = None
    health: Health = field(default_factory=Health)

    @property
    def step(self) -> int:
        """Of the last checkpoint."""
        return self.saving.step

    def collect(self, step: int) -> tuple[RolloutBatch, Rollout | None]:
        """The step's batch, on every rank, and on rank 0 the rollout it is made of.

        Raises:
            Stopped: asked to stop, rank 0 has given up generation; the step before is saved.
        """
        rollout: Rollout | None = None

        def generate() -> RolloutBatch | None:
            nonlocal rollout
            assert self.rollout_side is not None
            try:
                rollout = self.rollout_side.collect(step, self.chain.drawing, advance)
            except Cancelled:
                return None
            return RolloutBatch.from_groups(rollout.groups)

        config = self.config.rollout
        num_samples = config.prompts_per_step * config.samples_per_prompt
        # How many rounds dynamic sampling takes is known when they are over.
        is_known = not (config.dynamic_sampling or config.one_step_off)
        total = num_samples if is_known else None
        with self.session.phase("generate", total) as advance:
            batch = from_rank_zero(generate)
        self.has_pending = False
        if config.colocated:
            onload(self.session.policy)
        if batch is None:
            self.saving.save_and_stop(step - 1, self._state)
        return batch, rollout

    def start_collecting(self, step: int) -> None:
        """Begin with a step's batch, under the weights in the engine; `collect` waits for it."""
        if self.rollout_side is not None:
            self.rollout_side.start_collecting(step, self.chain.drawing)

    def push_weights(self, version: int) -> None:
        """Stream the policy's weights, under their Hugging Face names, into the engine.

        With `colocated` the policy then leaves its device until the next batch is collected.
        """
        with self.session.phase("sync"):
            for_engine = self.session.policy.hf_tensors()
            problem: UserError | None = None
            try:
                if self.rollout_side is not None:
                    self.rollout_side.engine.update_weights(for_engine, version)
            except UserError as error:
                problem = error
            for _ in for_engine:  # every rank takes part in gathering, rank 0 has consumed it
                pass
            from_rank_zero(lambda: _raise(problem))
            if self.config.rollout.colocated:
                self._make_room()

    def _make_room(self) -> None:
        """Leave the devices to the servers, once every rank has."""
        offload(self.session.policy)
        dist.barrier()

        def take_memory_back() -> None:
            assert self.rollout_side is not None
            self.rollout_side.take_memory_back()

        from_rank_zero(take_memory_back)

    def evaluate(self, step: int) -> None:
        """Log held-out metrics of the weights in the engine, unless it was done before.

        Nothing where no problems are given. With `eval.asynchronous` it only begins.
        """
        if not self.config.is_evaluated or step == self.evaluated_step:
            return
        if self.config.eval.asynchronous:
            if self.rollout_side is not None:
                self.rollout_side.start_evaluating()
            self.evaluating_step = step
        else:
            self._log_evaluation(step, lambda side, advance: side.evaluate(advance))

    def finish_evaluation(self) -> None:
        """Wait for the evaluation that has begun, if one has, and log it as of its step."""
        if (step := self.evaluating_step) is not None:
            self.evaluating_step = None
            self._log_evaluation(step, lambda side, _: side.evaluated())

    def _log_evaluation(
        self, step: int, measure: Callable[[RolloutSide, Advance], dict[str, float]]
    ) -> None:
        def on_rank_zero() -> dict[str, float]:
            assert self.rollout_side is not None
            return measure(self.rollout_side, advance)

        with self.session.phase("eval") as advance:
            metrics = from_rank_zero(on_rank_zero)
        seconds = self.session.take_seconds("eval")
        self.session.loggers.log(step, {**metrics, "time/eval_s": seconds})
        self.evaluated_step = step

    def save_if_due(self, step: int, pending: Rollout | None = None) -> None:
        """Save a run whose last update was that of `step`, as often as the config says.

        Args:
            pending: a rollout that is collected but not trained on, on rank 0.

        Raises:
            Stopped: any rank was asked to stop; the run is saved.
        """
        self.saving.save_if_due(step, lambda: self._state(pending))

    def _state(self, pending: Rollout | None = None) -> dict[str, Any]:
        assert self.rollout_side is not None
        return {
            "links": self.chain.state_dict(),
            "rollout_side": self.rollout_side.state_dict(pending),
            "evaluated_step": self.evaluated_step,
        }

    def resume(self, resumed: Resumed) -> None:
        """Stand where the saved run stood.

        Raises:
            UserError: the method, the data or the tokenizer is not the same, or it is no state.
        """
        with resumed.reading() as state:
            self.has_pending = state["rollout_side"]["pending"] is not None
            self.evaluated_step = int(state["evaluated_step"])
            self.chain.load_state_dict(state["links"])

        def load_rollout_side() -> None:
            assert self.rollout_side is not None
            with resumed.reading() as state:
                changes = self.rollout_side.load_state_dict(state["rollout_side"])
            for line in changes:
                self.session.loggers.message(f"changed since the run was saved: {line}")

        from_rank_zero(load_rollout_side)

    def token_columns(self, batch: RolloutBatch, learned: Learned) -> TokenColumns | None:
        """What is to be dumped of the tokens of a step, on rank 0. Collective."""
        log = self.config.log
        if not log.dump_samples or log.dump_tokens == "none":
            return None
        num_groups = sys.maxsize if log.dump_tokens == "all" else log.dump_tokens
        return token_columns(self, batch, learned, num_groups)

    def record(
        self,
        step: int,
        rollout: Rollout | None,
        advantages: Tensor,
        metrics: Mapping[str, float],
        tokens: TokenColumns | None,
    ) -> None:
        """Log the step's metrics and dump its samples; `advantages` per sample, `[B]`."""
        if rollout is None:
            return
        rate = rollout.metrics["rollout/generated_tokens"] / rollout.seconds
        metrics = {**rollout.metrics, **metrics, "perf/rollout_tokens_per_s": rate}
        self.session.loggers.log(step, metrics)
        for news in self.health.news(step, metrics):
            self.session.loggers.message(news)
        if self.config.log.dump_samples:
            assert self.rollout_side is not None
            self.rollout_side.dump(step, rollout, advantages.tolist(), tokens)


def _raise(problem: UserError | None) -> None:
    if problem is not None:
        raise problem
