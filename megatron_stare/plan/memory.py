"""Bytes on a training GPU, phase by phase; the largest sum is the peak.

Everything is of a full micro-batch, `train.max_tokens_per_micro_batch` tokens: what the packer may
make of any batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from megatron_stare.plan.activations import (
    RankSizes,
    backward_work_bytes,
    head_kept_bytes,
    head_work_bytes,
    layer_bytes,
)
from megatron_stare.plan.job import Job
from megatron_stare.policy.meta import HeldElements

GIB = 2**30
_GRADIENT_BYTES = 4
_MASTER_BYTES, _MOMENTS_BYTES = 4, 8
_TERM_BYTES = 64
"""Of a response token on its ranks: scores, terms of the loss, the selection's temporaries."""
_BUCKET_BYTES = 1 << 29
"""Of the exchange that streams weights out (`weights/export.py`)."""


@dataclass(frozen=True, slots=True)
class StageMemory:
    """Bytes on a rank of a pipeline stage.

    parameters, gradients, optimizer  held from start to end
    reference   the starting weights and a copy of the current ones, with a KL penalty
    activations  kept for the backward passes of all micro-batches under way
    working     what the backward pass of one layer allocates on top
    head        what the head allocates on top, on the last stage
    sync        buckets and whole tensors on their way to the engine
    batch       what is kept of every response token of the step
    """

    stage: int
    in_flight: float
    """Micro-batches that wait for their backward pass, of all the stage's layers."""
    parameters: int
    gradients: int
    optimizer: int
    reference: int
    activations: int
    working: int
    head: int
    sync: int
    batch: int

    @property
    def held(self) -> int:
        """From start to end."""
        return self.parameters + self.gradients + self.optimizer + self.reference

    @property
    def phases(self) -> dict[str, int]:
        """Bytes at the worst moment of each phase."""
        return {
            "update, backward of a layer": (
                self.held + self.batch + self.activations + self.working
            ),
            "update, head": self.held + self.batch + self.activations + self.head,
            "weight sync": self.held + self.sync,
        }

    @property
    def peak(self) -> tuple[str, int]:
        """The worst phase, and its bytes."""
        return max(self.phases.items(), key=lambda phase: phase[1])


def stage_memory(
    job: Job, held: HeldElements, stage: int, *, num_micro_batches: int, response_tokens: int
) -> StageMemory:
    """Memory of one rank.

    Args:
        held: what the rank holds.
        num_micro_batches: of one update on a data-parallel rank.
        response_tokens: of the step, over all data-parallel ranks.
    """
    parallel, recompute = job.parallel, job.config.model.recompute
    sizes = rank_sizes(job)
    element = job.element_bytes
    is_mixed = element < _GRADIENT_BYTES
    in_flight = micro_batches_in_flight(job, stage, num_micro_batches)
    layer = layer_bytes(
        job.shape,
        sizes,
        recompute=recompute,
        kind="transformer_engine",
        context=parallel.context,
    )
    is_last = stage == parallel.pipeline - 1
    layers = job.shape.num_layers // parallel.pipeline
    copies = 2 * held.parameters * element if job.config.algorithm.kl != "none" else 0
    return StageMemory(
        stage=stage,
        in_flight=in_flight,
        parameters=held.buffer * element,
        gradients=held.buffer * _GRADIENT_BYTES,
        optimizer=held.optimized * ((_MASTER_BYTES if is_mixed else 0) + _MOMENTS_BYTES),
        reference=copies,
        activations=math.ceil(in_flight * layers * layer)
        + (head_kept_bytes(sizes) if is_last else 0),
        working=backward_work_bytes(job.shape, parallel, sizes, recompute=recompute),
        head=head_work_bytes(job.shape, parallel, sizes) if is_last else 0,
        sync=sync_bytes(job),
        batch=math.ceil(response_tokens / job.data) * _TERM_BYTES,
    )


def rank_sizes(job: Job) -> RankSizes:
    """Of a full micro-batch."""
    return RankSizes.of(
        job.shape,
        job.parallel,
        num_tokens=job.config.train.max_tokens_per_micro_batch,
        element_bytes=job.element_bytes,
    )


def micro_batches_in_flight(job: Job, stage: int, num_micro_batches: int) -> float:
    """Micro-batches whose activations a stage holds at once, in Megatron's schedules.

    One forward, one backward: a stage has run ahead of the last one by its distance to it. The
    interleaved schedule runs a stage's first chunk for P micro-batches, then its second, ...
    """
    stages, chunks = job.parallel.pipeline, job.parallel.virtual_pipeline
    ahead = stages - 1 - stage
    if chunks == 1:
        return min(ahead + 1, num_micro_batches)
    runs = 2 * ahead + (chunks - 1) * stages + 1
    return min(runs / chunks, num_micro_batches)


def sync_bytes(job: Job) -> int:
    """The largest exchange of weights: a bucket's shards, gathered, and one parameter merged."""
    tp, element = job.parallel.tensor, job.element_bytes
    sizes = [
        sum(math.prod(size) for size in entry.hf.values()) * element
        for entry in job.entries
        if not entry.is_copy
    ]
    gathered = max(_BUCKET_BYTES, max(sizes))
    own = gathered // tp if tp > 1 else 0
    return gathered + own + max(sizes)
