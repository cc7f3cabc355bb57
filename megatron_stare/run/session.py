"""A policy in its world, with its loggers: of all commands that train."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from megatron_stare.checkpoint.folders import CHECKPOINTS, marks_of
from megatron_stare.checkpoint.lock import RunLock
from megatron_stare.checkpoint.resume import Resumed, network_of, resume
from megatron_stare.checkpoint.run_folder import HF, check_run_folder
from megatron_stare.config.loops import LoopConfig
from megatron_stare.config.policy import sample_multiple
from megatron_stare.data.packing import Share, plan_share
from megatron_stare.errors import UserError
from megatron_stare.launch.rank_zero import common_error, from_rank_zero
from megatron_stare.launch.topology import (
    Topology,
    check_world_size,
    init_process_group,
    read_topology,
)
from megatron_stare.model_shape import ModelShape
from megatron_stare.observe.console import Advance
from megatron_stare.observe.loggers import Loggers, open_loggers
from megatron_stare.policy.build import build_policy
from megatron_stare.policy.flops import sample_cost
from megatron_stare.policy.groups import ParallelGroups, build_groups, destroy_groups
from megatron_stare.policy.probe import has_finite_scores
from megatron_stare.policy.step import Policy, UpdateResult
from megatron_stare.types import TokenBatch
from megatron_stare.weights.finite import LARGEST_WEIGHT
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.load import open_hf_weights
from megatron_stare.weights.save import save_hf_folder


@dataclass(frozen=True, slots=True)
class World:
    """This process among the trainers, before there is a policy.

    lock   of the run's folder, which `open_folder` takes
    found  what `marks_of` its checkpoints were when the run looked for one to go on from
    """

    topology: Topology
    shape: ModelShape
    groups: ParallelGroups
    loggers: Loggers
    resumed: Resumed | None
    lock: RunLock
    found: dict[int, int]


@dataclass(slots=True)
class Session:
    """The parts of a run that hold no opinion on what is learned."""

    config: LoopConfig
    topology: Topology
    policy: Policy
    loggers: Loggers
    max_tokens_per_micro_batch: int
    _seconds: dict[str, float] = field(default_factory=dict)
    _processor_s: dict[str, float] = field(default_factory=dict)
    _bad_updates: int = 0
    _final_step: int | None = None
    _not_exported: str | None = None

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Time a phase of the step and show its progress; `total` in items of the phase."""
        start, processor_start = time.perf_counter(), time.process_time()
        with self.loggers.progress.phase(name, total) as advance:
            yield advance
        processor_s = time.process_time() - processor_start
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start
        self._processor_s[name] = self._processor_s.get(name, 0.0) + processor_s

    def take_seconds(self, name: str) -> float:
        """Seconds of one phase since the last call; it then counts in no step."""
        del self._processor_s[name]
        return self._seconds.pop(name)

    def take_timings(self, num_tokens: int) -> dict[str, float]:
        """Seconds of each phase since the last call, and tokens per second over their sum."""
        seconds, self._seconds = self._seconds, {}
        processor_s, self._processor_s = self._processor_s, {}
        total = sum(seconds.values())
        return {
            **{f"time/{name}_s": value for name, value in seconds.items()},
            "time/step_s": total,
            "time/processor_s": sum(processor_s.values()),
            "perf/tokens_per_s": num_tokens / total,
        }

    def plan(self, batch: TokenBatch, samples: list[list[int]]) -> Share:
        """This rank's share of a batch; `samples` of each optimizer update."""
        groups = self.policy.groups
        return plan_share(
            batch,
            samples,
            dp_rank=groups.dp.rank(),
            dp_size=groups.dp.size(),
            max_tokens=self.max_tokens_per_micro_batch,
            cost=sample_cost(self.policy.shape),
            sample_multiple=sample_multiple(groups.cp.size()),
        )

    def check(self, result: UpdateResult, max_bad_updates: int) -> UpdateResult:
        """Report a skipped update; too many in a row end the run, and one that spoils the weights.

        Raises:
            UserError: `max_bad_updates` updates in a row were not finite, or a weight is not.
        """
        self._bad_updates = self._bad_updates + 1 if result.skipped else 0
        found = f"loss {result.loss:g}, gradient norm {result.grad_norm:g}"
        if not result.skipped and (name := self.policy.spoiled_weight()) is not None:
            raise common_error(
                f"an update with learning rate {result.lr:g} ({found}) made {name} infinite or "
                f"larger than {LARGEST_WEIGHT:g}; nothing of it is saved; expected weights of a "
                "working model: lower optim.lr (or optim.weight_decay), and go on from the "
                "checkpoint before"
            )
        if result.skipped:
            self.loggers.message(f"update skipped: {found}; {self._bad_updates} in a row")
            if self._bad_updates >= max_bad_updates:
                raise common_error(
                    f"{self._bad_updates} updates in a row were not finite (last: {found}), the "
                    f"limit of max_bad_updates={max_bad_updates}: lower optim.lr, or check the data"
                )
        return result

    def check_start(self) -> None:
        """See that the weights that a run starts from are those of a working model. Collective.

        Raises:
            UserError: one is beyond what a run may save, or log-probs under them are not finite.
        """
        path = self.config.model.path
        if (name := self.policy.spoiled_weight()) is not None:
            raise common_error(
                f"{path}: {name} has values larger than {LARGEST_WEIGHT:g}; expected weights of a "
                "working model"
            )
        if not has_finite_scores(self.policy):
            raise common_error(
                f"{path}: log-probs under its weights are not finite, for some are too large; "
                "expected weights of a working model"
            )

    def check_policy(self, step: int) -> None:
        """See that the policy after a step is one to be saved. Collective.

        Raises:
            UserError: its log-probs are not finite.
        """
        if not has_finite_scores(self.policy):
            raise common_error(
                f"the log-probs of the policy after step {step} are not finite: its weights are "
                "too large, and are not saved; lower optim.lr (or optim.weight_decay), and go on "
                "from the checkpoint before"
            )

    def state_dict(self) -> dict[str, Any]:
        """What a run goes on with, as plain values."""
        return {
            "bad_updates": self._bad_updates,
            "final_step": self._final_step,
            "loggers": self.loggers.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; the loggers have been opened with theirs."""
        self._bad_updates = state["bad_updates"]
        self._final_step = state.get("final_step")

    def save_final(self, step: int) -> None:
        """Write the policy after the run's last step to `hf/final`, unless it is there."""
        final = self.config.run.dir / HF / "final"
        if step != self._final_step or not from_rank_zero(final.is_dir):
            self.save(step, final.name)
            self._final_step = step if self._not_exported is None else None

    def save(self, step: int, name: str) -> None:
        """Write the policy after a step as a Hugging Face folder, `hf/NAME` in the run's folder.

        One that cannot be written is reported, and `check_exported` asks for the last.

        Raises:
            UserError: its log-probs are not finite.
        """
        with self.phase("save"):
            self.check_policy(step)
            problem = self._export(name)
            self._not_exported = from_rank_zero(lambda: problem)
        if self._not_exported is not None:
            self.loggers.message(self._not_exported)
        self.loggers.log(step, {"time/save_s": self.take_seconds("save")})

    def check_exported(self) -> None:
        """See that the model that was written last is there.

        Raises:
            UserError: it could not be written.
        """
        if self._not_exported is not None:
            raise common_error(
                f"{self._not_exported}; expected room for it: the same command goes on from the "
                "last checkpoint, and writes it"
            )

    def _export(self, name: str) -> str | None:
        """Why `hf/NAME` could not be written, on rank 0. Collective."""
        tensors, folder = self.policy.hf_tensors(), self.config.run.dir / HF / name
        try:
            save_hf_folder(
                tensors,
                source=self.config.model.path,
                destination=folder,
                dtype=getattr(torch, self.config.model.dtype),
                write=self.topology.rank == 0,
                overwrite=True,
            )
        except (OSError, UserError) as error:
            for _ in tensors:  # Every rank takes part in gathering.
                pass
            reason = error.strerror if isinstance(error, OSError) else error
            return f"{folder}: cannot be written ({reason or error})"
        return None


@contextmanager
def open_world(config: LoopConfig) -> Iterator[World]:
    """Check the config against the model and the world, and join it; leave it at the end.

    The run's folder is read, and not touched: see `open_folder`.

    Raises:
        UserError: model folder, layout, world size or the run's folder do not fit.
    """
    topology = read_topology()
    shape = read_hf_config(config.model.path)
    shape.check_parallel(config.parallel)
    check_world_size(topology.world_size, config.parallel)
    init_process_group(topology)
    loggers = open_loggers(config.log, rank=topology.rank)
    lock = RunLock(config.run.dir, topology.job)
    try:
        groups = build_groups(config.parallel)
        from_rank_zero(lambda: check_run_folder(config.run.dir, lock))
        found = from_rank_zero(lambda: marks_of(config.run.dir / CHECKPOINTS))
        resumed = resume(
            config.run.dir,
            config.model_dump(mode="json"),
            network_of(shape),
            report=loggers.message,
        )
        with lock, loggers:
            yield World(topology, shape, groups, loggers, resumed, lock, found)
    finally:
        destroy_groups()
        dist.destroy_process_group()


def open_session(
    config: LoopConfig,
    world: World,
    *,
    num_updates: int,
    temperature: float,
    max_tokens_per_micro_batch: int,
) -> Session:
    """Build the policy, with its weights: the first thing that takes device memory and time.

    Raises:
        UserError: the model folder's weights are not those of its config.json, or of no model that
            works.
    """
    if not config.model.random_init:  # Before memory is taken for what config.json says.
        open_hf_weights(config.model.path, world.shape)
    policy = build_policy(
        world.shape,
        world.groups,
        model=config.model,
        parallel=config.parallel,
        optim=config.optim,
        num_updates=num_updates,
        temperature=temperature,
        seed=config.run.seed,
        device=world.topology.device,
    )
    session = Session(config, world.topology, policy, world.loggers, max_tokens_per_micro_batch)
    if world.resumed is None:  # A checkpoint has been seen to be sound, and is once more.
        session.check_start()
    return session
