"""Seconds of a step's phases on the trainers, for a batch of given lengths.

The batch is balanced and packed by the program's own code; what is assumed is how fast a GPU
computes and sends (`hardware.Assumptions`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from megatron_stare.algorithms.needs import OLD, head_products
from megatron_stare.config.policy import padded_length
from megatron_stare.data.packing import MicroBatches, SampleCost, plan_micro_batches
from megatron_stare.plan.job import Job
from megatron_stare.plan.memory import num_kept
from megatron_stare.plan.pipeline import pipeline_seconds
from megatron_stare.plan.traffic import LayerTraffic, is_inside_a_node, layer_traffic
from megatron_stare.policy.activations import RankSizes
from megatron_stare.policy.flops import sample_cost
from megatron_stare.policy.meta import HeldElements

_OPTIMIZER_BYTES = 30
"""Read and written for each parameter of AdamW: gradient, master copy, moments, parameter."""

Packing = Callable[[Sequence[int], Sequence[int], Sequence[float], int, int], list[MicroBatches]]
"""(sample ids, lengths, costs, data-parallel ranks, token budget) -> micro-batches by rank."""


def balanced(
    samples: Sequence[int], lengths: Sequence[int], costs: Sequence[float], dp: int, budget: int
) -> list[MicroBatches]:
    """The program's own packing."""
    return plan_micro_batches(samples, lengths, costs, dp_size=dp, max_tokens=budget)


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompt and response tokens of each sample, group after group."""

    prompts: Sequence[int]
    responses: Sequence[int]

    @property
    def num_tokens(self) -> int:
        """Of prompts and responses."""
        return sum(self.prompts) + sum(self.responses)


@dataclass(frozen=True, slots=True)
class TrainingTime:
    """Seconds, and what they were spent on.

    prepass      forward pass under the weights before the update; and of a reference
    update       forward and backward passes, with the pipeline's bubble; backward alone where the
                 prepass has kept the graph
    exchange     gradients summed, parameters gathered
    optimizer    AdamW on this rank's share
    flops        of the whole step, over all GPUs, without what is computed again
    flops_again  those: activations that were not kept, and the head's logits
    busy_share   of the update: the mean share of its seconds in which a GPU has a micro-batch
    num_micro_batches, fill  of a rank, most in any update; tokens over their budget
    num_kept     micro-batches of a rank that wait for the first update since the prepass
    """

    prepass: float
    update: float
    exchange: float
    optimizer: float
    flops: float
    flops_again: float
    busy_share: float
    num_micro_batches: int
    fill: float
    num_kept: int

    @property
    def total(self) -> float:
        """From the batch to the weights after it."""
        return self.prepass + self.update + self.exchange + self.optimizer


def training_time(
    job: Job, batch: Batch, held: HeldElements, packing: Packing = balanced
) -> TrainingTime:
    """Time of one step on a batch; `held` by the busiest rank."""
    config, cost = job.config, sample_cost(job.shape)
    context = job.parallel.context
    lengths = [
        padded_length(prompt + response, context)
        for prompt, response in zip(batch.prompts, batch.responses, strict=True)
    ]
    costs = [cost(*pair) for pair in zip(lengths, batch.responses, strict=True)]
    updates = _updates(len(lengths), config.loop.updates_per_step)
    budget = config.loop.max_tokens_per_micro_batch
    parts = [packing(samples, lengths, costs, job.data, budget) for samples in updates]
    epochs = config.passes
    plans = parts * epochs
    clock = _Clock(job, cost, lengths, batch.responses)
    passes = num_forward_passes(job)
    products = head_products(config.needs)
    prepass = passes * sum(max(clock.forward(rank) for rank in plan) for plan in parts)
    prepass += products * sum(max(clock.head(rank) for rank in plan) for plan in parts)
    flops = (3 * epochs + passes) * sum(costs)
    flops += products * cost.per_loss_token * sum(batch.responses)
    counts = [len(plan[0]) for plan in parts]
    kept = num_kept(job, held, num_micro_batches=counts[0], response_tokens=sum(batch.responses))
    update = busy = again = 0.0
    for number, plan in enumerate(plans):
        known = _Known(OLD in config.needs, kept) if number == 0 else _Known()
        update += max(clock.forward_and_backward(rank, known) for rank in plan)
        busy += sum(clock.busy(rank, known) for rank in plan) / len(plan)
        flops -= sum(clock.flops_spared(rank, known) for rank in plan)
        again += sum(clock.flops_again(rank) for rank in plan)
    return TrainingTime(
        prepass=prepass,
        update=update,
        exchange=len(plans) * _exchange_seconds(job, held),
        optimizer=len(plans)
        * held.optimized
        * _OPTIMIZER_BYTES
        / (job.gpu.memory_gb_s * 1e9 * job.assumptions.link_efficiency),
        flops=flops,
        flops_again=again,
        busy_share=busy / update,
        num_micro_batches=max(counts),
        fill=sum(lengths) / (budget * sum(counts) * job.data),
        num_kept=kept,
    )


def num_forward_passes(job: Job) -> int:
    """Passes besides those of the update: the prepass, the reference's."""
    return sum(need.passes for need in job.config.needs)


