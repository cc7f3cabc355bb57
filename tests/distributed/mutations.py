"""Faults of a distributed trainer, one at a time, for tests that must turn red under them.

Each is a context manager that breaks this process's trainer the way real ones have been broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

import megatron_stare.policy  # noqa: F401  (brings in Megatron-Core the way it has to be)

# isort: split
from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region
from megatron.core.transformer import attention

from megatron_stare.algorithms import corrections, objective
from megatron_stare.algorithms.aggregation import token_coefficients
from megatron_stare.algorithms.corrections import Corrected, correct
from megatron_stare.algorithms.hooks import Credit, Step
from megatron_stare.algorithms.links import stare
from megatron_stare.algorithms.links.stare import most_surprising
from megatron_stare.algorithms.stare import StareSelection, stare_selection
from megatron_stare.ops.logprob_entropy import linear_token_scores
from megatron_stare.ops.partials import TokenScores
from megatron_stare.policy import build, context_attention, head, inputs, model, packed
from megatron_stare.policy.attention import plan_attention
from megatron_stare.policy.context import gather_scores
from megatron_stare.policy.packed import PackedMicroBatch, pack
from tests.layout_steps import Job, Layout, RankStep, take_steps


def mutated_steps(
    rank: int, mutation: str, layout: Layout, jobs: dict[str, Job]
) -> dict[str, list[RankStep]]:
    """`take_steps` with a fault of the table in every process."""
    with MUTATIONS[mutation]():
        return take_steps(rank, layout, jobs)


def _replaced(module: Any, name: str, function: Callable) -> AbstractContextManager:
    return mock.patch.object(module, name, function)


def _select_per_rank() -> AbstractContextManager:
    def select(*tokens, group, **settings) -> StareSelection:
        return stare_selection(*tokens, group=None, **settings)

    return _replaced(stare, "stare_selection", select)


def _break_ties_by_place_on_the_rank() -> AbstractContextManager:
    def select(surprisal, *tokens, token_ids, group, **settings) -> StareSelection:
        local = torch.arange(len(surprisal)) * group.size() + group.rank()
        return stare_selection(surprisal, *tokens, token_ids=local, group=group, **settings)

    return _replaced(stare, "stare_selection", select)


def _rank_per_micro_batch() -> AbstractContextManager:
    def rank(logprobs, credit: Credit, step: Step, top_share) -> StareSelection:
        selections = [
            most_surprising(logprobs[here], credit.at(here), step.at(here), top_share)
            for here in _micro_batches(step, max_tokens=150)
        ]
        parts = ("positive", "negative", "rest_positive", "rest_negative")
        whole = {name: torch.cat([getattr(each, name) for each in selections]) for name in parts}
        return replace(selections[0], **whole)

    return _replaced(stare, "most_surprising", rank)


def _micro_batches(step: Step, max_tokens: int) -> Iterator[slice]:
    """Runs of whole samples, the shortest that have so many tokens."""
    lengths = step.sample_ids.unique_consecutive(return_counts=True)[1].tolist()
    start = end = 0
    for length in lengths:
        end += length
        if end - start >= max_tokens:
            yield slice(start, end)
            start = end
    if end > start:
        yield slice(start, end)


def _token_mean_per_rank() -> AbstractContextManager:
    def per_rank(kind, counted: torch.Tensor, step: Step, samples, sum_over) -> torch.Tensor:
        held = set(step.sample_ids.tolist())
        mine = [i for i in samples if i in held]
        return token_coefficients(kind, counted, step, mine, sum_over) / dist.get_world_size()

    return _replaced(objective, "token_coefficients", per_rank)


def _divide_by_what_the_correction_keeps() -> AbstractContextManager:
    def per_kept_token(log_ratios, sample_ids, counted, correction) -> Corrected:
        corrected = correct(log_ratios, sample_ids, counted, correction)
        kept = counted & (corrected.weights > 0)
        scale = counted.sum() / kept.sum().clamp(min=1)
        return corrected._replace(weights=corrected.weights * scale)

    return _replaced(corrections, "correct", per_kept_token)


def _hold_the_entropy_s_gradient_back() -> AbstractContextManager:
    def scores(*inputs, differentiable_entropy, **options) -> TokenScores:
        return linear_token_scores(*inputs, **options)

    return _replaced(head, "linear_token_scores", scores)


def _average_gradients() -> AbstractContextManager:
    """Megatron's own mean over micro-batches and replicas, on top of the objective's."""
    return _replaced(model, "PolicyConfig", partial(_averaging_config, model.PolicyConfig))


def _averaging_config(config_class: type, **settings) -> Any:
    return config_class(**settings | {"calculate_per_token_loss": False})


def _leave_replicated_gradients_apart() -> AbstractContextManager:
    """No sum over the tensor group for norms, nor over the stages for tied embeddings."""

    def reduce_over_replicas_only(chunks, num_tokens, **options) -> None:
        for chunk in chunks:
            chunk.finish_grad_sync()

    return _replaced(build, "sum_gradients", reduce_over_replicas_only)


def _attend_across_samples() -> AbstractContextManager:
    def plan(lengths, device):
        return plan_attention([sum(lengths)], device)

    return _replaced(packed, "plan_attention", plan)


def _shift_labels_after_the_context_split() -> AbstractContextManager:
    def pack_then_shift(*samples, **settings) -> PackedMicroBatch:
        micro_batch = pack(*samples, **settings)
        following = micro_batch.input_ids[0].roll(-1)
        return replace(micro_batch, targets=following[micro_batch.rows])

    return _replaced(inputs, "pack", pack_then_shift)


def _count_gradients_on_every_context_rank() -> AbstractContextManager:
    """Every context rank computes the whole loss: its gradient without the 1/cp."""

    def gather(held, places, num_tokens, group) -> torch.Tensor:
        amplified = held + (group.size() - 1) * (held - held.detach())
        return gather_scores(amplified, places, num_tokens, group)

    return _replaced(head, "gather_scores", gather)


def _keep_key_gradients_on_the_querying_rank() -> AbstractContextManager:
    name = "gather_from_sequence_parallel_region"
    gather = getattr(context_attention, name)
    return _replaced(context_attention, name, partial(gather, tensor_parallel_output_grad=False))


def _keep_gradients_of_shared_heads_apart() -> AbstractContextManager:
    """Of the gathered queries, keys and values, each rank's gradient of its own part only."""
    name = "all_gather_last_dim_from_tensor_parallel_region"
    return _replaced(attention, name, gather_from_tensor_model_parallel_region)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


MUTATIONS: dict[str, Callable[[], AbstractContextManager]] = {
    "nothing": _nothing,
    "select per rank": _select_per_rank,
    "break ties by place on the rank": _break_ties_by_place_on_the_rank,
    "rank per micro-batch": _rank_per_micro_batch,
    "token mean per rank": _token_mean_per_rank,
    "divide by what the correction keeps": _divide_by_what_the_correction_keeps,
    "hold the entropy's gradient back": _hold_the_entropy_s_gradient_back,
    "average gradients": _average_gradients,
    "leave replicated gradients apart": _leave_replicated_gradients_apart,
    "attend across samples": _attend_across_samples,
    "shift labels after the context split": _shift_labels_after_the_context_split,
    "count gradients on every context rank": _count_gradients_on_every_context_rank,
    "keep key gradients on the querying rank": _keep_key_gradients_on_the_querying_rank,
    "keep gradients of shared heads apart": _keep_gradients_of_shared_heads_apart,
}
