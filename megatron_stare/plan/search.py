"""Layouts of the trainers that fit, the fastest first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from megatron_stare.config.policy import ParallelConfig
from megatron_stare.errors import UserError
from megatron_stare.plan.job import Job
from megatron_stare.plan.lengths import drawn_batch
from megatron_stare.plan.memory import GIB, stage_memory
from megatron_stare.plan.training import Batch, TrainingTime, training_time
from megatron_stare.plan.weights import distinct_stages, tabulated_elements
from megatron_stare.policy.meta import HeldElements

_SIZES = (1, 2, 4, 8)
_STAGES = (1, 2, 4, 8, 16)
_CHUNKS = (1, 2, 4)
_RECOMPUTE = ("none", "selective", "full")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layout, its peak on the fullest rank, and its time on one batch."""

    job: Job
    peak_bytes: int
    time: TrainingTime


def search(job: Job, *, seed: int = 1) -> list[Candidate]:
    """Layouts of the job's training GPUs that fit, by seconds of training a step.

    Of layouts that differ in recompute alone, the one that computes least stands for all.

    Raises:
        UserError: no layout fits.
    """
    batch = drawn_batch(job, seed=seed)
    found: dict[ParallelConfig, Candidate] = {}
    for other in _layouts(job):
        if other.parallel not in found and (candidate := _candidate(other, batch)) is not None:
            found[other.parallel] = candidate
    if not found:
        raise UserError(
            f"no layout fits {job.num_trainers} training GPUs of {job.gpu.memory_gib:g} GiB: more "
            f"of them, larger ones, or a smaller {job.config.command}.max_tokens_per_micro_batch"
        )
    return sorted(found.values(), key=lambda candidate: candidate.time.total)


def _layouts(job: Job) -> Iterator[Job]:
    experts = _SIZES if job.shape.moe else (1,)
    for tensor, context, pipeline, chunks, expert, recompute in itertools.product(
        _SIZES, _SIZES, _STAGES, _CHUNKS, experts, _RECOMPUTE
    ):
        layout = {
            "tensor": tensor,
            "context": context,
            "pipeline": pipeline,
            "virtual_pipeline": chunks,
            "expert": expert,
            "sequence": tensor > 1,
        }
        try:
            yield job.with_layout(ParallelConfig.model_validate(layout), recompute)
        except (UserError, ValidationError):
            continue  # What does not divide is no layout.


def _candidate(job: Job, batch: Batch) -> Candidate | None:
    """None where it does not fit, whatever the micro-batches."""
    stages = distinct_stages(job.parallel)
    held = {
        stage: tabulated_elements(job.entries, job.parallel, stage, job.num_trainers)
        for stage in stages
    }
    room = (job.gpu.memory_gib - job.assumptions.reserved_gib) * GIB
    if _peak(job, held, batch, num_kept=0) > room:
        return None
    time = training_time(job, batch, max(held.values(), key=lambda elements: elements.buffer))
    peak = _peak(job, held, batch, num_kept=time.num_kept)
    return Candidate(job, peak, time) if peak <= room else None


def _peak(job: Job, held: Mapping[int, HeldElements], batch: Batch, num_kept: int) -> int:
    """Bytes of the fullest rank."""
    return max(
        stage_memory(
            job,
            elements,
            stage,
            # More than are ever in flight at once, also where chunks are interleaved.
            num_micro_batches=2 * job.parallel.pipeline,
            response_tokens=sum(batch.responses),
            num_kept=num_kept,
        ).peak[1]
        for stage, elements in held.items()
    )