def _updates(num_samples: int, count: int) -> list[range]:
    edges = [num_samples * i // count for i in range(count + 1)]
    return [range(start, end) for start, end in pairwise(edges)]


class _Known(NamedTuple):
    """What an update finds done: its tokens scored, its first micro-batches gone forward."""

    has_scores: bool = False
    num_kept: int = 0


class _Operations(NamedTuple):
    """Of a micro-batch forward, over all stages.

    layers  all but the head's
    pairs   of them those of attention, a token with another
    head    of its logits
    again   of the layers, those that the backward makes again, since their results are not kept
    """

    layers: float
    pairs: float
    head: float
    again: float


class _Clock:
    """Seconds of the micro-batches of a data-parallel rank, on each pipeline stage."""

    def __init__(
        self, job: Job, cost: SampleCost, lengths: Sequence[int], responses: Sequence[int]
    ) -> None:
        self._job, self._cost = job, cost
        self._lengths, self._responses = lengths, responses
        assumed, parallel = job.assumptions, job.parallel
        rate = job.gpu.bf16_tflops * 1e12 * assumed.compute_efficiency
        self._flops_s = rate * parallel.tensor * parallel.context

    def forward(self, rank: MicroBatches) -> float:
        """A pass without gradients."""
        stages, _ = self._both(rank, _Known())
        return self._interleaved(pipeline_seconds(stages), stages)

    def head(self, rank: MicroBatches) -> float:
        """One product of hidden states and the head's weight."""
        tokens = sum(self._responses[i] for micro_batch in rank for i in micro_batch)
        return self._cost.per_loss_token * tokens / self._flops_s

    def flops_spared(self, rank: MicroBatches, known: _Known) -> float:
        """Of going forward: through all of the network, or through the head."""
        cost, spared = self._cost, 0.0
        for number, micro_batch in enumerate(rank):
            if number < known.num_kept:
                spared += sum(cost(self._lengths[i], self._responses[i]) for i in micro_batch)
            elif known.has_scores:
                spared += cost.per_loss_token * sum(self._responses[i] for i in micro_batch)
        return spared

    def flops_again(self, rank: MicroBatches) -> float:
        """Of the backward pass: what was not kept, and the logits."""
        all_of_them = [self._operations(micro_batch) for micro_batch in rank]
        return sum(one.again + one.head for one in all_of_them)

    def forward_and_backward(self, rank: MicroBatches, known: _Known) -> float:
        """A pass with gradients; with scores from before, the head does not go forward."""
        forward, backward = self._both(rank, known)
        seconds = pipeline_seconds(forward, backward)
        return self._interleaved(seconds, [*forward, *backward])

    def busy(self, rank: MicroBatches, known: _Known) -> float:
        """Seconds that a stage has something to do in such a pass, mean over the stages."""
        forward, backward = self._both(rank, known)
        return sum(map(sum, [*forward, *backward])) / self._job.parallel.pipeline

    def _both(
        self, rank: MicroBatches, known: _Known
    ) -> tuple[list[list[float]], list[list[float]]]:
        pairs = [self._stages(micro_batch, known.has_scores) for micro_batch in rank]
        forwards = [pair[0] for pair in pairs]
        nothing = [0.0] * self._job.parallel.pipeline
        forwards[: known.num_kept] = [nothing] * min(known.num_kept, len(forwards))
        return forwards, [pair[1] for pair in pairs]

    def _interleaved(self, seconds: float, stages: list[list[float]]) -> float:
        """With V chunks a stage, what is not spent on the busiest stage shrinks to a V-th."""
        busiest = max((sum(column) for column in zip(*stages, strict=True)), default=0.0)
        return busiest + (seconds - busiest) / self._job.parallel.virtual_pipeline

    def _stages(
        self, micro_batch: Sequence[int], has_scores: bool
    ) -> tuple[list[float], list[float]]:
        """Seconds of a micro-batch forward and backward, by stage; an empty one takes none."""
        num_stages = self._job.parallel.pipeline
        if not micro_batch:
            return [0.0] * num_stages, [0.0] * num_stages
        job, n = self._job, self._operations(micro_batch)
        sent = self._sent(sum(self._lengths[i] for i in micro_batch), n.pairs)
        overhead = job.assumptions.micro_batch_overhead_s
        forward = n.layers / num_stages / self._flops_s + sent[0] + overhead
        backward = (2 * n.layers + n.again) / num_stages / self._flops_s
        is_sent_again = job.config.model.recompute == "full"
        backward += sent[1] + overhead + (sent[0] if is_sent_again else 0.0)
        forwards, backwards = [forward] * num_stages, [backward] * num_stages
        forwards[-1] += 0.0 if has_scores else n.head / self._flops_s
        backwards[-1] += 3 * n.head / self._flops_s  # Its logits are computed again.
        return forwards, backwards

    def _operations(self, micro_batch: Sequence[int]) -> _Operations:
        cost = self._cost
        pairs = cost.per_token_pair * sum(self._lengths[i] ** 2 for i in micro_batch)
        layers = cost.per_token * sum(self._lengths[i] for i in micro_batch) + pairs
        recompute = self._job.config.model.recompute
        return _Operations(
            layers=layers,
            pairs=pairs,
            head=cost.per_loss_token * sum(self._responses[i] for i in micro_batch),
            again={"none": 0.0, "selective": pairs, "full": layers}[recompute],
        )

    def _sent(self, tokens: int, pairs: float) -> tuple[float, float]:
        """Seconds that one stage waits for what its layers send, forward and backward.

        Keys and values go around while attention is computed: what takes longer counts.
        """
        job = self._job
        sizes = RankSizes.of(
            job.shape, job.parallel, num_tokens=tokens, element_bytes=job.element_bytes
        )
        layer: LayerTraffic = layer_traffic(job, sizes)
        layers = job.shape.num_layers / job.parallel.pipeline
        tensor = send_seconds(job, layer.tensor_forward, job.parallel.tensor)
        tensor_back = send_seconds(job, layer.tensor_backward, job.parallel.tensor)
        expert = send_seconds(job, layer.expert_forward, job.parallel.expert)
        span = job.parallel.tensor * job.parallel.context
        attention = pairs / job.shape.num_layers / self._flops_s
        ring = max(send_seconds(job, layer.context_forward, span) - attention, 0.0)
        ring_back = max(send_seconds(job, layer.context_backward, span) - 2 * attention, 0.0)
        return layers * (tensor + expert + ring), layers * (tensor_back + expert + ring_back)


def send_seconds(job: Job, num_bytes: float, span: int) -> float:
    """Seconds to send so much inside a group of neighbours that spans so many ranks."""
    gpu = job.gpu
    rate = gpu.link_gb_s if is_inside_a_node(span) else gpu.network_gb_s
    return num_bytes / (rate * 1e9 * job.assumptions.link_efficiency)


def _exchange_seconds(job: Job, held: HeldElements) -> float:
    """Float32 gradients scattered, parameters gathered, over the ranks that hold the same."""
    ranks = job.num_trainers // (job.parallel.tensor * job.parallel.pipeline)
    sent = held.buffer * (4 + job.element_bytes) * (ranks - 1) / ranks
    return send_seconds(job, sent, math.prod((ranks, job.parallel.tensor)))
