"""How fast a planned run is, in the two numbers that are quoted of such runs."""

from __future__ import annotations

from typing import NamedTuple

from megatron_stare.plan.job import Job
from megatron_stare.plan.plan import Plan


class Speed(NamedTuple):
    """Means over the planned steps.

    tokens_s_gpu      of the batch, prompts and responses, a second of the step, over all GPUs
    tokens_s_trainer  a second of training, over the GPUs that train
    mfu               operations that the method asks for, each once, over those that the trainers
                      could make while they train
    hfu               with those that are made again
    """

    tokens_s_gpu: float
    tokens_s_trainer: float
    mfu: float
    hfu: float


def speed_of(plan: Plan) -> Speed:
    """Of a plan."""
    job, tokens = plan.job, plan.mean("tokens")
    seconds, flops = plan.mean("total"), plan.mean("flops")
    return Speed(
        tokens_s_gpu=tokens / plan.mean("step") / (job.num_trainers + job.num_generators),
        tokens_s_trainer=tokens / seconds / job.num_trainers,
        mfu=flops_share(job, flops, seconds),
        hfu=flops_share(job, flops + plan.mean("flops_again"), seconds),
    )


def flops_share(job: Job, flops: float, seconds: float) -> float:
    """Of what the trainers could make in so many seconds."""
    return flops / seconds / (job.num_trainers * job.gpu.bf16_tflops * 1e12)
