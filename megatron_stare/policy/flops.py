"""The arithmetic of the network, in floating-point operations (a multiply-add is two)."""

from __future__ import annotations

from megatron_stare.data.packing import SampleCost
from megatron_stare.model_shape import ModelShape


def sample_cost(shape: ModelShape) -> SampleCost:
    """FLOPs of a sample's forward pass; a backward pass takes twice that, in every term.

    A token takes 2 for each weight of the layers' matrix products, one that predicts a counted
    response token 2 for each weight of the output layer too. Of experts, those of the token count,
    and the router. A query and a key it may attend to take 2 per channel for their score and 2 for
    the weighted value; causal attention has n^2 / 2 such pairs.
    """
    queries = shape.num_heads * shape.head_dim
    keys_and_values = 2 * shape.num_kv_heads * shape.head_dim
    moe = shape.moe
    ffn = (
        3 * shape.ffn_size * moe.experts_per_token + moe.num_experts if moe else 3 * shape.ffn_size
    )
    layer = shape.hidden_size * (2 * queries + keys_and_values + ffn)
    return SampleCost(
        per_token=2 * shape.num_layers * layer,
        per_loss_token=2 * shape.hidden_size * shape.vocab_size,
        per_token_pair=2 * shape.num_layers * queries,
    )
