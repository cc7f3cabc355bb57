"""A plan: memory, traffic, operations and seconds of a run, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.policy import padded_length
from megatron_stare.errors import UserError
from megatron_stare.plan.job import Job
from megatron_stare.plan.lengths import drawn_batch
from megatron_stare.plan.memory import GIB, StageMemory, stage_memory
from megatron_stare.plan.servers import ServerSpeed
from megatron_stare.plan.timeline import StepTime, simulate_steps, sync_seconds
from megatron_stare.plan.traffic import StepTraffic, step_traffic
from megatron_stare.plan.training import Batch, num_forward_passes, training_time
from megatron_stare.plan.weights import built_elements, distinct_stages
from megatron_stare.policy.meta import HeldElements

NUM_STEPS = 4
"""Simulated steps of which the mean is taken."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run needs.

    held     numbers on a rank of each distinct pipeline stage, from the network built on `meta`
    stages   memory of the same ranks
    steps    simulated, each with its own batch
    """

    job: Job
    held: list[HeldElements]
    stages: list[StageMemory]
    traffic: StepTraffic
    steps: list[StepTime]

    @property
    def peak_bytes(self) -> int:
        """Of the fullest rank."""
        return max(stage.peak[1] for stage in self.stages)

    def mean(self, value: str) -> float:
        """Mean over the steps of a number of theirs, or of their training's."""
        return mean(
            getattr(step if hasattr(step, value) else step.training, value) for step in self.steps
        )


def make_plan(job: Job, *, seed: int = 1) -> Plan:
    """Plan a job.

    Raises:
        UserError: a server cannot hold the model and one response.
    """
    check_servers(job)
    stages = distinct_stages(job.parallel)
    held = [
        built_elements(job.shape, job.config.model, job.parallel, stage, job.num_trainers)
        for stage in stages
    ]
    busiest = max(held, key=lambda elements: elements.buffer)
    steps = plan_steps(job, busiest, seed=seed)
    longest = max(steps, key=lambda step: step.response_tokens)
    memory = [
        stage_memory(
            job,
            elements,
            stage,
            num_micro_batches=longest.training.num_micro_batches,
            response_tokens=longest.response_tokens,
            num_kept=max(step.training.num_kept for step in steps),
        )
        for stage, elements in zip(stages, held, strict=True)
    ]
    return Plan(job, held, memory, _traffic(job, busiest, longest), steps)


def plan_steps(job: Job, held: HeldElements, *, seed: int) -> list[StepTime]:
    """Steps of the job; without servers generation takes no time, and is not planned."""
    if job.num_servers > 0:
        return simulate_steps(job, held, num_steps=NUM_STEPS, seed=seed)
    return [
        _only_training(job, held, drawn_batch(job, seed=seed + step)) for step in range(NUM_STEPS)
    ]


def check_fits(plan: Plan) -> None:
    """Raises UserError where the peak exceeds the memory that tensors can have."""
    gpu, reserved = plan.job.gpu, plan.job.assumptions.reserved_gib
    if plan.peak_bytes > (gpu.memory_gib - reserved) * GIB:
        worst = max(plan.stages, key=lambda stage: stage.peak[1])
        phase, num_bytes = worst.peak
        raise UserError(
            f"does not fit: {num_bytes / GIB:.1f} GiB on pipeline stage {worst.stage} ({phase}), "
            f"of {gpu.memory_gib - reserved:.1f} that {gpu.name} has beside {reserved:g} reserved; "
            "more parallel.tensor, parallel.context or parallel.pipeline, model.recompute, or a "
            f"smaller {plan.job.config.command}.max_tokens_per_micro_batch need less (--search "
            "ranks layouts)"
        )


def check_servers(job: Job) -> None:
    """Raises UserError where a server cannot hold the weights and one response."""
    if job.num_servers == 0:
        return
    assert isinstance(job.config, TrainConfig), "nothing else has servers"
    longest = job.config.data.max_prompt_tokens + job.config.rollout.max_response_tokens
    room = ServerSpeed.of(job).capacity_tokens
    if room < longest:
        raise UserError(
            f"--server-gpus {job.server_gpus}: beside the weights a server has room for "
            f"{max(room, 0)} tokens, expected at least data.max_prompt_tokens + "
            f"rollout.max_response_tokens = {longest}"
        )


def _only_training(job: Job, held: HeldElements, batch: Batch) -> StepTime:
    training = training_time(job, batch, held)
    return StepTime(
        generate=0.0,
        training=training,
        sync=sync_seconds(job),
        step=training.total,
        tokens=batch.num_tokens,
        response_tokens=sum(batch.responses),
        generated=0.0,
        staleness=0.0,
    )


def _traffic(job: Job, held: HeldElements, step: StepTime) -> StepTraffic:
    context = job.parallel.context
    return step_traffic(
        job,
        held,
        padded_tokens=padded_length(step.tokens // job.data, context),
        response_tokens=step.response_tokens // job.data,
        forward_passes=num_forward_passes(job),
        updates=job.config.loop.updates_per_step * job.config.passes,
    )
