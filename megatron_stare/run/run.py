"""A reinforcement run: a session, and on rank 0 the side that talks to engine and verifiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from torch import Tensor

from megatron_stare.algorithms.chain import Chain
from megatron_stare.algorithms.hooks import Credit, Need, Step
from megatron_stare.algorithms.needs import OLD, PROMPT_LOGPROBS, REFERENCE, ROLLOUT
from megatron_stare.algorithms.objective import MethodObjective
from megatron_stare.checkpoint.resume import Resumed
from megatron_stare.config.commands import TrainConfig
from megatron_stare.data.packing import Share, split_updates
from megatron_stare.errors import UserError
from megatron_stare.launch.rank_zero import from_rank_zero
from megatron_stare.observe.health import Health
from megatron_stare.ops.partials import TokenScores
from megatron_stare.policy.memory import offload, onload
from megatron_stare.policy.step import UpdateResult
from megatron_stare.rollout.sampler import Cancelled, Rollout
from megatron_stare.run.facts import check_rollout_logprobs, open_step
from megatron_stare.run.prompt_scores import score_prompts
from megatron_stare.run.rollout_side import RolloutSide
from megatron_stare.run.saving import Saving
from megatron_stare.run.session import Session
from megatron_stare.types import RolloutBatch


@dataclass(slots=True)
class Run:
    """The parts of a reinforcement run.

    `rollout_side` is None off rank 0; `starting_weights` is None where no part needs them. Where
    `has_pending`, the next rollout comes from the checkpoint that the run goes on from.
    `evaluated_step` is that of the last evaluation, -1 before the first.
    """

    config: TrainConfig
    session: Session
    chain: Chain
    rollout_side: RolloutSide | None
    starting_weights: dict[str, Tensor] | None
    saving: Saving
    has_pending: bool = False
    evaluated_step: int = -1
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
                rollout = self.rollout_side.collect(step, advance)
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
            self.rollout_side.start_collecting(step)

    def plan(self, batch: RolloutBatch) -> Share:
        """This rank's share of the batch, update by update."""
        updates = split_updates(batch.group_ids.tolist(), self.config.train.updates_per_step)
        return self.session.plan(batch, updates)

    def observe(self, batch: RolloutBatch, share: Share, number: int) -> Step:
        """The step view, of this number, with all that the method needs before the update."""
        step = open_step(
            *(batch, share, number, self.config.train.steps),
            device=self.session.topology.device,
            dp_group=self.session.policy.groups.dp,
            seed=self.config.run.seed,
        )
        check_rollout_logprobs(lambda: step.knows(ROLLOUT), self.config)
        for need, measure in _MEASURED.items():  # In one order on all ranks.
            if need in self.config.needs:
                step.facts[need] = measure(self, batch, share)
        return step

    def score(self, batch: RolloutBatch, share: Share) -> TokenScores:
        """Log-probs and entropies of this rank's tokens under the weights before the update."""
        with self.session.phase("prepass", len(share.index)) as advance:
            return self.session.policy.score(batch, share.micro_batches, advance)

    def score_reference(self, batch: RolloutBatch, share: Share) -> TokenScores:
        """The same under the starting weights."""
        assert self.starting_weights is not None
        with self.session.policy.weights_swapped_for(self.starting_weights):
            return self.score(batch, share)

    def update(
        self, batch: RolloutBatch, step: Step, credit: Credit, share: Share
    ) -> list[UpdateResult]:
        """The step's optimizer updates, in order.

        The first is under the weights of the prepass, if there was one: the head goes backward
        only.
        """
        method, policy = self.config.algorithm, self.session.policy
        results: list[UpdateResult] = []

        def rescore(samples: Sequence[int]) -> TokenScores:
            micro_batches, tokens = share.of(samples, batch)
            return policy.score(batch, micro_batches).spread(tokens, len(share.index))

        with self.session.phase("update", len(share.index) * method.passes) as advance:
            for update in method.in_turn(step, credit, rescore):
                micro_batches, tokens = share.of(update.samples, batch)
                objective = MethodObjective.of(method, step, update).at(tokens)
                known = None if results else objective.step.facts.get(OLD)
                result = policy.update(batch, micro_batches, objective, advance, known=known)
                results.append(self.session.check(result, self.config.train.max_bad_updates))
        return results

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

        Nothing where no problems are given.
        """
        if self.config.eval.data is None or step == self.evaluated_step:
            return

        def measure() -> dict[str, float]:
            assert self.rollout_side is not None
            return self.rollout_side.evaluate(advance)

        with self.session.phase("eval") as advance:
            metrics = from_rank_zero(measure)
        self.session.loggers.log(
            step, {**metrics, "time/eval_s": self.session.take_seconds("eval")}
        )
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

    def record(self, step: int, rollout: Rollout | None, advantages: Tensor, metrics) -> None:
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
            self.rollout_side.dump(step, rollout, advantages.tolist())


_MEASURED: dict[Need[Any], Callable[[Run, RolloutBatch, Share], Any]] = {
    OLD: Run.score,
    REFERENCE: Run.score_reference,
    PROMPT_LOGPROBS: lambda run, batch, share: score_prompts(run.session, batch),
}
"""How what costs a pass is measured."""


def _raise(problem: UserError | None) -> None:
    if problem is not None:
        raise problem
