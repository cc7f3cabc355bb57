"""Bytes that a training GPU sends, by the group it sends them to.

A gather or scatter of X bytes over n ranks has each of them send (n - 1) / n of X; an all-reduce
twice that. `X` is the tensor that exists in whole at one of its ends.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_stare.config.commands import TrainConfig
from megatron_stare.plan.hardware import GPUS_PER_NODE
from megatron_stare.plan.job import Job
from megatron_stare.policy.activations import RankSizes
from megatron_stare.policy.meta import HeldElements

_FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class LayerTraffic:
    """Bytes of one layer and micro-batch, in a forward and in a backward pass."""

    tensor_forward: float
    tensor_backward: float
    context_forward: float
    context_backward: float
    expert_forward: float


def layer_traffic(job: Job, n: RankSizes) -> LayerTraffic:
    """Of a micro-batch of the given sizes.

    Tensor parallelism gathers tokens before, and scatters them after, attention and MLP; backwards
    it does the same the other way round, and gathers inputs once more for the weights' gradients.
    Without sequence parallelism an all-reduce stands for each gather and scatter. Ranks that share
    KV heads gather queries, keys and values, and scatter their gradients. Context parallelism
    passes keys and values around, backwards with their gradients. Experts: tokens there and back.
    """
    parallel, moe = job.parallel, job.shape.moe
    whole = n.t * n.h * n.b
    pairs = 2 if moe is None else 1  # Tensor parallelism does not split an expert.
    shared = n.t * n.shared_qkv * n.b
    tensor = (2 * pairs * whole + shared) * _others(parallel.tensor)
    again = pairs * whole * _others(parallel.tensor) if parallel.sequence else 0.0
    ring = 2 * n.t * n.kv * n.b * (parallel.context - 1)
    routed = n.s * n.h * n.b * moe.experts_per_token if moe else 0
    return LayerTraffic(
        tensor_forward=tensor,
        tensor_backward=tensor + again,
        context_forward=ring,
        context_backward=2 * ring,
        expert_forward=2 * routed * _others(parallel.expert),
    )


@dataclass(frozen=True, slots=True)
class StepTraffic:
    """Bytes that a GPU of the busiest stage sends in a step, by group."""

    tensor: float
    context: float
    pipeline: float
    expert: float
    data: float
    sync: float


def step_traffic(
    job: Job,
    held: HeldElements,
    *,
    padded_tokens: int,
    response_tokens: int,
    forward_passes: int,
    updates: int,
) -> StepTraffic:
    """Traffic of a step.

    Args:
        padded_tokens: of one data-parallel rank, over its context ranks.
        response_tokens: of one data-parallel rank.
        forward_passes: besides those of the update: of the prepass, of the reference.
        updates: optimizer updates.
    """
    parallel = job.parallel
    n = RankSizes.of(job.shape, parallel, num_tokens=padded_tokens, element_bytes=job.element_bytes)
    layers = job.shape.num_layers // parallel.pipeline
    layer = layer_traffic(job, n)
    forwards = forward_passes + 1 + (job.config.model.recompute == "full")
    whole = n.t * n.h * n.b * _others(parallel.tensor)
    d_hidden = response_tokens // parallel.context * n.h * _FLOAT32 * 2 * _others(parallel.tensor)
    # The head gathers hidden states in a forward pass, the embedding scatters them in both.
    head = d_hidden + ((forward_passes + 1) * whole if parallel.sequence else 0.0)
    embedding = (forward_passes + 2 if parallel.sequence else 2 * (forward_passes + 1)) * whole
    ends = head + embedding if parallel.pipeline == 1 else max(head, embedding)
    edges = 0 if parallel.pipeline == 1 else parallel.virtual_pipeline
    ranks = job.num_trainers // (parallel.tensor * parallel.pipeline)
    return StepTraffic(
        tensor=layers * (forwards * layer.tensor_forward + layer.tensor_backward) + ends,
        context=layers * (forwards * layer.context_forward + layer.context_backward),
        pipeline=edges * (forward_passes + 2) * n.s * n.h * n.b,
        expert=layers * (forwards + 1) * layer.expert_forward,
        data=updates * held.buffer * (_FLOAT32 + job.element_bytes) * _others(ranks),
        sync=held.parameters * job.element_bytes * (parallel.tensor - 1 + (edges > 0))
        if isinstance(job.config, TrainConfig)
        else 0.0,
    )


def is_inside_a_node(span: int) -> bool:
    """Whether a group of neighbours that spans so many ranks stays on one node."""
    return span <= GPUS_PER_NODE


def _others(size: int) -> float:
    return (size - 1) / size
