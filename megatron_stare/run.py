"""A reinforcement run: a session, and on rank 0 the side that talks to engine and verifiers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_stare.algorithms.stare import StareController
from megatron_stare.checkpoint.resume import Resumed, network_of
from megatron_stare.checkpoint.saver import Saver
from megatron_stare.config import TrainConfig
from megatron_stare.data.packing import Share, split_updates
from megatron_stare.errors import Stopped
from megatron_stare.launch.rank_zero import from_rank_zero
from megatron_stare.launch.signals import StopRequest, stop_requests
from megatron_stare.objective import PolicyObjective, TokenTerms
from megatron_stare.policy.checkpoint import load_policy
from megatron_stare.policy.memory import check_can_offload, offload, onload
from megatron_stare.policy.step import TokenScores, UpdateResult
from megatron_stare.rollout.sampler import Cancelled, Rollout
from megatron_stare.rollout_side import RolloutSide, open_rollout_side
from megatron_stare.session import (
    Session,
    World,
    check_positions,
    open_session,
    open_world,
)
from megatron_stare.types import RolloutBatch

_PACKAGES = ("megatron-stare", "megatron-core", "torch", "transformers")


@dataclass(slots=True)
class Run:
    """The parts of a reinforcement run.

    `rollout_side` is None off rank 0; `starting_weights` is None without a KL penalty. `step` is
    that of the last checkpoint; where `has_pending`, the next rollout comes from there.
    """

    config: TrainConfig
    session: Session
    controller: StareController
    rollout_side: RolloutSide | None
    starting_weights: dict[str, Tensor] | None
    saver: Saver
    stop: StopRequest
    step: int = 0
    has_pending: bool = False

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
        if batch is None:
            self._save_and_stop(step - 1)
        if config.colocated:
            onload(self.session.policy)
        return batch, rollout

    def start_collecting(self, step: int) -> None:
        """Begin with a step's batch, under the weights in the engine; `collect` waits for it."""
        if self.rollout_side is not None:
            self.rollout_side.start_collecting(step)

    def plan(self, batch: RolloutBatch) -> Share:
        """This rank's share of the batch, update by update."""
        updates = split_updates(batch.group_ids.tolist(), self.config.train.updates_per_step)
        return self.session.plan(batch, updates)

    def score(self, batch: RolloutBatch, share: Share) -> TokenScores:
        """Log-probs and entropies of this rank's tokens under the weights before the update."""
        with self.session.phase("prepass", len(share.index)) as advance:
            return self.session.policy.score(batch, share.micro_batches, advance)

    def score_reference(self, batch: RolloutBatch, share: Share) -> TokenScores | None:
        """The same under the starting weights; None without a KL penalty."""
        if self.starting_weights is None:
            return None
        with self.session.policy.weights_swapped_for(self.starting_weights):
            return self.score(batch, share)

    def update(self, batch: RolloutBatch, share: Share, terms: TokenTerms) -> list[UpdateResult]:
        """The step's optimizer updates, in order; `terms` are flat over the whole share."""
        results, start = [], 0
        with self.session.phase("update", len(share.index)) as advance:
            for micro_batches in share.updates:
                num_tokens = sum(
                    int(batch.response_lengths[list(samples)].sum()) for samples in micro_batches
                )
                objective = PolicyObjective(
                    terms[start : start + num_tokens], self.config.algorithm
                )
                start += num_tokens
                result = self.session.policy.update(batch, micro_batches, objective, advance)
                results.append(self.session.check(result, self.config.train.max_bad_updates))
        return results

    def push_weights(self, version: int) -> None:
        """Stream the policy's weights, under their Hugging Face names, into the engine.

        With `colocated` the policy then leaves its device until the next batch is collected.
        """
        with self.session.phase("sync"):
            for_engine = self.session.policy.hf_tensors()
            if self.rollout_side is not None:
                self.rollout_side.engine.update_weights(for_engine, version)
            for _ in for_engine:  # every rank takes part in gathering, rank 0 has consumed it
                pass
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
        """Held-out metrics of the weights in the engine; nothing where no problems are given."""
        if self.config.eval.data is None:
            return

        def measure() -> dict[str, float]:
            assert self.rollout_side is not None
            return self.rollout_side.evaluate(advance)

        with self.session.phase("eval") as advance:
            metrics = from_rank_zero(measure)
        self.session.loggers.log(
            step, {**metrics, "time/eval_s": self.session.take_seconds("eval")}
        )

    def save_if_due(self, step: int, pending: Rollout | None = None) -> None:
        """Save a run whose last update was that of `step`, as often as the config says.

        Args:
            pending: a rollout that is collected but not trained on, on rank 0.

        Raises:
            Stopped: any rank was asked to stop; the run is saved.
        """
        with self.session.phase("checkpoint"):
            must_stop, is_writing = self._on_any_rank(self.stop.is_set, not self.saver.is_written)
            if not is_writing:
                self.saver.finish()
        if must_stop:
            self._save_and_stop(step, pending)
        every = self.config.checkpoint.every
        if (
            every > 0
            and step > self.step
            and (step % every == 0 or step == self.config.train.steps)
        ):
            self._save(step, pending)

    def _save_and_stop(self, step: int, pending: Rollout | None = None) -> NoReturn:
        if step > self.step:
            self._save(step, pending)
        self.saver.finish()
        self.session.loggers.message(f"asked to stop: stopped after step {step}")
        raise Stopped

    def _save(self, step: int, pending: Rollout | None) -> None:
        self.step = step
        state: dict[str, Any] = {}
        if self.rollout_side is not None:
            state = {
                "session": self.session.state_dict(),
                "controller": self.controller.state_dict(),
                "rollout_side": self.rollout_side.state_dict(pending),
            }
        with self.session.phase("checkpoint"):
            self.saver.save(step, self.session.policy, state)

    def resume(self, resumed: Resumed) -> None:
        """Stand where the saved run stood.

        Raises:
            UserError: the data is not the same.
        """
        checkpoint, state = resumed.checkpoint, resumed.state
        self.step = checkpoint.step
        self.has_pending = state["rollout_side"]["pending"] is not None
        self.session.load_state_dict(state["session"])
        self.controller.load_state_dict(state["controller"])

        def load_rollout_side() -> None:
            assert self.rollout_side is not None
            self.rollout_side.load_state_dict(state["rollout_side"])

        from_rank_zero(load_rollout_side)
        load_policy(
            self.session.policy,
            checkpoint.folder,
            is_same_world=checkpoint.manifest["world_size"] == self.session.topology.world_size,
        )
        changes = "".join(f"\n    {line}" for line in resumed.changes)
        self.session.loggers.message(
            f"going on after step {self.step}, from {checkpoint.folder}"
            + (f"; changed in the config:{changes}" if changes else "")
        )

    def _on_any_rank(self, *conditions: bool) -> list[bool]:
        flags = torch.tensor(conditions, dtype=torch.int32, device=self.session.topology.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return flags.bool().tolist()

    def record(self, step: int, rollout: Rollout | None, advantages: Tensor, metrics) -> None:
        """Log the step's metrics and dump its samples; `advantages` per sample, `[B]`."""
        if rollout is None:
            return
        rate = rollout.metrics["rollout/generated_tokens"] / rollout.seconds
        self.session.loggers.log(
            step, {**rollout.metrics, **metrics, "perf/rollout_tokens_per_s": rate}
        )
        if self.config.log.dump_samples:
            assert self.rollout_side is not None
            self.rollout_side.dump(step, rollout, advantages.tolist())


@contextmanager
def open_run(config: TrainConfig) -> Iterator[Run]:
    """Open everything a run needs, in an order that meets bad input before GPU time.

    A run that goes on from a checkpoint stands where that was made. What is being written at the
    end is finished, unless the end is an error.
    """
    with (
        stop_requests(config.checkpoint.grace_s) as stop,
        open_world(config) as world,
        open_rollout_side(config, world) as rollout_side,
    ):
        if config.rollout.colocated:
            check_can_offload(getattr(torch, config.model.dtype), world.topology.device)
        check_positions(
            world.shape,
            "data.max_prompt_tokens + rollout.max_response_tokens",
            config.data.max_prompt_tokens + config.rollout.max_response_tokens,
        )
        session = open_session(
            config,
            world,
            num_updates=config.train.steps * config.train.updates_per_step,
            temperature=config.rollout.temperature,
            max_tokens_per_micro_batch=config.train.max_tokens_per_micro_batch,
        )
        starting_weights = None
        if config.algorithm.kl != "none":
            starting_weights = {
                name: p.detach().clone() for name, p in session.policy.named_parameters()
            }
        saver = _open_saver(config, world, rollout_side)
        controller = StareController(config.stare)
        run = Run(config, session, controller, rollout_side, starting_weights, saver, stop)
        if world.resumed is not None:
            run.resume(world.resumed)
        if rollout_side is not None:
            stop.when_set(rollout_side.sampler.cancel)
        try:
            yield run
            saver.finish()
        finally:
            saver.close()


def _open_saver(config: TrainConfig, world: World, rollout_side: RolloutSide | None) -> Saver:
    def forget_samples(step: int) -> None:
        assert rollout_side is not None
        rollout_side.forget_samples(through=step)

    description = {
        "world_size": world.topology.world_size,
        "versions": {name: version(name) for name in _PACKAGES},
        "model": network_of(world.shape),
        "config": config.model_dump(mode="json"),
    }
    return Saver(
        config.run.dir / "checkpoints",
        config.checkpoint,
        description,
        world.loggers.message,
        forget_samples,
    )
