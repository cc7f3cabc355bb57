"""From hidden states to log-probs and entropies, in place of Megatron's LM head.

`logprob_entropy_head` is an `output_processor` for `GPTModel.forward`: it gets the hidden states
after the final norm, keeps the rows that predict a response token, and leaves logits to the op.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from torch import Tensor

from megatron_stare.ops.logprob_entropy import linear_logprob_entropy
from megatron_stare.policy.model import PolicyConfig


@dataclass(frozen=True, slots=True)
class HeadRows:
    """Where log-probs are wanted: the `output_processor_context`.

    rows     int64 [n]  packed positions whose hidden state predicts a response token
    targets  int64 [n]  those tokens
    temperature         divides the logits
    """

    rows: Tensor
    targets: Tensor
    temperature: float


def logprob_entropy_head(
    *,
    hidden_states: Tensor,
    output_layer: Any,
    output_weight: Tensor | None,
    context: HeadRows,
    config: PolicyConfig,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Log-prob and entropy in nats, float32 `[n]` each, the same on all tensor-parallel ranks.

    Args:
        hidden_states: `[T, 1, hidden]`, or `[T / tp, 1, hidden]` under sequence parallelism.
        output_layer: Megatron's; holds this rank's rows of the output weight, unless tied.
        output_weight: the embedding's rows where they are.
    """
    if config.sequence_parallel:
        # The op's backward has summed over the parts of the vocabulary: this one only splits.
        hidden_states = gather_from_sequence_parallel_region(
            hidden_states, tensor_parallel_output_grad=False, group=output_layer.tp_group
        )
    return linear_logprob_entropy(
        hidden_states.squeeze(1).index_select(0, context.rows),
        output_layer.weight if output_weight is None else output_weight,
        context.targets,
        temperature=context.temperature,
        vocab_size=config.vocab_size,
        group=output_layer.tp_group,
    )
