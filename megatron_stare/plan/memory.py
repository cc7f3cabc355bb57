"""Bytes on a training GPU, phase by phase; the largest sum is the peak.

Everything is of a full micro-batch, `max_tokens_per_micro_batch` tokens: what the packer may make
of any batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from megatron_stare.algorithms.needs import OLD, REFERENCE
from megatron_stare.config.commands import TrainConfig
from megatron_stare.engines.sglang.sync.buckets import buffer_bytes
from megatron_stare.plan.job import Job, needs_servers
from megatron_stare.policy.activations import (
    LayerKind,
    RankSizes,
    backward_work_bytes,
    head_kept_bytes,
    head_work_bytes,
    layer_bytes,
)
from megatron_stare.policy.kept_graphs import USABLE_SHARE, graphs_fit, may_wait
from megatron_stare.policy.meta import HeldElements

GIB = 2**30
_MIB = 2**20
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
    reference   the starting weights, with a KL penalty and servers elsewhere
    buffers     of the weights' transport, on rank 0, from the first sync on
    activations  kept for the backward passes of all micro-batches under way
    working     what the backward pass of one layer allocates on top
    head        what the head allocates on top, on the last stage
    sync        weights on their way to the engine: gathered, whole, and for rank 0's checksums
    batch       what is kept of every response token of the step
    """

    stage: int
    in_flight: float
    """Micro-batches that wait for their backward pass, of all the stage's layers."""
    parameters: int
    gradients: int
    optimizer: int
    reference: int
    buffers: int
    activations: int
    working: int
    head: int
    sync: int
    batch: int

    @property
    def held(self) -> int:
        """From start to end."""
        held = self.parameters + self.gradients + self.optimizer
        return held + self.reference + self.buffers

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
    job: Job,
    held: HeldElements,
    stage: int,
    *,
    num_micro_batches: int,
    response_tokens: int,
    num_kept: int = 0,
) -> StageMemory:
    """Memory of one rank.

    Args:
        held: what the rank holds.
        num_micro_batches: of one update on a data-parallel rank.
        response_tokens: of the step, over all data-parallel ranks.
        num_kept: micro-batches that wait for the first update since the prepass (`num_kept`).
    """
    parallel, recompute = job.parallel, job.config.model.recompute
    sizes = rank_sizes(job)
    element = job.element_bytes
    is_mixed = element < _GRADIENT_BYTES
    in_flight = max(micro_batches_in_flight(job, stage, num_micro_batches), num_kept)
    kind = layer_kind(job)
    layer = layer_bytes(job.shape, sizes, recompute=recompute, kind=kind, context=parallel.context)
    is_last = stage == parallel.pipeline - 1
    layers = job.shape.num_layers // parallel.pipeline
    is_lent = isinstance(job.config, TrainConfig) and job.config.rollout.colocated
    is_on_gpu = REFERENCE in job.config.needs and not is_lent
    return StageMemory(
        stage=stage,
        in_flight=in_flight,
        parameters=held.buffer * element,
        gradients=held.buffer * _GRADIENT_BYTES,
        optimizer=held.optimized * ((_MASTER_BYTES if is_mixed else 0) + _MOMENTS_BYTES),
        reference=held.parameters * element if is_on_gpu else 0,
        buffers=transport_bytes(job) if stage == 0 else 0,
        activations=math.ceil(in_flight * layers * layer)
        + (max(num_kept, 1) * head_kept_bytes(sizes) if is_last else 0),
        working=backward_work_bytes(job.shape, parallel, sizes, recompute=recompute, kind=kind),
        head=head_work_bytes(job.shape, parallel, sizes) if is_last else 0,
        sync=sync_bytes(job) + (checksum_bytes(job) if stage == 0 else 0),
        batch=math.ceil(response_tokens / job.data) * _TERM_BYTES,
    )


def num_kept(job: Job, held: HeldElements, *, num_micro_batches: int, response_tokens: int) -> int:
    """Micro-batches of the first update that go forward once, in the prepass.

    As `policy.kept_graphs` decides it, but of full ones.
    """

    def fit() -> bool:
        tokens = [job.config.loop.max_tokens_per_micro_batch] * num_micro_batches
        counts = {"num_micro_batches": num_micro_batches, "response_tokens": response_tokens}
        memory = stage_memory(job, held, 0, **counts)
        whole = (job.gpu.memory_gib - job.assumptions.reserved_gib) * GIB
        room = USABLE_SHARE["cuda"] * (whole - memory.held - memory.batch)
        kind = layer_kind(job)
        return graphs_fit(tokens, room, job.shape, job.config.model, job.parallel, kind)

    if OLD not in job.config.needs:
        return 0
    can_wait = may_wait(job.config.loop.keep_graph, job.parallel, fit)
    return num_micro_batches if can_wait else 0


def layer_kind(job: Job) -> LayerKind:
    """As `policy.layer_spec.uses_transformer_engine` has it, on GPUs."""
    return "torch" if job.config.model.dtype == "float32" else "transformer_engine"


def rank_sizes(job: Job) -> RankSizes:
    """Of a full micro-batch."""
    return RankSizes.of(
        job.shape,
        job.parallel,
        num_tokens=job.config.loop.max_tokens_per_micro_batch,
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
    tp, largest = job.parallel.tensor, _largest_bytes(job)
    gathered = max(_BUCKET_BYTES, largest)
    own = gathered // tp if tp > 1 else 0
    return gathered + own + largest


def transport_bytes(job: Job) -> int:
    """The two buckets that a process group with servers sends from rank 0's GPU."""
    if not needs_servers(job.config) or job.rollout.servers.transport != "distributed":
        return 0
    servers = job.rollout.servers
    return 2 * buffer_bytes(int(servers.bucket_mib * _MIB), _largest_bytes(job))


def checksum_bytes(job: Job) -> int:
    """What rank 0 computes checksums of, at most: a tensor put together of its parts, and these."""
    return 2 * _largest_bytes(job) if needs_servers(job.config) else 0


def _largest_bytes(job: Job) -> int:
    """Of the largest parameter, whole."""
    elements = (sum(map(math.prod, e.hf.values())) for e in job.entries if not e.is_copy)
    return max(elements) * job.element_bytes
