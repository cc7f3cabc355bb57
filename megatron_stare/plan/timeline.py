"""Steps of a run in simulated time: generate, learn, push weights, in turn or one step off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megatron_stare.config.rollout import RolloutConfig
from megatron_stare.plan.job import Job
from megatron_stare.plan.rollouts import GRAIN, Rollouts
from megatron_stare.plan.training import Packing, TrainingTime, balanced, training_time
from megatron_stare.policy.meta import HeldElements
from megatron_stare.weights.names import num_parameters


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step, and what came of them.

    generate  from the first draw to the last verdict; one step off of the batch that comes next
    sync      weights to the servers
    step      from one batch to the next
    tokens    of the batch, prompts and responses; `generated` those that servers decoded
    """

    generate: float
    training: TrainingTime
    sync: float
    step: float
    tokens: int
    response_tokens: int
    generated: float
    staleness: float

    @property
    def waiting_share(self) -> float:
        """Share of the step in which the trainers wait."""
        return 1 - self.training.total / self.step


def simulate_steps(
    job: Job,
    held: HeldElements,
    *,
    num_steps: int,
    rollout: RolloutConfig | None = None,
    packing: Packing = balanced,
    warm_up: int = 2,
    seed: int = 1,
) -> list[StepTime]:
    """Run `warm_up` steps, in which carried groups pile up, and return those that follow.

    Args:
        rollout: in place of the job's.
        held: by the busiest training rank.
    """
    rollout = rollout or job.rollout
    rollouts = Rollouts(job, rollout, seed=seed)
    sync = sync_seconds(job)
    steps = _steps(job, held, rollouts, rollout.one_step_off, packing, sync)
    return [next(steps) for _ in range(warm_up + num_steps)][warm_up:]


def _steps(
    job: Job,
    held: HeldElements,
    rollouts: Rollouts,
    one_step_off: bool,
    packing: Packing,
    sync: float,
) -> Iterator[StepTime]:
    step = 1
    lag = 1 if one_step_off else 0
    collected = rollouts.collect(step, 0)
    while True:
        batch, generate, metrics = collected
        training = training_time(job, batch, held, packing)
        collected = rollouts.collect(step + 1, step - lag)
        if one_step_off:
            generate = collected[1]
            seconds = max(generate, training.total)
        else:
            seconds = generate + training.total
        yield StepTime(
            generate=generate,
            training=training,
            sync=sync,
            step=seconds + sync,
            tokens=batch.num_tokens,
            response_tokens=sum(batch.responses),
            generated=metrics["rollout/generated_tokens"] * GRAIN,
            staleness=metrics["rollout/staleness_mean"],
        )
        step += 1


def sync_seconds(job: Job) -> float:
    """A folder written by rank 0, then read by all servers at once."""
    if job.num_servers == 0:
        return 0.0
    assumed = job.assumptions
    gb = num_parameters(job.entries) * job.element_bytes / 1e9
    read_gb_s = min(assumed.disk_read_gb_s, assumed.disk_total_gb_s / job.num_servers)
    return gb / assumed.disk_write_gb_s + gb / read_gb_s
