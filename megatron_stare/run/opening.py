"""A reinforcement run from its config: what refuses a start does so before anything is touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from megatron_stare.algorithms.chain import Chain
from megatron_stare.config.commands import TrainConfig
from megatron_stare.launch.environment import check_segments
from megatron_stare.policy.memory import check_can_offload
from megatron_stare.run.learner import starting_weights_of
from megatron_stare.run.preflight import check_model
from megatron_stare.run.rollout_opening import open_rollout_side
from megatron_stare.run.rollout_side import RolloutSide
from megatron_stare.run.run import Run
from megatron_stare.run.saving import keep_saving, open_folder
from megatron_stare.run.session import open_session, open_world
from megatron_stare.system.signals import stop_requests


@contextmanager
def open_run(config: TrainConfig) -> Iterator[Run]:
    """Open everything a run needs, in an order that meets bad input before GPU time.

    The run's folder comes last: what refuses a start has done so before it is touched.
    A run that goes on from a checkpoint stands where that was made. What is being written at the
    end is finished, unless the end is an error.
    """
    with ExitStack() as stack:
        stop = stack.enter_context(stop_requests(config.checkpoint.grace_s))
        world = stack.enter_context(open_world(config))
        check_model(config, world.shape)
        if config.rollout.colocated:
            check_segments("rollout.colocated=true")
            check_can_offload(getattr(torch, config.model.dtype), world.topology.device)
        rollout_side = stack.enter_context(open_rollout_side(config, world))
        session = open_session(
            config,
            world,
            num_updates=config.train.steps * config.updates_per_step,
            temperature=config.rollout.temperature,
            max_tokens_per_micro_batch=config.train.max_tokens_per_micro_batch,
        )
        starting_weights = starting_weights_of(session.policy, config)
        saving = stack.enter_context(
            keep_saving(
                config,
                world,
                session,
                stop,
                num_steps=config.train.steps,
                on_complete=lambda step: _forget_samples(rollout_side, step),
            )
        )
        chain = Chain(config.algorithm)
        run = Run(config, session, chain, starting_weights, rollout_side, saving)
        if world.resumed is not None:
            run.resume(world.resumed)
        open_folder(config, world)
        if rollout_side is not None:
            # Nothing is left to do for a step that is done; without going on, none is.
            begins_anew = config.run.resume == "never"
            rollout_side.forget_samples(through=None if begins_anew else run.step)
            stop.when_set(rollout_side.sampler.cancel)
        yield run


def _forget_samples(rollout_side: RolloutSide | None, step: int) -> None:
    assert rollout_side is not None, "on rank 0"
    rollout_side.forget_samples(through=step)
