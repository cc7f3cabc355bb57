"""From hidden states to log-probs and entropies, in place of Megatron's LM head.

`logprob_entropy_head` is an `output_processor` for `GPTModel.forward`: it gets the hidden states
after the final norm, keeps the rows that predict a counted response token, and leaves logits to the
op.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from torch import Tensor
from torch.distributed import ProcessGroup

from megatron_stare.algorithms.hooks import HeadNeed
from megatron_stare.ops.logprob_entropy import linear_token_scores
from megatron_stare.ops.partials import TokenScores
from megatron_stare.policy.context import gather_scores
from megatron_stare.policy.head_measures import HeadView, measure
from megatron_stare.policy.model import PolicyConfig
from megatron_stare.policy.packed import PackedMicroBatch


@dataclass(frozen=True, slots=True)
class HeadInputs:
    """What the head needs beside hidden states: the `output_processor_context`.

    micro_batch  where log-probs are wanted
    temperature  divides the logits: of all tokens, or of each response token, float32
                 `[num_tokens]`
    cp_group     ranks that share the micro-batch's tokens
    known        what the head has said of the micro-batch's response tokens under these weights
    differentiates_entropy   whether entropies carry a gradient, as log-probs do
    keep_bytes   of logits that may wait for the backward
    measures     what else is asked of the head
    measured     what it has said, `[rows, num_tokens]` each: filled by the head
    """

    micro_batch: PackedMicroBatch
    temperature: float | Tensor
    cp_group: ProcessGroup
    known: TokenScores | None = None
    differentiates_entropy: bool = False
    keep_bytes: int = 0
    measures: Sequence[HeadNeed[Any]] = ()
    measured: list[Tensor] = field(default_factory=list)


def logprob_entropy_head(
    *,
    hidden_states: Tensor,
    output_layer: Any,
    output_weight: Tensor | None,
    context: HeadInputs,
    config: PolicyConfig,
    **_: Any,
) -> TokenScores:
    """What the policy says of a micro-batch's response tokens, in its flat order.

    float32 `[num_tokens]` each, the same on all tensor-parallel and context-parallel ranks; 0 for
    tokens that are not counted.

    Args:
        hidden_states: `[T / cp, 1, hidden]`, `[T / cp / tp, 1, hidden]` with sequence parallelism.
        output_layer: Megatron's; holds this rank's rows of the output weight, unless tied.
        output_weight: the embedding's rows where they are.
    """
    if config.sequence_parallel:
        # The op's backward has summed over the parts of the vocabulary: this one only splits.
        hidden_states = gather_from_sequence_parallel_region(
            hidden_states, tensor_parallel_output_grad=False, group=output_layer.tp_group
        )
    micro_batch, known, temperature = context.micro_batch, context.known, context.temperature
    places, num_tokens = micro_batch.places, micro_batch.num_tokens
    weight = output_layer.weight if output_weight is None else output_weight
    hidden = hidden_states.squeeze(1).index_select(0, micro_batch.rows)
    if isinstance(temperature, Tensor):
        temperature = temperature[places]
    held = linear_token_scores(
        hidden,
        weight,
        micro_batch.targets,
        temperature=temperature,
        vocab_size=config.vocab_size,
        group=output_layer.tp_group,
        differentiable_entropy=context.differentiates_entropy,
        # Megatron's data parallelism attaches it; without, autograd carries the gradient. Its flag
        # `grad_added_to_main_grad` stays unset: a tied embedding's own gradient is yet to be added.
        main_grad=getattr(weight, "main_grad", None),
        keep_bytes=context.keep_bytes,
        known=None if known is None else known.at(places),
    )
    view = HeadView(
        hidden.detach(), weight, held, temperature, config, output_layer.tp_group, context.cp_group
    )
    with torch.no_grad():
        context.measured.extend(measure(need, view, micro_batch) for need in context.measures)
    return TokenScores(*gather_scores(torch.stack(held), places, num_tokens, context.cp_group))
